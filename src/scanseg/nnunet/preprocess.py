"""From images to the arrays that training reads, with nnU-Net's own preprocessor."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.data.dicom_files import content_sha256, content_stamp
from scanseg.errors import DataError, Error
from scanseg.nnunet.cases import as_volume, read_case, training_cases
from scanseg.nnunet.plan import Configuration, Plan
from scanseg.nnunet.sharpen import sharpen
from scanseg.nnunet.store import (
    STORE_VERSION,
    Preprocessed,
    PreprocessedStore,
    read_marker,
    save_case,
)
from scanseg.progress import Eta, Progress, Report, silent
from scanseg.types import Array, Case, Image, Spacing

if TYPE_CHECKING:
    from scanseg.data.dataset import Dataset

__all__ = ["Preprocessed", "PreprocessedStore", "preprocess_case", "preprocess_dataset"]

_HOUR_S = 3600.0


def preprocess_case(
    image: Image, label: Array | None, plan: Plan, configuration: str | Configuration
) -> Preprocessed:
    """Crops one case to its non-zero part, normalises and resamples it with nnU-Net's own code; sharpens it.

    Args:
        image: Turned to the plan's orientation.
        label: Class indices (*spatial) of the same size, or None; then `seg` only marks what was zero.
        plan: The plan.
        configuration: One of its configurations.

    Returns:
        The case. A constant image becomes all zeros. An axis so thin that it would vanish keeps one voxel.

    Raises:
        DataError: The image has another number of channels or dimensions than the plan, or values so large
            that they overflow when normalised.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    from scanseg.nnunet.stock import managers

    _check_image(image, plan)
    data, spacing = as_volume(image.array, image.geometry.spacing)
    seg = None if label is None else as_volume(np.asarray(label, np.int16)[None], spacing[-label.ndim :])[0]
    spacing = _without_vanishing_axes(data, spacing, plan, plan.configuration(configuration))
    plans, stock, description = managers(plan, configuration)
    with warnings.catch_warnings():
        # An empty image has no mean; the values are checked below.
        warnings.simplefilter("ignore", RuntimeWarning)
        data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            data, seg, {"spacing": list(spacing)}, plans, stock, description
        )
    chosen = plan.configuration(configuration)
    data = sharpen(
        data,
        amount=chosen.sharpen_amount,
        radius=chosen.sharpen_radius,
        spatial_dims=chosen.spatial_dims,
    )
    if not np.isfinite(data).all():
        raise DataError(
            f"Values from {image.array.min():g} to {image.array.max():g} overflow when normalised.",
            code="E-IMAGE-RANGE",
            hint="Rescale the image to a smaller range.",
        )
    locations = {
        label: np.asarray(voxels, np.int32).reshape(-1, 4)
        for label, voxels in properties.pop("class_locations", {}).items()
    }
    return Preprocessed(data, seg.astype(np.int16, copy=False), _plain(properties), locations)


def _check_image(image: Image, plan: Plan) -> None:
    if len(image.array) != plan.in_channels:
        raise DataError(
            f"The image has {len(image.array)} channels, the plan {plan.in_channels} "
            f"({', '.join(plan.channel_names)}).",
            code="E-IMAGE-CHANNELS",
        )
    if image.array.ndim - 1 != plan.spatial_dims:
        raise DataError(
            f"The image is {image.array.ndim - 1}D, the plan is for {plan.spatial_dims}D images.",
            code="E-IMAGE-DIMENSIONS",
        )


