"""What the command line prints: progress, tables, findings, errors, JSON."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from scanseg.errors import DatasetError, Error, Finding
from scanseg.progress import Progress, Report, silent
from scanseg.reporting.tables import number_columns

PIPE_WIDTH = 140
LINE_EVERY_S = 10

STAGES = {
    "check": "Checking the data",
    "fingerprint": "Measuring the data",
    "preprocess": "Preparing the images",
    "train": "Training",
    "predict": "Predicting",
    "validate": "Predicting held-out cases",
    "evaluate": "Measuring the masks",
    "bench": "Timing",
}


@dataclass
class Output:
    """Where results and messages go.

    Results go to stdout: text for people, or with `json` one JSON document. Progress and messages go to
    stderr, so that stdout can be piped.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    color: bool = True
    out: Console = field(init=False)
    err: Console = field(init=False)

    def __post_init__(self) -> None:
        self.out = _console(sys.stdout.isatty(), no_color=not self.color)
        self.err = _console(sys.stderr.isatty(), no_color=not self.color, stderr=True)

    def say(self, text: str) -> None:
        """Prints a line of rich markup for people; nothing with --json or --quiet."""
        if not self.json and not self.quiet:
            self.out.print(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Prints a table; nothing with --json or --quiet."""
        table = Table(title=title or None, title_justify="left", header_style="bold")
        for column, number in zip(columns, number_columns(columns, rows), strict=True):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        if not self.json and not self.quiet:
            self.out.print(table)

    def result(self, document: Mapping[str, Any]) -> None:
        """Prints the JSON document of a verb with --json; nothing otherwise."""
        if self.json:
            sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
            sys.stdout.flush()

    def findings(self, findings: Sequence[Finding]) -> None:
        """Prints every finding of a check with its remedy."""
        colours = {"error": "red", "warning": "yellow", "info": "cyan"}
        for finding in findings:
            where = f"{finding.case_id}: " if finding.case_id else ""
            head = f"[{colours[finding.level]}]{finding.code}[/]"
            self.say(f"{head}  {escape(where + finding.text)}")
            if finding.hint:
                self.say(f"    Fix: {escape(finding.hint)}")

    def error(self, error: Error) -> None:
        """Prints an error and its remedy; with --json as a document on stdout."""
        findings = error.findings if isinstance(error, DatasetError) else ()
        if self.json:
            document = {"code": error.code, "message": error.message, "hint": error.hint}
            self.result({"error": document, "findings": [finding.as_dict() for finding in findings]})
            return
        self.err.print(f"[bold red]{error.code}[/]  {escape(error.message)}")
        if error.hint:
            self.err.print(f"  Fix: {escape(error.hint)}")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Report]:
        """Yields a reporter: bars on a terminal, JSON lines with --json, sparse lines elsewhere."""
        if self.quiet:
            yield silent
        elif self.json:
            yield _json_lines
        elif self.err.is_terminal:
            with _Bars(self.err) as bars:
                yield bars
        else:
            yield _Lines()


def _console(terminal: bool, **options: bool) -> Console:
    width = None if terminal else PIPE_WIDTH
    return Console(width=width, soft_wrap=True, highlight=False, **options)  # type: ignore[arg-type]


def _describe(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def format_seconds(seconds: float | None) -> str:
    """Returns a duration as people say it.

    Example:
        >>> format_seconds(75.2), format_seconds(7300), format_seconds(None)
        ('1:15', '2:01:40', '?')
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _json_lines(progress: Progress) -> None:
    line = {
        "event": "progress",
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "eta_s": None if progress.eta_s is None else round(progress.eta_s, 1),
        "message": progress.message,
        **progress.values,
    }
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


class _Lines:
    """One line when a stage starts and ends, and at most one every ten seconds between."""

    def __init__(self) -> None:
        self._stage, self._last_s, self._complete = "", 0.0, False

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        new = progress.stage != self._stage
        complete = progress.done >= progress.total
        finishing = complete and not self._complete
        if not new and not finishing and now - self._last_s < LINE_EVERY_S:
            return
        self._stage, self._last_s, self._complete = progress.stage, now, complete
        name = STAGES.get(progress.stage, progress.stage)
        parts = [f"{name} {progress.done}/{progress.total}", _describe(progress.values), progress.message]
        if progress.eta_s is not None and progress.done < progress.total:
            parts.append(f"{format_seconds(progress.eta_s)} left")
        sys.stderr.write("  ".join(part for part in parts if part) + "\n")
        sys.stderr.flush()


class _Bars:
    """A bar per stage with the estimate of the one who knows: the stage itself."""

    def __init__(self, console: Console) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("[dim]{task.fields[text]}"),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        stage = progress.stage
        if stage not in self._tasks:
            name = STAGES.get(stage, stage)
            self._tasks[stage] = self._bars.add_task(name, total=progress.total, left="", text="")
        finished = progress.done >= progress.total
        left = "" if finished or progress.eta_s is None else f"{format_seconds(progress.eta_s)} left"
        text = escape("  ".join(part for part in (_describe(progress.values), progress.message) if part))
        self._bars.update(
            self._tasks[stage], completed=progress.done, total=progress.total, left=left, text=text
        )


def configure_logging(*, verbose: bool) -> None:
    """Sends the package's log to stderr: warnings, or everything with --verbose."""
    logger = logging.getLogger("scanseg")
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
