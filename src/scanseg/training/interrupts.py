"""Stopping in order: Ctrl-C and SIGTERM are noticed after the step at hand, so that it can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self


class Interrupts:
    """A context in which SIGINT, SIGTERM and SIGUSR1 set `requested` instead of ending the process.

    A second signal acts as usual, at once. Outside the main thread nothing is changed, for Python delivers
    signals to the main thread only. The former handlers come back at the end.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            names = ("SIGINT", "SIGTERM", "SIGUSR1")
            for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def leave(self) -> NoReturn:
        """Ends as the signal asked: KeyboardInterrupt for SIGINT, exit code 128 + number for others."""
        if self.requested is None or self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.requested)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}
