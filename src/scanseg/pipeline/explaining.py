"""The verb `explain`: what a trained network sees in an image, as pictures and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanseg.data.image import read_channels
from scanseg.errors import DataError, UsageError
from scanseg.evaluation.maps import border_mask, coarsened, entropy_map, map_statistics
from scanseg.files import write_bytes, write_json
from scanseg.inference.cases import find_cases
from scanseg.inference.predict import Model, Prediction
from scanseg.inference.reading import BlockReading, ScanReadings, read_scans, reads_scans
from scanseg.pipeline.predicting import require_writable
from scanseg.progress import Report, silent
from scanseg.reporting.curves import learned_columns, learned_figure, read_metrics
from scanseg.reporting.explained import TokenMap, map_figure, order_figure, uncertainty_figure
from scanseg.reporting.figures import preview
from scanseg.types import Array, Image

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Explanation:
    """What was found about an image.

    Attributes:
        document: What explain.json holds.
        files: The pictures, and explain.json.
    """

    document: dict[str, Any]
    files: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return self.document


def explain(
    image: Path | str | Sequence[Path | str],
    model: Path | str | Model,
    output: Path | str,
    *,
    weights: str = "final",
    device: str = "auto",
    threads: int | None = None,
    report: Report = silent,
) -> Explanation:
    """Writes what a trained network sees in an image: maps, scan orders, and what its training learned.

    prediction.png (the mask) and entropy.png (how much the classes compete at each place) for every network;
    uncertainty.png and order.png for networks that choose their scan order (UD-Mamba), of the slice or patch
    with most predicted foreground; alphas.png and sigmas.png where metrics.jsonl tells them; explain.json
    with the numbers. Without a reference nothing here says where the network is wrong.

    Args:
        image: A file, or one file per channel.
        model: Run folder, or a loaded `Model`; of an ensemble the first network is looked into.
        output: Folder to write to.
        weights: `final` or `best`.
        device: As in `Model`; so is `threads`.
        report: Told about the windows of the prediction.

    Raises:
        UsageError: The files are several images.
        DataError: The image cannot be read, or does not fit the model.
        ModelError: The model cannot be loaded.
    """
    loaded = (
        model if isinstance(model, Model) else Model(model, device=device, threads=threads, weights=weights)
    )
    paths = [Path(image)] if isinstance(image, str | Path) else [Path(item) for item in image]
    case_id, files = _one_case(paths, loaded)
    folder = Path(output)
    require_writable(folder)
    read = read_channels(files)
    prediction = loaded.predict(read, probabilities=True, report=report)
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "case_id": case_id,
        "network": loaded.config["network"]["name"],
        "labels": [{"value": label.value, "name": label.name} for label in loaded.labels],
        "notes": list(prediction.notes),
    }
    pictures, document["entropy"] = _explain_output(read, prediction, loaded, folder, case_id)
    if reads_scans(loaded):
        found, document["scans"] = _explain_scans(read_scans(loaded, read), folder, case_id)
        pictures += found
    found, document["training"] = _explain_training(loaded.folders[0], folder)
    pictures += found
    document["files"] = [path.name for path in pictures]
    write_json(folder / "explain.json", document)
    return Explanation(document, (*pictures, folder / "explain.json"))


def _one_case(paths: Sequence[Path], model: Model) -> tuple[str, tuple[Path, ...]]:
    for path in paths:
        if not path.is_file():
            raise DataError(f"The file {path} does not exist.", code="E-FILE-MISSING")
    channels = len(model.channel_names)
    if len(paths) == channels > 1:
        return find_cases(paths, channels=channels)[0].case_id, tuple(paths)
    cases = find_cases(paths, channels=channels)
    if len(cases) != 1:
        raise UsageError(
            f"One image is explained at a time, got {len(cases)}.",
            code="E-EXPLAIN-IMAGES",
            hint="Give one file, or the files of the channels of one image.",
        )
    return cases[0].case_id, cases[0].images


def _explain_output(
    image: Image, prediction: Prediction, model: Model, folder: Path, case_id: str
) -> tuple[list[Path], dict[str, Any]]:
    if prediction.probabilities is None:
        raise DataError("The prediction has no probabilities.", code="E-EXPLAIN-PROBABILITIES")
    entropy = entropy_map(prediction.probabilities)
    border = border_mask(prediction.mask)
    shown = preview(image, prediction.mask, model.labels, folder / "prediction.png", title=case_id)
    title = f"{case_id}: entropy of the predicted probabilities"
    drawn = map_figure(
        image, entropy, prediction.mask, folder / "entropy.png", title=title, unit="entropy, 1: all alike"
    )
    return [shown, drawn], map_statistics(entropy, border)


def _explain_scans(readings: ScanReadings, folder: Path, case_id: str) -> tuple[list[Path], dict[str, Any]]:
    border = border_mask(readings.classes)
    alphas = readings.alphas
    mean = dict(zip(readings.scans, map(float, alphas.mean(axis=0)), strict=True)) if alphas.size else {}
    return _draw_scans(readings, folder, case_id), {
        "names": list(readings.scans),
        "window": list(readings.window.shape[1:]),
        "blocks": [_block_numbers(block, readings, border) for block in readings.blocks],
        "alphas": {"mean": mean, "by_block": alphas.tolist()},
    }


def _draw_scans(readings: ScanReadings, folder: Path, case_id: str) -> list[Path]:
    image, classes, cut = _flat(readings)
    maps = [
        TokenMap(
            f"{_short(block.name)}, {'x'.join(map(str, block.uncertainty.shape))}",
            cut(block.uncertainty),
            np.stack([cut(ranks) for ranks in block.ranks]),
        )
        for block in readings.blocks
    ]
    title = f"{case_id}: channel uncertainty of every block"
    pictures = [uncertainty_figure(image, classes, maps, folder / "uncertainty.png", title=title)]
    # The finest of the encoder, the coarsest, and the last of the decoder; parts of volumes have no order of
    # their own, so the orders of volumes are shown as numbers only.
    if readings.classes.ndim == 2:
        sizes = [block.uncertainty.size for block in readings.blocks]
        chosen = [maps[place] for place in dict.fromkeys((0, sizes.index(min(sizes)), len(maps) - 1))]
        title = f"{case_id}: order of reading: dark, white dots first; bright, pink dots last"
        pictures.append(order_figure(image, chosen, readings.scans, folder / "order.png", title=title))
    return pictures


def _flat(readings: ScanReadings) -> tuple[Array, Array, Any]:
    """Returns image and classes as (rows, columns), and a function that cuts the same plane out of a map."""
    if readings.classes.ndim == 2:
        return readings.window[0], readings.classes, lambda values: values
    counts = (readings.classes > 0).sum(axis=(1, 2))
    depth = len(readings.classes)
    index = int(counts.argmax()) if counts.any() else depth // 2
    return (
        readings.window[0, index],
        readings.classes[index],
        lambda values: values[index * len(values) // depth],
    )


def _block_numbers(block: BlockReading, readings: ScanReadings, border: Array) -> dict[str, Any]:
    shape = block.uncertainty.shape
    at_border, foreground = coarsened(border, shape), coarsened(readings.classes > 0, shape)
    last = max(block.ranks[0].size - 1, 1)
    places = {"border": at_border, "foreground": foreground, "background": ~foreground & ~at_border}
    return {
        "name": block.name,
        "tokens": list(shape),
        "uncertainty": map_statistics(block.uncertainty, at_border),
        # 0 is read first, 1 last.
        "mean_place": {
            scan: {
                name: float(ranks[mask].mean() / last) if mask.any() else None
                for name, mask in places.items()
            }
            for scan, ranks in zip(readings.scans, block.ranks, strict=True)
        },
    }


def _explain_training(run: Path, folder: Path) -> tuple[list[Path], dict[str, Any]]:
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        return [], {}
    pictures, numbers = [], {}
    records = read_metrics(metrics)
    for kind in ("alpha", "sigma"):
        png = learned_figure(metrics, kind)
        if png is None:
            continue
        path = folder / f"{kind}s.png"
        write_bytes(path, png)
        pictures.append(path)
        numbers[kind] = {
            name: {"first": float(known[0]), "last": float(known[-1])}
            for name, values in learned_columns(records, kind).items()
            if len(known := values[np.isfinite(values)])
        }
    return pictures, numbers


def _short(name: str) -> str:
    """Returns `encoder 0.1` for `body.encoder.stages.0.blocks.1.mixer` and the like."""
    parts = [part for part in name.split(".") if part.isdigit()]
    return f"{'encoder' if 'encoder' in name else 'decoder'} {'.'.join(parts)}"
