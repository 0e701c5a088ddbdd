"""Metrics on boolean masks, one file each, in physical units, with written rules for empty masks.

To add one: write `metrics/<name>.py` with one registered function, add its line to `empty.EMPTY_RULES` and
its import here.
"""

# The order of registration is the order of columns in every table.
# isort: off
from scanseg.evaluation.metrics.metric import METRICS, Metric, register_metric
from scanseg.evaluation.metrics.masks import MaskPair
from scanseg.evaluation.metrics.empty import EMPTY_RULES, STATES, State, state_of
from scanseg.evaluation.metrics.dice import dice
from scanseg.evaluation.metrics.iou import iou
from scanseg.evaluation.metrics.sensitivity import sensitivity
from scanseg.evaluation.metrics.specificity import specificity
from scanseg.evaluation.metrics.accuracy import accuracy
from scanseg.evaluation.metrics.nsd import nsd
from scanseg.evaluation.metrics.hd95 import hd95
from scanseg.evaluation.metrics.assd import assd
from scanseg.evaluation.metrics.mse import mse

# isort: on

__all__ = [
    "EMPTY_RULES",
    "METRICS",
    "STATES",
    "MaskPair",
    "Metric",
    "State",
    "accuracy",
    "assd",
    "dice",
    "hd95",
    "iou",
    "mse",
    "nsd",
    "register_metric",
    "sensitivity",
    "specificity",
    "state_of",
]
