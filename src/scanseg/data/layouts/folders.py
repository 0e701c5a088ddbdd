"""Two folders, images and labels, whose file names agree more or less."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from scanseg.data.layouts.found import Found, Layout, Source
from scanseg.data.layouts.metadata import read_metadata
from scanseg.data.layouts.pairing import (
    LABEL_SUFFIXES,
    channel_gaps,
    list_images,
    one_file_each,
    pair,
    same_name,
    split_channel,
    stem_of,
)
from scanseg.errors import DataError, Finding

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "segmentations", "annotations", "gt")
LABEL_WORDS = "seg|dseg|segmentation|mask|masks|label|labels|labelmap|annotation|gt|groundtruth"
IMAGE_WORDS = "img|image|images"


def recognises(source: Source) -> bool:
    """Tells whether the root holds a folder of images and one of labels under a usual name."""
    return _subfolder(source.root, IMAGE_FOLDERS) is not None and (
        _subfolder(source.root, LABEL_FOLDERS) is not None
    )


def read(source: Source) -> Found:
    """Finds the pairs in the folders `images` and `labels` of the root.

    Raises:
        DataError: There are no such folders, or `dataset.json` makes no sense.
    """
    images = _subfolder(source.root, IMAGE_FOLDERS)
    labels = _subfolder(source.root, LABEL_FOLDERS)
    if images is None or labels is None:
        missing = "images" if images is None else "labels"
        raise DataError(
            f"{source.root} holds no folder of {missing}.",
            code="E-DATASET-FOLDERS",
            hint="Name the folders yourself with --images FOLDER --labels FOLDER.",
        )
    return read_pair(source, images, labels)


def read_pair(source: Source, images: Path, labels: Path) -> Found:
    """Finds the pairs of two given folders.

    A label belongs to an image when their names agree: exactly, or without a word for what the file is
    (`_seg`, `_mask`, `_label`, `img_`, ...), or without a channel number (`_0000`). The first of these that
    fits is taken, so `scan_0001` and `scan_0002` stay two cases where both have a label of that name.

    Raises:
        DataError: `dataset.json` makes no sense.
    """
    metadata = read_metadata(source)
    findings: list[Finding] = []
    label_files = [(stem_of(path), path) for path in list_images(labels, findings, suffixes=LABEL_SUFFIXES)]
    keys = _label_keys(stem for stem, _ in label_files)
    image_files = [(stem_of(path), path) for path in list_images(images, findings)]
    placed = _place_images([stem for stem, _ in image_files], keys)
    by_case = one_file_each(((*placed[stem], path) for stem, path in image_files), findings, what="image")
    findings.extend(channel_gaps(by_case, metadata.channel_names))
    case_of_name = {same_name(case_id): case_id for case_id in by_case}
    labels_by_case = one_file_each(
        ((_label_case(stem, case_of_name), 0, path) for stem, path in label_files), findings, what="label"
    )
    cases, unlabelled = pair(
        by_case, {case_id: files[0] for case_id, files in labels_by_case.items()}, findings
    )
    return Found(
        name=metadata.name,
        cases=cases,
        unlabelled=unlabelled,
        channel_names=metadata.channel_names,
        labels=metadata.labels,
        facts=metadata.facts,
        findings=tuple(findings),
    )


def _subfolder(root: Path, names: Iterable[str]) -> Path | None:
    if not root.is_dir():
        return None
    by_name = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((by_name[name] for name in names if name in by_name), None)


def name_variants(stem: str, words: str) -> list[str]:
    """Returns the stem, then the stem without a word such as `_seg` behind it or `seg_` before it.

    Example:
        >>> name_variants("heart_014_seg", LABEL_WORDS)
        ['heart_014_seg', 'heart_014']
        >>> name_variants("mask-7", LABEL_WORDS)
        ['mask-7', '7']
    """
    behind = re.sub(rf"[_\-. ]({words})$", "", stem, flags=re.IGNORECASE)
    before = re.sub(rf"^({words})[_\-. ]", "", stem, flags=re.IGNORECASE)
    return list(dict.fromkeys(same_name(variant) for variant in (stem, behind, before) if variant))


def _label_keys(stems: Iterable[str]) -> set[str]:
    return {variant for stem in stems for variant in name_variants(stem, LABEL_WORDS)}


def _image_places(stem: str) -> list[tuple[str, int | None]]:
    """Returns the cases and channels an image may be, the likeliest first; None is no channel number."""
    case_id, channel = split_channel(stem)
    places: list[tuple[str, int | None]] = [(name, None) for name in name_variants(stem, IMAGE_WORDS)]
    if channel is not None:
        places.extend((name, channel) for name in name_variants(case_id, IMAGE_WORDS))
    return places


def _place_images(stems: list[str], label_keys: set[str]) -> dict[str, tuple[str, int]]:
    """Returns stem -> (case, channel).

    An image without a label counts as a numbered channel where the images with labels do.
    """
    placed: dict[str, tuple[str, int | None]] = {}
    for stem in stems:
        fitting = [place for place in _image_places(stem) if same_name(place[0]) in label_keys]
        if fitting:
            placed[stem] = fitting[0]
    numbered = any(channel is not None for _, channel in placed.values())
    for stem in stems:
        placed.setdefault(stem, split_channel(stem) if numbered else (stem, None))
    return {stem: (case_id, channel or 0) for stem, (case_id, channel) in placed.items()}


def _label_case(stem: str, case_of_name: Mapping[str, str]) -> str:
    """Returns the case a label belongs to, its own stem where no image fits."""
    variants = name_variants(stem, LABEL_WORDS)
    return next((case_of_name[variant] for variant in variants if variant in case_of_name), stem)


LAYOUT = Layout("images/ and labels/, names matched", recognises, read)
