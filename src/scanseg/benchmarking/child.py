"""A fresh process that runs one task of this package and sends back what it yields, line by line."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import IO, Any

from scanseg.benchmarking.memory import CHILD_ENVIRONMENT

# What a child may run: name -> (module, generator of plain JSON values).
_TASKS = {
    "probe": ("scanseg.benchmarking.probe", "probe"),
    "network": ("scanseg.benchmarking.network", "probe"),
}
_MARK, _DONE = "scanseg-bench ", {"done": True}


def run_in_child(task: str, request: dict[str, Any], *, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Yields what the task yields in a process of its own.

    If the child fails, dies, or is silent for `timeout_s` seconds (it is ended then), the last value is
    `{"failed": reason}`.

    Args:
        task: `probe` or `network`.
        request: Arguments of the task, plain JSON values.
        timeout_s: Longest silence.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "scanseg.benchmarking.child", task],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **CHILD_ENVIRONMENT},
    )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    try:
        yield from _values(process, request, lines, timeout_s)
    finally:
        process.kill()
        process.wait()


def _values(
    process: subprocess.Popen[str],
    request: dict[str, Any],
    lines: queue.Queue[str | None],
    timeout_s: float,
) -> Iterator[dict[str, Any]]:
    if process.stdin is not None:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
    last_words = ""
    while True:
        try:
            line = lines.get(timeout=timeout_s)
        except queue.Empty:
            yield {"failed": f"no answer within {timeout_s:.0f} s"}
            return
        if line is None:
            break
        if line.startswith(_MARK):
            value = json.loads(line.removeprefix(_MARK))
            if value == _DONE:
                return
            yield value
        elif line.strip():
            last_words = line.strip()
    code = process.wait()
    yield {"failed": "killed, perhaps for lack of memory" if code < 0 else last_words or f"exit code {code}"}


def _pump(stream: IO[str] | None, lines: queue.Queue[str | None]) -> None:
    for line in stream or ():
        lines.put(line)
    lines.put(None)


def main() -> None:
    """Runs the task named by the first argument with the request from stdin."""
    module, function = _TASKS[sys.argv[1]]
    for value in getattr(import_module(module), function)(**json.load(sys.stdin)):
        _send(value)
    _send(_DONE)


def _send(value: dict[str, Any]) -> None:
    sys.stdout.write(_MARK + json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
