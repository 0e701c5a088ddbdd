"""The verb `demo`: the whole way on real images that ship with the package."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from scanseg.data.dataset import load_dataset
from scanseg.errors import UsageError
from scanseg.inference.predict import Model
from scanseg.pipeline.training import measure_cases, train
from scanseg.progress import Report, silent
from scanseg.reporting.report import write_report

TASKS = ("hippocampus", "nuclei")


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration found.

    Attributes:
        run: The run folder.
        report: Path of report.html.
        cases: Number of unseen cases.
        dice: Mean Dice over the unseen cases and labels.
        summary: Scores of the unseen cases.
        seconds: Wall time.
        citation: Of the images.
    """

    run: Path
    report: Path
    cases: int
    dice: float
    summary: dict[str, Any]
    seconds: float
    citation: str

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {**asdict(self), "run": str(self.run), "report": str(self.report)}


def demo(
    task: str = "hippocampus",
    *,
    output: Path | str | None = None,
    network: str = "umamba_bot",
    seed: int = 0,
    restart: bool = False,
    device: str = "auto",
    threads: int | None = None,
    report: Report = silent,
) -> DemoResult:
    """Checks, plans, trains, predicts cases the network never saw, measures them and writes a report.

    Args:
        task: `hippocampus` (3D MR) or `nuclei` (2D microscopy).
        output: Run folder; `demo/TASK` by default. A finished demo is shown again, a stopped one continued.
        network: Any registered network.
        seed: Of everything random.
        restart: Erase an earlier demo.
        device: As in `Model`; so is `threads`.
        report: Told about every stage.

    Raises:
        UsageError: The task is unknown.
    """
    if task not in TASKS:
        raise UsageError(f"Unknown task {task!r}.", code="E-DEMO-TASK", hint=f"Use {' or '.join(TASKS)}.")
    started_s = time.perf_counter()
    data = Path(str(files("scanseg"))) / "demo_data" / task
    run = Path(output) if output else Path("demo") / task
    train(
        data,
        run,
        recipe=f"demo_{task}",
        changes={"network": network, "seed": seed},
        fold="all",
        restart=restart,
        device=device,
        threads=threads,
        report=report,
    )
    dataset = load_dataset(data)
    model = Model(run, device=device, threads=threads)
    summary = measure_cases(model, dataset.test_cases, run / "unseen", stage="predict", report=report)
    return DemoResult(
        run,
        write_report(run),
        len(dataset.test_cases),
        summary["mean"]["dice"]["mean"],
        summary,
        time.perf_counter() - started_s,
        dataset.citation,
    )
