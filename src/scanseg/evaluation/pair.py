"""One mask against its reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scanseg.data.label_values import count_values
from scanseg.errors import UsageError
from scanseg.evaluation.boxes import Box, joined, label_boxes
from scanseg.evaluation.metrics import METRICS, MaskPair, state_of
from scanseg.evaluation.stats import foreground
from scanseg.types import Array, Geometry, Label, Spacing

Row = dict[str, Any]


def evaluate_pair(
    prediction: Array,
    reference: Array,
    labels: Sequence[Label],
    spacing: Spacing,
    *,
    metrics: Sequence[str] | None = None,
    nsd_tolerance_mm: float = 1.0,
) -> list[Row]:
    """Returns one row per label, without the background: `value`, `name`, `state`, voxels, and the metrics.

    Args:
        prediction: Label values, non-negative integers, (z, y, x) or (y, x).
        reference: Same shape.
        labels: The classes; the one with value 0 is the background.
        spacing: mm along each axis (or ones, to measure in pixels).
        metrics: Names in METRICS; all by default.
        nsd_tolerance_mm: Tolerance of the normalised surface Dice.

    Raises:
        UsageError: The arrays or the spacing do not fit, or a metric is unknown.

    Example:
        >>> import numpy as np
        >>> reference = np.array([[0, 1, 1, 2]])
        >>> labels = [Label(1, "a"), Label(3, "b")]
        >>> rows = evaluate_pair(reference, reference, labels, (1, 1), metrics=["dice"])
        >>> [(row["name"], row["state"], row["dice"]) for row in rows]
        [('a', 'present', 1.0), ('b', 'both_empty', nan)]
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    for name, array in (("prediction", prediction), ("reference", reference)):
        if array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
            raise UsageError(
                f"The {name} must hold label values, non-negative integers, got {array.dtype}.",
                code="E-EVALUATE-VALUES",
            )
    if prediction.shape != reference.shape:
        raise UsageError(
            f"Prediction {prediction.shape} and reference {reference.shape} must have the same shape.",
            code="E-METRIC-SHAPE",
        )
    names = checked_metrics(metrics)
    values = [label.value for label in foreground(labels)]
    boxes = [label_boxes(array, values) for array in (prediction, reference)]
    rows = []
    for label in foreground(labels):
        box = joined(boxes[0].get(label.value), boxes[1].get(label.value))
        pair = _masks_of(label, prediction, reference, spacing, box)
        rows.append(
            {
                "value": label.value,
                "name": label.name,
                "state": state_of(pair),
                "reference_voxels": pair.reference_voxels,
                "prediction_voxels": pair.prediction_voxels,
                **{name: _measured(name, pair, nsd_tolerance_mm) for name in names},
            }
        )
    return rows


def worst_rows(
    reference: Array, geometry: Geometry, labels: Sequence[Label], names: Sequence[str]
) -> list[Row]:
    """Returns the rows of a case without a prediction: the worst value of every metric for every label."""
    diagonal = math.hypot(*(n * step for n, step in zip(geometry.shape, geometry.spacing, strict=True)))
    counts = count_values(reference)
    return [
        {
            "value": label.value,
            "name": label.name,
            "state": "no_prediction",
            "reference_voxels": counts.get(label.value, 0),
            "prediction_voxels": 0,
            **{name: METRICS[name].worst(diagonal) for name in names},
        }
        for label in foreground(labels)
    ]


def checked_metrics(metrics: Sequence[str] | None) -> list[str]:
    """Returns the names without repetition, all metrics for None.

    Raises:
        UsageError: A metric is unknown, or none is named.
    """
    names = list(METRICS) if metrics is None else list(dict.fromkeys(metrics))
    if not names:
        raise UsageError("No metric was named.", code="E-METRIC-NONE", hint=f"Known: {', '.join(METRICS)}.")
    return [METRICS[name].name for name in names]


def _masks_of(
    label: Label, prediction: Array, reference: Array, spacing: Spacing, box: Box | None
) -> MaskPair:
    inside = box or tuple(slice(0, 0) for _ in prediction.shape)
    return MaskPair(
        prediction[inside] == label.value,
        reference[inside] == label.value,
        spacing,
        image_shape=prediction.shape,
    )


def _measured(name: str, pair: MaskPair, nsd_tolerance_mm: float) -> float:
    metric = METRICS[name]
    options = {"tolerance_mm": nsd_tolerance_mm} if "tolerance_mm" in metric.options else {}
    return metric.function(pair.prediction, pair.reference, pair.spacing_mm, pair=pair, **options)
