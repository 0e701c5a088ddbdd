"""Intervals of sizes: closed forms, and how often they hold."""

import numpy as np
import pytest

from scanseg.evaluation.size_interval import SizeCalibration


def row(case: str, ratio: float, *, group: str = "", value: int = 1, predicted: int = 1000) -> dict:
    counts = {"prediction_voxels": predicted, "reference_voxels": round(ratio * predicted)}
    return {"case_id": case, "group": group, "value": value, **counts}


def calibration(ratios, groups=None) -> SizeCalibration:
    names = groups if groups is not None else [""] * len(ratios)
    pairs = enumerate(zip(ratios, names, strict=True))
    return SizeCalibration.of([row(str(i), ratio, group=group) for i, (ratio, group) in pairs], 1)


def test_nineteen_patients_are_the_fewest_for_nine_in_ten() -> None:
    ratios = [1 + i / 100 for i in range(19)]
    assert calibration(ratios).interval(2.0) == pytest.approx((2.0, 2.36))
    assert calibration(ratios[:18]).interval(2.0) is None
    assert calibration(ratios[:18]).interval(2.0, coverage=0.8) == pytest.approx((2.0, 2.34))
    assert SizeCalibration.of([], 1).interval(2.0) is None


def test_of_39_patients_the_second_from_either_end_bounds() -> None:
    ratios = [1 + i / 100 for i in range(39)]
    assert calibration(ratios[::-1]).interval(1.0) == pytest.approx((1.01, 1.37))


def test_what_counts() -> None:
    rows = [row("a", 0.5, value=2), row("b", 2.0, predicted=0), row("c", 0.0), row("d", 1.5)]
    assert SizeCalibration.of(rows, 1) == SizeCalibration((0.0, 1.5), (1.0, 1.0))


def test_the_cases_of_a_patient_count_once() -> None:
    ratios = [1 + i / 100 for i in range(39)]
    twice = calibration([*ratios, ratios[7], ratios[7]], [*map(str, range(39)), "7", "7"])
    assert twice.groups == 39
    assert twice.interval(1.0) == pytest.approx(calibration(ratios).interval(1.0))


def test_it_holds_as_often_as_it_says() -> None:
    """Patients with one to four cases that err alike: one of a new patient lies inside in 9 of 10 trials."""
    rng = np.random.default_rng(0)
    trials, inside = 1500, 0
    for _ in range(trials):
        counts = rng.integers(1, 5, 41)
        errors = [np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.1, n)) for n in counts]
        known = calibration(
            np.concatenate(errors[:40]), np.repeat([f"p{i}" for i in range(40)], counts[:40]).tolist()
        )
        low, high = known.interval(1.0)
        inside += low <= round(errors[40][0], 3) <= high
    spread = (0.9 * 0.1 / trials) ** 0.5
    assert 0.9 - 3 * spread <= inside / trials <= 0.95 + 3 * spread
