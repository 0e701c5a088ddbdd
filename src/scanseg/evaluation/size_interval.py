"""Between which sizes a structure lies that a model measured: intervals from held-out cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

COVERAGE = 0.9


@dataclass(frozen=True)
class SizeCalibration:
    """Size of the reference divided by that of the prediction, in held-out cases in which one was predicted.

    Attributes:
        ratios: In ascending order; 0 where the prediction invented the structure.
        weights: One per ratio; those of the cases of one group (patient) sum to 1.
    """

    ratios: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, rows: Iterable[Any], value: int) -> SizeCalibration:
        """Returns the ratios of a label.

        Args:
            rows: As from `read_cases`; a group that is empty is the case itself.
            value: The label.
        """
        held_out = [row for row in rows if row["value"] == value and row["prediction_voxels"] > 0]
        groups = [row["group"] or row["case_id"] for row in held_out]
        cases = Counter(groups)
        pairs = sorted(
            (row["reference_voxels"] / row["prediction_voxels"], 1 / cases[group])
            for row, group in zip(held_out, groups, strict=True)
        )
        return cls(tuple(ratio for ratio, _ in pairs), tuple(weight for _, weight in pairs))

    @property
    def groups(self) -> int:
        """How many patients there are."""
        return round(sum(self.weights))

    def interval(self, size: float, *, coverage: float = COVERAGE) -> tuple[float, float] | None:
        """Returns the sizes between which the true one lies in at least `coverage` of new patients.

        This holds for any model and any distribution of errors, on average over patients like the held-out
        ones, and says nothing of images from elsewhere or of one kind of patient among them.

        Args:
            size: As measured by the model, in any unit.
            coverage: Above 0 and below 1; each tail gets half of the rest.

        Returns:
            None where the patients are too few: 90 % asks for 19.

        Source:
            Split conformal prediction, Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094, with the ratio as
            score; patients with several cases as in Lee, Barber and Willett, arXiv:2306.06342.
        """
        target = (self.groups + 1) * (1 + coverage) / 2 - 1e-9
        if target > self.groups:
            return None
        pairs = list(zip(self.ratios, self.weights, strict=True))
        return size * _reaching(reversed(pairs), target), size * _reaching(pairs, target)


def _reaching(pairs: Iterable[tuple[float, float]], target: float) -> float:
    """Returns the ratio with which the sum of the weights reaches the target."""
    total = 0.0
    for ratio, weight in pairs:
        total += weight
        if total >= target:
            return ratio
    raise ValueError("the weights do not reach the target")
