"""What the service does with one image: predict, measure, write all that a reader may ask for.

The files of a case are written to one folder; nothing in their names or content tells who the patient is
beyond what the image itself shows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.data.image import read_channels, write_array
from scanseg.errors import DataError, ModelError
from scanseg.files import read_json, write_json, written_aside
from scanseg.progress import Progress, Report, silent
from scanseg.types import Array, Geometry, Image

if TYPE_CHECKING:
    from scanseg.inference.predict import Model, Prediction

__all__ = [
    "ServeOptions",
    "blank_image",
    "load_model",
    "read_input",
    "read_view",
    "serve_image",
    "write_read_image",
]

_MOST_PROBABILITIES = 1 << 28
_EPSILON_MM = 1e-6


@dataclass(frozen=True)
class ServeOptions:
    """How an image is predicted; the words of `scanseg predict`.

    Attributes:
        tta: Average over mirrored images.
        step_size: Step of the sliding window in patches, in (0, 1].
        probabilities: Also write the probability of every label.
        uncertainty: Also write the entropy of every voxel, and give scores of the labels.
        nan_fill: Replaces NaN and infinite voxels; None refuses them.
        spacing: Voxel size (z, y, x) in mm for files that carry none.
    """

    tta: bool = False
    step_size: float = 0.5
    probabilities: bool = False
    uncertainty: bool = True
    nan_fill: float | None = None
    spacing: tuple[float, ...] | None = None


def load_model(run: Path, *, device: str, threads: int | None) -> Model:
    """Returns the model of a run folder, ready to predict; see `scanseg.load`."""
    from scanseg.inference.predict import Model

    return Model(run, device=device, threads=threads)


def blank_image(model: Model) -> Image:
    """Returns an image without content that a model accepts, one patch large."""
    network = model.config["network"]
    shape = tuple(int(n) for n in network["patch_size"])
    spacing = tuple(float(step) for step in model.config["spacing"])[-len(shape) :]
    affine = np.diag([*spacing[::-1], 1.0]) if len(shape) == 3 else None
    array = np.zeros((len(model.channel_names), *shape), np.float32)
    return Image(array, Geometry(shape, spacing, affine=affine))


def read_input(paths: Sequence[Path], options: ServeOptions) -> Image:
    """Returns the image of a case from its files, read under the limits of `scanseg.data`.

    Raises:
        DataError: A file is damaged, too large or does not fit the others.
    """
    return read_channels(paths, nan_fill=options.nan_fill, spacing=options.spacing)


def serve_image(
    model: Model,
    image: Image,
    folder: Path,
    *,
    input_name: str,
    options: ServeOptions,
    report: Report = silent,
) -> dict[str, Any]:
    """Predicts an image and writes its files; returns what was found as plain JSON values.

    Args:
        model: The loaded model.
        image: As read.
        folder: Exists; gets `mask` and `uncertainty` with their endings, `probabilities/`, `preview.png`,
            `view/` with raw arrays for slices and surfaces, and for DICOM `segmentation.dcm`,
            but not where its frames lie in several files.
        input_name: Name whose ending chooses the format of the mask, as `scanseg predict` does.
        options: See `ServeOptions`.
        report: Told about each window and stage.

    Returns:
        `input`, `labels` (as `mask_statistics`, with `left_share`, `score` and `uncertainty`), `notes`,
        `view` (windows of intensity) and `timing_s`.

    Raises:
        DataError: The image does not fit the model.
        ModelError: The network's output is not finite.
    """
    from scanseg.inference.cases import mask_suffix

    clock = _Clock()
    values = len(model.labels) * math.prod(image.geometry.shape)
    sure = options.uncertainty and (options.probabilities or values <= _MOST_PROBABILITIES)
    needs_chances = options.probabilities or sure
    prediction = model.predict(
        image, probabilities=needs_chances, mirror=options.tta, step_size=options.step_size, report=report
    )
    clock.lap("predict")
    report(Progress("measure", 0, 1))
    entropy = _entropy(prediction.probabilities) if sure else None
    left_out = ["The image is too large for an uncertainty map; ask for probabilities to get one."]
    statistics = prediction.statistics()
    for entry in statistics["labels"]:
        entry |= _place_and_certainty(entry["value"], prediction, entropy)
    clock.lap("measure")
    report(Progress("write", 0, 1))
    prediction.save(folder / f"mask{mask_suffix(Path(input_name))}")
    geometry = image.geometry
    in_one = geometry.header.get("enhanced_files", 1) == 1
    if geometry.format == "dicom" and image.path is not None and in_one:
        from scanseg.inference.segmentation import save_segmentation

        save_segmentation(folder / "segmentation.dcm", prediction, image.path, model)
    _write_maps(prediction, entropy, folder, options)
    _write_view(image, prediction.mask, entropy, folder / "view")
    _write_preview(image, prediction, folder / "preview.png")
    clock.lap("write")
    return {
        "input": {
            "shape": statistics["shape"],
            "spacing": statistics["spacing"],
            "unit": statistics["unit"],
            "spatial_dims": image.geometry.spatial_dims,
            "has_position": image.geometry.affine is not None,
        },
        "labels": statistics["labels"],
        "notes": [*prediction.notes, *(left_out if options.uncertainty and not sure else [])],
        "windows": _windows(image),
        "timing_s": clock.laps,
    }


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def lap(self, name: str) -> None:
        now_s = time.perf_counter()
        self.laps[name] = round(now_s - self._last_s, 3)
        self._last_s = now_s


def _entropy(probabilities: Array | None) -> Array:
    """Returns the entropy of each voxel as a part of the largest possible one, float32 in [0, 1]."""
    if probabilities is None:
        raise ModelError("The prediction carries no probabilities.", code="E-PREDICT-PROBABILITIES")
    total = np.zeros(probabilities.shape[1:], np.float32)
    for chance in probabilities:
        total -= np.where(chance > 0, chance * np.log(np.maximum(chance, 1e-30)), 0).astype(np.float32)
    part: Array = np.clip(total / math.log(max(2, len(probabilities))), 0, 1)
    return part


def _place_and_certainty(value: int, prediction: Prediction, entropy: Array | None) -> dict[str, Any]:
    where = prediction.mask == value
    count = int(np.count_nonzero(where))
    facts: dict[str, Any] = {"left_share": None, "score": None, "uncertainty": None}
    if not count:
        return facts
    facts["left_share"] = _left_share(where, prediction.geometry)
    if entropy is not None and prediction.probabilities is not None:
        index = [label.value for label in prediction.labels].index(value)
        facts["score"] = round(float(prediction.probabilities[index][where].mean(dtype=np.float64)), 4)
        facts["uncertainty"] = round(float(entropy[where].mean(dtype=np.float64)), 4)
    return facts


def _left_share(where: Array, geometry: Geometry) -> float | None:
    """Returns the part of a label to the patient's left of the image's middle; None without positions."""
    if geometry.affine is None or where.ndim != 3:
        return None
    z_mm, y_mm, x_mm = (
        (np.arange(n) - (n - 1) / 2) * geometry.affine[0, 2 - axis] for axis, n in enumerate(geometry.shape)
    )
    plane_mm = y_mm[:, None] + x_mm[None, :]
    left = total = 0.0
    for part, offset_mm in zip(where, z_mm, strict=True):
        right_mm = plane_mm[part] + offset_mm
        left += np.count_nonzero(right_mm < -_EPSILON_MM) + 0.5 * np.sum(abs(right_mm) <= _EPSILON_MM)
        total += right_mm.size
    return round(float(left / total), 4)


def _write_maps(prediction: Prediction, entropy: Array | None, folder: Path, options: ServeOptions) -> None:
    suffix = ".nii.gz" if prediction.geometry.spatial_dims == 3 else ".tif"
    if entropy is not None:
        write_array(folder / f"uncertainty{suffix}", entropy, prediction.geometry)
    if options.probabilities and prediction.probabilities is not None:
        for index, label in enumerate(prediction.labels):
            if index > 0:
                path = folder / "probabilities" / f"{label.value}{suffix}"
                write_array(path, prediction.probabilities[index], prediction.geometry)


def _write_preview(image: Image, prediction: Prediction, path: Path) -> None:
    from scanseg.reporting.figures import preview

    preview(image, prediction.mask, prediction.labels, path)


# -- the view: raw arrays from which any process can cut slices without reading an image format ----


def _write_view(image: Image, mask: Array, entropy: Array | None, folder: Path) -> None:
    folder.mkdir()
    arrays = {"image": image.array.astype(np.float32, copy=False), "mask": mask}
    if entropy is not None:
        arrays["uncertainty"] = np.round(entropy * 255).astype(np.uint8)
    for name, array in arrays.items():
        with written_aside(folder / f"{name}.raw") as temporary:
            np.ascontiguousarray(array).tofile(temporary)
    write_json(folder / "view.json", _describe(image.geometry, arrays))


def _describe(geometry: Geometry, arrays: dict[str, Array]) -> dict[str, Any]:
    facts = asdict(geometry)
    facts["affine"] = None if geometry.affine is None else geometry.affine.tolist()
    facts["header"] = json.loads(json.dumps(facts["header"], default=_plain))
    return {
        "geometry": facts,
        "arrays": {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()},
    }


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a header holds {type(value).__name__}")


def read_view(folder: Path) -> tuple[dict[str, Array], Geometry]:
    """Returns the arrays of `view/` as read-only memory maps, and the geometry of the image.

    Raises:
        DataError: A file is missing or has another size than described.
    """
    facts = read_json(folder / "view.json")
    arrays: dict[str, Array] = {}
    for name, (dtype, shape) in facts["arrays"].items():
        path = folder / f"{name}.raw"
        if not path.is_file() or path.stat().st_size != np.dtype(dtype).itemsize * math.prod(shape):
            raise DataError(
                "A stored array is damaged.", code="E-SERVE-VIEW", hint="Predict the image again."
            )
        arrays[name] = np.memmap(path, dtype=dtype, mode="r", shape=tuple(shape))
    return arrays, _geometry(facts["geometry"])


def _geometry(facts: dict[str, Any]) -> Geometry:
    return Geometry(
        shape=tuple(facts["shape"]),
        spacing=tuple(facts["spacing"]),
        unit=facts["unit"],
        affine=None if facts["affine"] is None else np.array(facts["affine"], np.float64),
        format=facts["format"],
        header=facts["header"],
    )


def write_read_image(image: Image, folder: Path) -> None:
    """Writes an image as a raw array and its description: what crosses from the reading process."""
    arrays = {"image": image.array}
    image.array.tofile(folder / "image.raw")
    (folder / "view.json").write_text(json.dumps(_describe(image.geometry, arrays)))


def _windows(image: Image) -> dict[str, list[float]]:
    """Returns intensities shown as black and white: `auto` and `full` of the first channel."""
    channel = image.array[0].reshape(-1)
    sample = channel[:: max(1, channel.size // 1_000_000)]
    low, high = (float(v) for v in np.percentile(sample, [0.5, 99.5]))
    least, most = float(channel.min()), float(channel.max())
    if low >= high:
        low, high = least, most if most > least else least + 1
    return {"auto": [low, high], "full": [least, most if most > least else least + 1]}
