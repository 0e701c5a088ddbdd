"""The same prediction as a command, with curl and in Python. No name of a user's file stands in them."""

from __future__ import annotations

import json
import shlex
from typing import Any

from scanseg.server.models import ServedModel

_DEFAULTS: dict[str, Any] = {
    "tta": False,
    "step_size": 0.5,
    "probabilities": False,
    "uncertainty": True,
    "nan_fill": None,
    "spacing": None,
}


def snippets(
    model: ServedModel, options: dict[str, Any], *, base: str, suffix: str = ".nii.gz", token: bool
) -> dict[str, str]:
    """Returns `cli`, `curl` and `python`.

    Args:
        model: Which one.
        options: Of the prediction; those at their default are left out.
        base: URL of the server.
        suffix: Ending of the example's file names.
        token: Whether the server needs one; it is read from SCANSEG_TOKEN, never written out.
    """
    changed = {key: value for key, value in options.items() if value != _DEFAULTS.get(key)}
    count = len(model.channels)
    files = [f"scan{suffix}"] if count == 1 else [f"scan_{i:04d}{suffix}" for i in range(count)]
    return {
        "cli": _cli(files, changed, str(model.run)),
        "curl": _curl(model.id, files, changed, base, token),
        "python": _python(model.id, files, changed, base, token),
    }


def _cli(files: list[str], changed: dict[str, Any], run: str) -> str:
    words = ["scanseg", "predict", *files, "-m", run.rstrip("/").rpartition("/")[2], "-o", "masks"]
    if changed.get("tta"):
        words.append("--tta")
    if changed.get("probabilities"):
        words.append("--probabilities")
    for key in ("step_size", "nan_fill"):
        if changed.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", f"{changed[key]:g}"]
    if changed.get("spacing"):
        words += ["--spacing", ",".join(f"{step:g}" for step in changed["spacing"])]
    return shlex.join(words)


def _curl(model: str, files: list[str], changed: dict[str, Any], base: str, token: bool) -> str:
    head = ["curl", "--fail-with-body"]
    secret = ' -H "Authorization: Bearer $SCANSEG_TOKEN"' if token else ""
    if len(files) == 1:
        query = "".join(f"&{key}={_worded(value)}" for key, value in changed.items())
        url = f"{base}/api/v1/predictions?model={model}{query}&wait=60"
        return (
            f"{shlex.join(head)}{secret} -T {files[0]} -H 'X-Scanseg-Name: {files[0]}' {shlex.quote(url)}\n"
            f"{shlex.join(head)}{secret} -o mask{files[0][4:]} {base}/api/v1/predictions/ID/mask"
        )
    body = json.dumps({"model": model, "inputs": [{"name": name} for name in files], "options": changed})
    lines = [
        f"{shlex.join(head)}{secret} -H 'Content-Type: application/json' -d {shlex.quote(body)} "
        f"{base}/api/v1/predictions"
    ]
    for index, name in enumerate(files):
        lines.append(f"{shlex.join(head)}{secret} -T {name} {base}/api/v1/predictions/ID/inputs/{index}")
    lines.append(f"{shlex.join(head)}{secret} -o mask{files[0][9:]} {base}/api/v1/predictions/ID/mask")
    return "\n".join(lines)


def _worded(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(f"{part:g}" for part in value)
    return f"{value:g}"


def _python(model: str, files: list[str], changed: dict[str, Any], base: str, token: bool) -> str:
    secret = ', token=os.environ["SCANSEG_TOKEN"]' if token else ""
    what = repr(files[0]) if len(files) == 1 else repr(files)
    extra = "".join(f", {key}={value!r}" for key, value in changed.items())
    return (
        ("import os\n\n" if token else "")
        + "from scanseg.client import Client\n\n"
        + f"with Client({base!r}{secret}) as client:\n"
        + f"    result = client.predict({what}, model={model!r}{extra})\n"
        + '    result.save_mask("mask")\n'
        + "    print(result.next_steps)\n"
    )
