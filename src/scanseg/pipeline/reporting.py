"""The verb `report`, for the screen and for paper."""

from pathlib import Path

from scanseg.errors import ModelError
from scanseg.reporting.pdf import load_weasyprint, write_pdf
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


def report_pdf(run: Path | str) -> Path:
    """Writes report.html of a run folder, and report.pdf from it; returns the path of the PDF.

    Raises:
        ModelError: The folder is no run.
        UsageError: WeasyPrint, or a library that it needs, is not installed.
        DataError: The report cannot be laid out.
    """
    load_weasyprint()
    page = report(run)
    return write_pdf(page, page.with_suffix(".pdf"))
