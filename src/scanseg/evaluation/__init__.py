"""Masks measured, alone and against references. No torch here.

`evaluate_pair` scores two arrays, `evaluate_folder` a folder of predictions; `metrics` holds the measures and
their rules for empty masks; `mask_statistics` measures one mask.
"""

from scanseg.evaluation.bootstrap import mean_intervals
from scanseg.evaluation.evaluate import Evaluation, evaluate_folder, evaluate_pair, evaluate_pairs
from scanseg.evaluation.metrics import EMPTY_RULES, METRICS, Metric
from scanseg.evaluation.stats import mask_statistics

__all__ = [
    "EMPTY_RULES",
    "METRICS",
    "Evaluation",
    "Metric",
    "evaluate_folder",
    "evaluate_pair",
    "evaluate_pairs",
    "mask_statistics",
    "mean_intervals",
]
