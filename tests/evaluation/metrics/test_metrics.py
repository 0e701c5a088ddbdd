"""Every registered metric: its signature, its rules, its symmetries; then truths of the single ones."""

import inspect
import math

import numpy as np
import pytest

from scanseg.errors import UsageError
from scanseg.evaluation.metrics import (
    EMPTY_RULES,
    METRICS,
    MaskPair,
    accuracy,
    assd,
    dice,
    hd95,
    iou,
    mse,
    nsd,
    sensitivity,
    specificity,
)

SPACINGS = {2: (0.8, 1.7), 3: (3.0, 1.3, 0.7)}
SYMMETRIC = ["dice", "iou", "accuracy", "nsd", "hd95", "assd", "mse"]


def blobs(rng, dims, *, size=14):
    """Two overlapping random masks with lumps, holes and specks."""
    shape = tuple(rng.integers(size - 5, size + 5, dims))
    coarse = rng.random(tuple(n // 3 + 1 for n in shape))
    for axis in range(dims):
        coarse = np.repeat(coarse, 3, axis=axis)
    coarse = coarse[tuple(slice(n) for n in shape)]
    first = coarse + 0.3 * rng.random(shape) > 0.75
    second = coarse + 0.3 * rng.random(shape) > 0.8
    first.flat[0] = second.flat[-1] = True
    return first, second


def cube(shape, start, length):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(i, i + n) for i, n in zip(start, length, strict=True))] = True
    return mask


def ball(shape, centre, radius_mm, spacing):
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    square = sum(((g - c) * s) ** 2 for g, c, s in zip(grids, centre, spacing, strict=True))
    return square <= radius_mm**2


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    def test_signature_and_facts(self, name):
        metric = METRICS[name]
        parameters = list(inspect.signature(metric.function).parameters)
        assert parameters[:3] == ["prediction", "reference", "spacing_mm"]
        assert set(parameters[3:]) == {"pair", *metric.options}
        assert metric.name == name == metric.function.__name__
        assert metric.title
        assert metric.summary.endswith(".")
        assert metric.low < metric.high
        assert name in EMPTY_RULES

    @pytest.mark.parametrize("dims", [2, 3])
    def test_identical_masks_are_perfect(self, name, dims):
        metric = METRICS[name]
        mask, _ = blobs(np.random.default_rng(1), dims)
        best = metric.high if metric.better == "higher" else metric.low
        assert metric.function(mask, mask.copy(), SPACINGS[dims]) == best

    @pytest.mark.parametrize("dims", [2, 3])
    def test_stays_in_range_and_ignores_axis_order(self, name, dims):
        metric, spacing = METRICS[name], SPACINGS[dims]
        for seed in range(5):
            first, second = blobs(np.random.default_rng(seed), dims)
            value = metric.function(first, second, spacing)
            assert isinstance(value, float)
            assert metric.low <= value <= metric.worst(MaskPair(first, second, spacing).diagonal_mm) or (
                metric.better == "higher" and value <= metric.high
            )
            turned = metric.function(first.T, second.T, spacing[::-1])
            flipped = metric.function(np.flip(first), np.flip(second), spacing)
            assert turned == pytest.approx(value, rel=1e-12)
            assert flipped == pytest.approx(value, rel=1e-12)

    def test_a_prepared_pair_changes_nothing(self, name):
        first, second = blobs(np.random.default_rng(3), 3)
        function, spacing = METRICS[name].function, SPACINGS[3]
        pair = MaskPair(first, second, spacing)
        assert function(first, second, spacing, pair=pair) == function(first, second, spacing)

    def test_padding_the_image_changes_only_what_counts_the_outside(self, name):
        first, second = blobs(np.random.default_rng(4), 3)
        function, spacing = METRICS[name].function, SPACINGS[3]
        small, large = (function(np.pad(first, n), np.pad(second, n), spacing) for n in (0, 4))
        if name in ("specificity", "accuracy"):
            assert large > small
        elif name == "mse":
            assert large < small
        else:
            assert large == pytest.approx(small, rel=1e-12)

    def test_follows_its_rule_for_empty_masks(self, name):
        metric, spacing = METRICS[name], (2.0, 1.0, 0.5)
        mask, none = cube((6, 8, 10), (1, 1, 1), (2, 2, 2)), np.zeros((6, 8, 10), dtype=bool)
        worst = 0.0 if metric.better == "higher" else math.sqrt(12.0**2 + 8.0**2 + 5.0**2)
        for state, pair in {
            "missed": (none, mask),
            "invented": (mask, none),
            "both_empty": (none, none),
        }.items():
            value = metric.function(*pair, spacing)
            outcome = EMPTY_RULES[name][state]
            if outcome == "worst":
                assert value == pytest.approx(worst)
            elif outcome == "not applicable":
                assert math.isnan(value)
            else:
                assert metric.low <= value <= metric.high

    def test_refuses_what_is_no_pair_of_masks(self, name):
        function = METRICS[name].function
        mask = np.ones((3, 3), dtype=bool)
        with pytest.raises(UsageError, match="boolean"):
            function(mask.astype(np.uint8), mask, (1, 1))
        with pytest.raises(UsageError, match="same shape"):
            function(mask, mask[:2], (1, 1))
        for spacing in [(1,), (1, 1, 1), (0, 1), (math.nan, 1), (-1, 1), (math.inf, 1)]:
            with pytest.raises(UsageError, match="spacing_mm"):
                function(mask, mask, spacing)
        with pytest.raises(UsageError, match="at least one voxel"):
            function(mask[:0], mask[:0], (1, 1))
        with pytest.raises(UsageError, match=r"\(z, y, x\)"):
            function(mask[0], mask[0], (1,))


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("dims", [2, 3])
def test_symmetric_metrics_do_not_care_which_is_the_reference(name, dims):
    for seed in range(5):
        first, second = blobs(np.random.default_rng(seed), dims)
        function, spacing = METRICS[name].function, SPACINGS[dims]
        assert function(first, second, spacing) == pytest.approx(function(second, first, spacing), rel=1e-12)


