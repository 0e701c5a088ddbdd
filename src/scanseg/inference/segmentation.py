"""Predictions of DICOM series as DICOM segmentations."""

from pathlib import Path

from scanseg.inference.predict import Model, Prediction


def save_segmentation(
    path: Path, prediction: Prediction, source: Path, model: Model, *, uid_seed: str | None = None
) -> None:
    """Writes a mask as a DICOM segmentation that names its model.

    Args:
        path: Usually `CASE.dcm`.
        prediction: Of `source`.
        source: Folder or zip archive of the series.
        model: What made it.
        uid_seed: See `write_segmentation`.

    Raises:
        UsageError: The prediction was not made from a DICOM series.
        DataError: The series lacks what a segmentation must repeat.
    """
    from scanseg import __version__
    from scanseg.data.dicom_seg import Algorithm, write_segmentation

    algorithm = Algorithm(model.config["network"]["name"], __version__, model.weights_sha256[0])
    write_segmentation(
        path,
        prediction.mask,
        prediction.labels,
        prediction.geometry,
        source,
        algorithm,
        uid_seed=uid_seed,
    )
