"""The verb `dataset check`."""

from pathlib import Path

from scanseg.data.check import CheckResult, check_dataset
from scanseg.data.dataset import Dataset, load_dataset
from scanseg.files import write_json
from scanseg.progress import Report, silent


def check(
    data: Path | str,
    *,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    layout: str = "auto",
    allow_geometry_mismatch: bool = False,
    output: Path | str | None = None,
    report: Report = silent,
) -> tuple[Dataset, CheckResult]:
    """Reads every case of a dataset and returns the dataset with all findings.

    Args:
        data: Dataset folder, CSV file or dataset.json.
        images: Folder of images where it cannot be found from `data`.
        labels: Folder of label maps, likewise.
        layout: `auto` or the name of a layout.
        allow_geometry_mismatch: Accept images and labels that lie at different places.
        output: Folder for dataset.json and check.json; nothing is written without it.
        report: Told about each case.

    Raises:
        DataError: No dataset is recognised. Faults of cases are findings, not exceptions.
    """
    dataset = load_dataset(Path(data), layout=layout, images=images, labels=labels)
    result = check_dataset(dataset, report=report, allow_geometry_mismatch=allow_geometry_mismatch)
    if output is not None:
        dataset.to_json(Path(output) / "dataset.json")
        write_json(Path(output) / "check.json", result.as_dict())
    return dataset, result
