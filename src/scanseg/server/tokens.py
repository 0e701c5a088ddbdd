"""Tokens in a file that only its owner can read."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from scanseg.errors import UsageError
from scanseg.files import sync_folder
from scanseg.server.middleware import owner_of

_FORM = re.compile(r"[A-Za-z0-9_-]{22,200}")


def load_tokens(path: Path) -> tuple[dict[str, str], str | None]:
    """Returns owner -> token, and the token if it was made just now.

    A file that does not exist is made with one token of 256 random bits. An existing one holds a token a
    line; each is an owner of its own. Lines that start with `#` are left out.

    Raises:
        UsageError: Others can read the file, or a line is no token of at least 128 bits.
    """
    if not path.exists():
        token = secrets.token_urlsafe(32)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as stream:
            stream.write(token + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(path.parent)
        return {owner_of(token): token}, token
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UsageError(
            f"The token file {path} can be read by others.",
            code="E-SERVE-TOKEN-FILE",
            hint=f"Run: chmod 600 {path}",
        )
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens or not all(_FORM.fullmatch(token) for token in tokens):
        raise UsageError(
            f"The token file {path} must hold tokens of at least 22 letters, digits, - and _, one a line.",
            code="E-SERVE-TOKEN-FILE",
            hint="Delete it; the next start makes a new one.",
        )
    return {owner_of(token): token for token in tokens}, None
