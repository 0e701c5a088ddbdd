"""Preprocessed cases on disk: blosc2 arrays, JSON, npz; nothing in them executes when loaded."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.errors import DataError
from scanseg.files import read_json, write_json, written_aside
from scanseg.types import Array, Shape

STORE_VERSION = 1


@dataclass(frozen=True)
class Preprocessed:
    """A case as the network sees it, axes in network order (`Plan.transpose_forward`).

    Attributes:
        data: (C, z, y, x) float32, cropped, normalised, resampled; 2D images have z = 1.
        seg: (1, z, y, x) int16 class indices; -1 outside the body, where all channels were zero.
        properties: What the way back needs; plain JSON values.
        class_locations: Voxels (n, 4) int32 as (0, z, y, x) of each class, to sample foreground patches from;
            empty for images without labels.
    """

    data: Array
    seg: Array
    properties: dict[str, Any]
    class_locations: dict[int, Array] = field(default_factory=dict)


class PreprocessedStore:
    """The finished cases in a folder.

    Args:
        folder: Where `preprocess_dataset` wrote.

    Raises:
        DataError: The folder holds no finished case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        markers = [read_json(path) for path in sorted(self.folder.glob("*.json"))]
        self._stems = {marker["case_id"]: file_stem(marker["case_id"]) for marker in markers}
        if not self._stems:
            raise DataError(
                f"{folder} holds no preprocessed case.",
                code="E-STORE-EMPTY",
                hint="Run the training command again; it preprocesses first.",
            )

    @property
    def identifiers(self) -> list[str]:
        """The case ids, sorted."""
        return sorted(self._stems)

    def load_case(self, case_id: str, *, locations: bool = True) -> Preprocessed:
        """Returns a case; `data` and `seg` are blosc2 arrays that read from disk only what is indexed.

        Args:
            case_id: One of `identifiers`.
            locations: Also read the class locations, which are large where there are many classes.

        Raises:
            DataError: The store has no such case, or its files are damaged.
        """
        import blosc2

        if case_id not in self._stems:
            raise DataError(
                f"Case {case_id} is not preprocessed in {self.folder}.",
                code="E-STORE-MISSING",
                hint="Run the training command again; it preprocesses what is missing.",
            )
        stem = self.folder / self._stems[case_id]
        # Memory mapping of blosc2 files fails on Windows.
        options = {} if os.name == "nt" else {"mmap_mode": "r"}
        try:
            data, seg = (
                blosc2.open(urlpath=f"{stem}{ending}", mode="r", dparams={"nthreads": 1}, **options)
                for ending in (".b2nd", ".seg.b2nd")
            )
            places = _read_locations(Path(f"{stem}.npz")) if locations else {}
        except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"The preprocessed files of case {case_id} cannot be read ({error}).",
                code="E-STORE-DAMAGED",
                hint=f"Delete {stem}.json and run the command again.",
            ) from error
        return Preprocessed(data, seg, read_json(Path(f"{stem}.json"))["properties"], places)


def _read_locations(path: Path) -> dict[int, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {int(name): archive[name] for name in archive.files}


def file_stem(case_id: str) -> str:
    """Returns a file name for a case that every file system accepts; distinct for distinct ids.

    Example:
        >>> file_stem("patient_7"), file_stem("../7")
        ('patient_7', 'case.beae2509d5e715099503c237')
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", case_id):
        return case_id
    return f"case.{hashlib.sha256(case_id.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


def save_case(
    folder: Path, case_id: str, case: Preprocessed, patch_size: Shape, facts: Mapping[str, Any]
) -> None:
    """Writes a case; its marker, which makes it count as finished, comes last.

    Args:
        folder: The store.
        case_id: Name of the case.
        case: Its arrays.
        patch_size: Patches that will be read; the blocks on disk are cut for it.
        facts: Written into the marker, for `is_finished`.
    """
    stem = folder / file_stem(case_id)
    marker = Path(f"{stem}.json")
    marker.unlink(missing_ok=True)
    files = {ending: Path(f"{stem}{ending}") for ending in (".b2nd", ".seg.b2nd", ".npz")}
    _write_blosc2(files[".b2nd"], case.data, patch_size)
    _write_blosc2(files[".seg.b2nd"], case.seg, patch_size)
    with written_aside(files[".npz"]) as temporary:
        arrays: dict[str, Any] = {str(label): voxels for label, voxels in case.class_locations.items()}
        np.savez(temporary, **arrays)
    sizes = {ending: path.stat().st_size for ending, path in files.items()}
    write_json(marker, {**facts, "case_id": case_id, "sizes": sizes, "properties": case.properties})


def read_marker(folder: Path, case_id: str) -> dict[str, Any] | None:
    """Returns the marker of a finished case; None if it is unfinished or its files are not those written."""
    stem = folder / file_stem(case_id)
    try:
        marker = read_json(Path(f"{stem}.json"))
        whole = all(Path(f"{stem}{end}").stat().st_size == size for end, size in marker["sizes"].items())
    except (DataError, OSError, KeyError, AttributeError, TypeError):
        return None
    return marker if whole else None


def _write_blosc2(path: Path, array: Array, patch_size: Shape) -> None:
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    blocks, chunks = comp_blosc2_params(array.shape, patch_size, array.itemsize)
    settings = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1, "filters": [blosc2.Filter.SHUFFLE]}
    with written_aside(path) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(temporary),
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams=settings,
            # The file's header names both numbers of threads; equal cases are equal files.
            dparams={"nthreads": 1},
        )