def _without_vanishing_axes(
    data: Array, spacing: Sequence[float], plan: Plan, configuration: Configuration
) -> Spacing:
    """Returns the spacing, enlarged along axes that resampling would otherwise round to zero voxels."""
    nonzero = np.any(data != 0, axis=0)
    extent = []
    for axis in range(3):
        hit = np.flatnonzero(nonzero.any(axis=tuple(other for other in range(3) if other != axis)))
        extent.append(hit[-1] - hit[0] + 1 if hit.size else data.shape[axis + 1])
    target = dict(
        zip(plan.transpose_forward[-configuration.spatial_dims :], configuration.spacing, strict=True)
    )
    return tuple(
        target[axis] / size if axis in target and round(size * length / target[axis]) < 1 else length
        for axis, (size, length) in enumerate(zip(extent, spacing, strict=True))
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _Job:
    case: Case
    dataset: Dataset
    plan: Plan
    configuration: str
    folder: Path
    key: str


def preprocess_dataset(
    dataset: Dataset,
    plan: Plan,
    configuration: str | Configuration,
    folder: Path,
    *,
    workers: int = 0,
    report: Report = silent,
) -> None:
    """Preprocesses every labelled case into `folder`, where `PreprocessedStore` finds them.

    A case is finished when its marker is written, last. A second call redoes only cases that are unfinished
    or whose image, label or plan changed. It may be killed at any time.

    Args:
        dataset: The dataset.
        plan: The plan.
        configuration: One of its configurations.
        folder: The store; created.
        workers: Processes; 0 works in this one, which needs least memory.
        report: Told about each case.

    Raises:
        DataError: A case cannot be preprocessed; names the case, the cause is the original exception.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    chosen = plan.configuration(configuration).name
    key = _plan_key(plan, chosen)
    jobs = [_Job(case, dataset, plan, chosen, folder, key) for case in training_cases(dataset)]
    open_jobs = [job for job in jobs if not _is_finished(job)]
    done, eta = len(jobs) - len(open_jobs), Eta(len(open_jobs))
    report(Progress("preprocess", done, len(jobs)))
    for count, case_id in enumerate(_run(open_jobs, workers), start=1):
        report(Progress("preprocess", done + count, len(jobs), eta(count), case_id))


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[str]:
    if workers < 1:
        for job in jobs:
            yield _preprocess(job)
        return
    left = {job.case.case_id: job for job in jobs}
    # A killed worker breaks its whole pool; what is left is tried once more, one case at a time.
    for size in (workers, 1):
        try:
            for case_id in _pooled(list(left.values()), size):
                del left[case_id]
                yield case_id
            return
        except BrokenProcessPool as error:
            broken = error
    raise DataError(
        f"Preprocessing was killed, {len(left)} cases are left; the next is {next(iter(left))}.",
        code="E-PREPROCESS-KILLED",
        hint="Probably the memory ran out. Free some, or use fewer workers, and run the command again.",
    ) from broken


def _pooled(jobs: Sequence[_Job], workers: int) -> Iterator[str]:
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(_preprocess, job) for job in jobs]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _preprocess(job: _Job) -> str:
    name = job.case.case_id
    try:
        image, indices = read_case(job.case, job.dataset.labels, orientation=job.plan.orientation)
        case = preprocess_case(image, indices, job.plan, job.configuration)
        facts = {"key": job.key, "inputs": _inputs(job.case)}
        save_case(job.folder, name, case, job.plan.configuration(job.configuration).patch_size, facts)
    except Error as error:
        raise DataError(
            f"Case {name} cannot be preprocessed: {error.message}", code=error.code, hint=error.hint
        ) from error
    except Exception as error:
        raise DataError(
            f"Case {name} cannot be preprocessed: {type(error).__name__}: {error}", code="E-PREPROCESS-CASE"
        ) from error
    return name


def _inputs(case: Case) -> list[list[Any]]:
    """Returns path, size, time and hash of each file of a case."""
    facts = []
    for path in (*case.images, *([case.label] if case.label else [])):
        facts.append([str(path.resolve()), *content_stamp(path), content_sha256(path)])
    return facts


def _is_finished(job: _Job) -> bool:
    marker = read_marker(job.folder, job.case.case_id)
    if marker is None or marker.get("key") != job.key:
        return False
    paths = (*job.case.images, *([job.case.label] if job.case.label else []))
    known = marker.get("inputs", [])
    return len(known) == len(paths) and all(map(_is_unchanged, paths, known))


def _is_unchanged(path: Path, known: Sequence[Any]) -> bool:
    """Compares size and time, and the hash only where those differ (as after a copy)."""
    try:
        size, changed_ns = content_stamp(path)
    except OSError:
        return False
    if [str(path.resolve()), size, changed_ns] == list(known[:3]):
        return True
    return bool(size == known[1] and content_sha256(path) == known[3])


def _plan_key(plan: Plan, configuration: str) -> str:
    """Returns a hash of everything in the plan that preprocessing depends on."""
    stock = plan.nnunet["configurations"][configuration]
    wanted = [
        STORE_VERSION,
        version("nnunetv2"),
        plan.orientation,
        plan.transpose_forward,
        [[label.value, label.name] for label in plan.labels],
        plan.nnunet["foreground_intensity_properties_per_channel"],
        {key: stock[key] for key in stock if key.startswith(("spacing", "normal", "use_mask", "resampling"))},
    ]
    part = plan.configurations[configuration]
    if part.sharpen_amount:
        wanted.append({"sharpen": [part.sharpen_amount, part.sharpen_radius]})
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Removes what killed runs left; files younger than an hour may belong to a run beside this one."""
    for path in folder.glob(".tmp-*"):
        if time.time() - path.stat().st_mtime > _HOUR_S:
            path.unlink(missing_ok=True)
