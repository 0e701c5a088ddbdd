"""The result of a benchmark: one JSON document, and its table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scanseg.benchmarking.measure import Timing
from scanseg.benchmarking.parity import Parity
from scanseg.errors import DataError
from scanseg.files import read_json, write_json, write_text

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Result(_Part):
    """One contender at one length.

    Attributes:
        contender: Its name.
        summary: What it is.
        skipped: Why it was not timed, or empty.
        length: Steps that were timed; None for networks.
        shortened: Whether these are fewer than the case has, for the limits of time and memory.
        threads: Of PyTorch and the kernels.
        parity: Distance from the float64 reference.
        agreement: At the timed length, distance from the kernel; None where that is the contender itself.
        timings: By pass: `forward`, `forward and backward`, `training step`.
        peak_extra_bytes: Memory of one call on top of its inputs; None where unknown.
        ratios: This divided by the baseline at the same length: `PASS` by the clock, `PASS, processor` by the
            processor, and `memory`.
        facts: Further numbers, for example parameters.
    """

    contender: str
    summary: str = ""
    skipped: str = ""
    length: int | None = None
    shortened: bool = False
    threads: int = 1
    parity: Parity | None = None
    agreement: Parity | None = None
    timings: dict[str, Timing] = Field(default_factory=dict)
    peak_extra_bytes: int | None = None
    ratios: dict[str, float] = Field(default_factory=dict)
    facts: dict[str, int] = Field(default_factory=dict)


def time_ratios(result: Result, other: Result) -> dict[str, float]:
    """Returns the times of a result divided by those of another, see `Result.ratios`."""
    ratios = {}
    for label, timing in result.timings.items():
        if label in other.timings:
            divisor = other.timings[label]
            ratios[label] = round(timing.median_ms / divisor.median_ms, 4)
            if divisor.cpu_ms > 0:
                ratios[f"{label}, processor"] = round(timing.cpu_ms / divisor.cpu_ms, 4)
    return ratios


def add_ratios(results: Iterable[Result], baseline: Result) -> None:
    """Fills in `ratios` of results at the same length: this divided by the baseline."""
    for result in results:
        result.ratios |= time_ratios(result, baseline)
        if result.peak_extra_bytes is not None and baseline.peak_extra_bytes:
            result.ratios["memory"] = round(result.peak_extra_bytes / baseline.peak_extra_bytes, 4)


class CaseResult(_Part):
    """All contenders on one case; `sizes` are its fields."""

    name: str
    summary: str = ""
    sizes: dict[str, Any]
    baseline: str
    results: list[Result]


class Document(_Part):
    """A benchmark.

    Attributes:
        schema_version: Of this form.
        kind: Which benchmark.
        command: The command line that repeats it.
        started: Local time, ISO 8601.
        seconds: How long it took.
        complete: False while it runs, or if it was interrupted.
        seed: Of inputs and of the order of turns.
        machine: As `machine_facts`.
        load: Processes that wanted a processor when it started, and when it ended.
        rules: Limits and tolerances that held.
        cases: The results.
    """

    schema_version: int = SCHEMA_VERSION
    kind: Literal["scan", "orders", "growth", "network"]
    command: str
    started: str
    seconds: float = 0.0
    complete: bool = False
    seed: int
    machine: dict[str, str]
    load: tuple[float | None, float | None] = (None, None)
    rules: dict[str, Any] = Field(default_factory=dict)
    cases: list[CaseResult] = Field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Writes KIND.json, KIND.md and KIND.png."""
        from scanseg.benchmarking.plot import draw
        from scanseg.benchmarking.tables import to_markdown

        write_json(folder / f"{self.kind}.json", self.model_dump(mode="json"))
        write_text(folder / f"{self.kind}.md", to_markdown(self))
        draw(self, folder / f"{self.kind}.png")


def load_document(path: Path) -> Document:
    """Returns the document in a JSON file.

    Raises:
        DataError: The file is missing, not JSON, or has another form.
    """
    content = read_json(path)
    try:
        return Document.model_validate(content)
    except ValidationError as error:
        raise DataError(
            f"{path} is no result of `scanseg bench` ({error.error_count()} faults).",
            code="E-BENCH-FORM",
            hint="Write it again with `scanseg bench`.",
        ) from error