def test_overlap_of_two_cubes_in_closed_form():
    # 4x4x4 cubes shifted by 1 and 2 voxels share 3 * 2 * 4 = 24 of 64 voxels.
    reference = cube((10, 10, 10), (2, 2, 2), (4, 4, 4))
    prediction = cube((10, 10, 10), (3, 4, 2), (4, 4, 4))
    spacing = (1.0, 1.0, 1.0)
    assert dice(prediction, reference, spacing) == 24 / 64
    assert iou(prediction, reference, spacing) == 24 / 104
    assert sensitivity(prediction, reference, spacing) == 24 / 64
    assert specificity(prediction, reference, spacing) == (1000 - 104) / (1000 - 64)
    assert accuracy(prediction, reference, spacing) == (1000 - 80) / 1000
    assert mse(prediction, reference, spacing) == 80 / 1000


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_voxels_apart_measure_the_spacing(axis):
    spacing = (4.0, 2.5, 0.3)
    reference = cube((9, 9, 9), (4, 4, 4), (1, 1, 1))
    prediction = np.roll(reference, 3, axis=axis)
    expected = 3 * spacing[axis]
    assert hd95(prediction, reference, spacing) == pytest.approx(expected)
    assert assd(prediction, reference, spacing) == pytest.approx(expected)
    # Every cell around one voxel has its nearest cell two steps away or exactly three.
    assert nsd(prediction, reference, spacing, tolerance_mm=expected) == 1
    assert nsd(prediction, reference, spacing, tolerance_mm=expected * 2 / 3 * 0.999) == 0


def test_plates_at_a_known_distance():
    # Parallel plates one voxel thick: every surface voxel is exactly 5 slices of 2 mm from the other plate.
    reference = cube((20, 12, 12), (4, 1, 1), (1, 10, 10))
    prediction = cube((20, 12, 12), (9, 1, 1), (1, 10, 10))
    spacing = (2.0, 0.5, 0.5)
    assert hd95(prediction, reference, spacing) == pytest.approx(10)
    assert assd(prediction, reference, spacing) == pytest.approx(10)
    assert nsd(prediction, reference, spacing, tolerance_mm=7.9) == 0
    assert nsd(prediction, reference, spacing, tolerance_mm=10.0) == 1


def test_concentric_balls_lie_their_radii_apart():
    spacing, shape = (1.2, 0.6, 0.6), (45, 90, 90)
    centre = (22, 45, 45)
    small, large = ball(shape, centre, 15, spacing), ball(shape, centre, 20, spacing)
    assert assd(small, large, spacing) == pytest.approx(5, abs=0.25)
    assert hd95(small, large, spacing) == pytest.approx(5, abs=0.7)
    assert nsd(small, large, spacing, tolerance_mm=3.5) < 0.01
    assert nsd(small, large, spacing, tolerance_mm=6.5) > 0.99
    assert dice(small, large, spacing) == pytest.approx(2 / (1 + (20 / 15) ** 3), rel=0.01)


def test_one_far_speck_moves_the_maximum_but_not_hd95():
    reference = cube((30, 60, 60), (10, 10, 10), (10, 10, 10))
    prediction = reference.copy()
    prediction[28, 58, 58] = True
    assert hd95(prediction, reference, (1.0, 1.0, 1.0)) == 0
    assert assd(prediction, reference, (1.0, 1.0, 1.0)) > 0


def test_nsd_tolerance_survives_rounding_of_the_spacing():
    reference = cube((12, 12), (4, 4), (2, 2))
    assert 3 * 0.1 > 0.3
    assert nsd(np.roll(reference, 3, axis=0), reference, (0.1, 0.1), tolerance_mm=0.3) == 1


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_nsd_refuses_a_senseless_tolerance(tolerance):
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(UsageError, match="tolerance"):
        nsd(mask, mask, (1, 1), tolerance_mm=tolerance)


def test_unknown_metric_names_its_neighbour():
    with pytest.raises(UsageError, match="Did you mean hd95"):
        METRICS["hd_95"]


def test_mse_is_the_mean_squared_difference_of_the_masks():
    first, second = blobs(np.random.default_rng(7), 3)
    expected = np.mean((first.astype(float) - second.astype(float)) ** 2)
    assert mse(first, second, SPACINGS[3]) == pytest.approx(expected, rel=1e-12)
