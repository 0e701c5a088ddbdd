"""What is known of a job and of its inputs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

FINAL = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Slot:
    """A place for an upload.

    Attributes:
        slot: `0`, `1`, ... for channels; `mask` and `reference` of evaluations.
        name: What the user calls the file; shown to its owner only.
        suffix: Ending by which it is stored, one of the accepted ones.
    """

    slot: str
    name: str
    suffix: str

    @property
    def file(self) -> str:
        """Name under which it is stored; nothing of the user's name is in it."""
        return f"{self.slot.zfill(4) if self.slot.isdecimal() else self.slot}{self.suffix}"


@dataclass(frozen=True)
class Received:
    """An upload that lies on the disk."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """A prediction or an evaluation, as stored.

    Attributes:
        state: `waiting`, `queued`, `running`, `done`, `failed` or `cancelled`.
        tries: How often a worker has started it, without the starts that ended with the server.
        error: Code, detail and hint if it failed.
        request: Hash of the request that made it, to tell a repetition from a clash of keys.
    """

    seq: int
    id: str
    kind: str
    model: str
    owner: str
    state: str
    name: str
    options: dict[str, Any]
    slots: tuple[Slot, ...]
    created_s: float
    started_s: float | None
    finished_s: float | None
    expires_s: float
    tries: int
    error: dict[str, Any] | None
    review: dict[str, Any] | None
    request: str | None
    inputs: dict[str, Received] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in FINAL


def new_id(kind: str) -> str:
    """Returns an id nobody can guess: `p_` or `e_` and 128 random bits."""
    return f"{'e' if kind == 'evaluation' else 'p'}_{secrets.token_hex(16)}"
