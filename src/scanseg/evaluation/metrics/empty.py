"""What a metric is worth where a mask is empty.

A structure that is not there cannot be scored by its overlap, so a case without it gives no value: not a free
1, not a 0. A structure that is there but was missed, or that is not there but was invented, gets the worst
value, so that failing never makes a mean better. Libraries differ here: some return NaN for a missed
structure and drop it from the mean, which turns a total failure into a perfect score.
"""

from typing import Literal

from scanseg.evaluation.metrics.masks import MaskPair

State = Literal["present", "missed", "invented", "both_empty", "no_prediction"]
Outcome = Literal["worst", "not applicable", "formula"]

STATES: dict[State, str] = {
    "present": "The structure is in both masks.",
    "missed": "The structure is in the reference, the prediction has none of it.",
    "invented": "The structure is in the prediction, the reference has none of it.",
    "both_empty": "Neither mask has the structure.",
    "no_prediction": "The case has no prediction file: every metric of every label gets its worst value.",
}

_OVERLAP: dict[State, Outcome] = {"missed": "worst", "invented": "worst", "both_empty": "not applicable"}
_WHOLE_IMAGE: dict[State, Outcome] = {"missed": "formula", "invented": "formula", "both_empty": "formula"}

EMPTY_RULES: dict[str, dict[State, Outcome]] = {
    "dice": _OVERLAP,
    "iou": _OVERLAP,
    "sensitivity": {"missed": "worst", "invented": "not applicable", "both_empty": "not applicable"},
    "specificity": _WHOLE_IMAGE,
    "accuracy": _WHOLE_IMAGE,
    "nsd": _OVERLAP,
    "hd95": _OVERLAP,
    "assd": _OVERLAP,
    "mse": _WHOLE_IMAGE,
}
"""Per metric: the value where a mask is empty. Worst is 0 for scores and the image's diagonal for distances.
Specificity, accuracy and MSE count voxels of the whole image and follow their formula; predicting nothing is
good by their definition, so read them beside sensitivity or Dice, never alone."""


def state_of(pair: MaskPair) -> State:
    """Returns which of the two masks holds the structure."""
    if pair.reference_voxels:
        return "present" if pair.prediction_voxels else "missed"
    return "invented" if pair.prediction_voxels else "both_empty"


def value_at_empty(metric: str, pair: MaskPair, *, worst: float) -> float | None:
    """Returns the value that the rules give where a mask is empty, NaN for not applicable.

    Returns:
        None where the formula of the metric decides.
    """
    state = state_of(pair)
    if state == "present":
        return None
    outcome = EMPTY_RULES[metric][state]
    if outcome == "formula":
        return None
    return worst if outcome == "worst" else float("nan")
