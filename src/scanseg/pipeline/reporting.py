"""The verb `report`."""

from pathlib import Path

from scanseg.errors import ModelError
from scanseg.reporting.report import write_report


def report(run: Path | str) -> Path:
    """Writes report.html of a run folder from its files and returns its path.

    Raises:
        ModelError: The folder is no run.
    """
    folder = Path(run)
    if not (folder / "run.json").is_file():
        raise ModelError(
            f"{folder} is not a run folder: it holds no run.json.",
            code="E-RUN-MISSING",
            hint="Give the folder that `scanseg train -o` wrote.",
        )
    return write_report(folder)
