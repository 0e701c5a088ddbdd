"""Which prediction belongs to which reference."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from scanseg.data.case_label import SEGMENTATION_SUFFIX, is_segmentation
from scanseg.data.image import file_stem, image_suffix
from scanseg.data.layouts.pairing import LABEL_SUFFIXES
from scanseg.data.wording import counted, listed
from scanseg.errors import DataError, Finding


@dataclass(frozen=True)
class Pair:
    """A reference and its prediction, label maps or DICOM segmentations.

    Attributes:
        case_id: Its name.
        reference: The file.
        prediction: None where there is no prediction.
        image: What both were drawn on, where it is known; it gives two segmentations their slices.
    """

    case_id: str
    reference: Path
    prediction: Path | None
    image: Path | None = None


@dataclass(frozen=True)
class Matching:
    """The pairs of two folders, by case.

    Attributes:
        pairs: One per reference, sorted by case.
        extra_predictions: Cases with a prediction but no reference.
        findings: Names that fit more than one file.
    """

    pairs: tuple[Pair, ...]
    extra_predictions: tuple[str, ...]
    findings: tuple[Finding, ...]


def match_files(predictions: Path, references: Path) -> Matching:
    """Pairs the labels of two folders by their names without the ending, or two single files.

    Labels are label maps, and DICOM segmentations (CASE.dcm). Formats may differ. Where a name fits several
    predictions, for example a mask and its picture, the one in the format of the reference counts. Files that
    are no images are ignored, folders are not searched.

    Args:
        predictions: Folder, or one file.
        references: Folder, or one file; two files belong together whatever they are called.

    Raises:
        DataError: A path does not exist, a folder holds no image, one path is a file and the other a folder
            without its partner, or no name occurs in both.
    """
    if predictions.is_file() and references.is_file():
        return Matching((Pair(_stem(references), references, predictions),), (), ())
    ours, theirs = _images(predictions), _images(references)
    findings: list[Finding] = []
    pairs = []
    for case_id, files in sorted(theirs.items()):
        if len(files) > 1:
            findings.append(_ambiguous(case_id, files, "references"))
        candidates = ours.get(case_id, [])
        same = [file for file in candidates if _suffix(file) == _suffix(files[0])]
        candidates = same if len(same) == 1 else candidates
        if len(candidates) > 1:
            findings.append(_ambiguous(case_id, candidates, "predictions"))
        pairs.append(Pair(case_id, files[0], candidates[0] if candidates else None))
    if all(pair.prediction is None for pair in pairs):
        raise DataError(
            f"No prediction has the name of a reference: predictions are {listed(sorted(ours), most=3)}; "
            f"references are {listed(sorted(theirs), most=3)}.",
            code="E-EVALUATE-NOMATCH",
            hint="Predictions and references of one case need the same name; the endings may differ.",
        )
    return Matching(tuple(pairs), tuple(sorted(set(ours) - set(theirs))), tuple(findings))


def _images(path: Path) -> dict[str, list[Path]]:
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.", code="E-FILE-MISSING")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    images: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if file.is_file() and file.name.lower().endswith(LABEL_SUFFIXES) and not file.name.startswith("."):
            images[_stem(file)].append(file)
    if not images:
        raise DataError(
            f"{path} holds no image.",
            code="E-EVALUATE-EMPTY",
            hint=f"Label maps and segmentations end in {', '.join(LABEL_SUFFIXES)}.",
        )
    return images


def _stem(path: Path) -> str:
    return path.stem if is_segmentation(path) else file_stem(path)


def _suffix(path: Path) -> str:
    return SEGMENTATION_SUFFIX if is_segmentation(path) else image_suffix(path)


def _ambiguous(case_id: str, files: list[Path], what: str) -> Finding:
    return Finding(
        "E-DATA-TWO-FILES",
        "error",
        f"{counted(len(files), 'file')} could be its {what}: {listed([file.name for file in files])}.",
        case_id,
        "Keep one of them in the folder.",
    )
