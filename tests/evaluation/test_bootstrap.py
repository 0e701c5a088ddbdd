import math

import numpy as np
import pytest
from scipy import stats

from scanseg.errors import UsageError
from scanseg.evaluation import bootstrap
from scanseg.evaluation.bootstrap import mean_intervals


@pytest.mark.parametrize("count", [2, 5, 40])
def test_equals_scipy_with_the_same_draws(count):
    values = np.random.default_rng(count).beta(8, 2, count)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(12345)
    ).confidence_interval
    assert mean_intervals(values[:, None])[0] == pytest.approx([theirs.low, theirs.high], rel=1e-12)


def test_agrees_with_scipy_in_distribution():
    values = np.random.default_rng(0).beta(8, 2, 30)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    low, high = mean_intervals(values[:, None], seed=99)[0]
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.05 * width)


def test_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    samples = rng.normal(1.0, 2.0, (40, 300))  # 300 studies of 40 cases
    intervals = mean_intervals(samples, resamples=1000)
    covered = np.mean((intervals[:, 0] <= 1.0) & (intervals[:, 1] >= 1.0))
    assert 0.90 < covered < 0.98


def test_columns_do_not_influence_each_other():
    table = np.random.default_rng(2).random((12, 4))
    together = mean_intervals(table)
    alone = np.concatenate([mean_intervals(table[:, [column]]) for column in range(4)])
    assert together == pytest.approx(alone, rel=1e-12)


def test_groups_are_drawn_whole():
    # Every patient's ten cases are equal, so ten cases say no more than one.
    patients = np.random.default_rng(3).random(15)
    table = np.repeat(patients, 10)[:, None]
    groups = [f"patient {n}" for n in np.repeat(np.arange(15), 10)]
    grouped = mean_intervals(table, groups)
    assert grouped == pytest.approx(mean_intervals(patients[:, None]), rel=1e-12)
    assert np.diff(mean_intervals(table)) < 0.5 * np.diff(grouped)


def test_groups_of_unequal_size_resample_the_mean_over_cases():
    table = np.array([0.0, 0.0, 0.0, 1.0])[:, None]
    low, high = mean_intervals(table, ["a", "a", "a", "b"])[0]
    assert (low, high) == (0.0, 1.0)
    means = {0.0, 0.25, 1.0}  # aa, ab, bb
    quartiles = mean_intervals(table, ["a", "a", "a", "b"], confidence=0.4)[0]
    assert set(quartiles) <= means


def test_not_applicable_counts_in_no_mean():
    values = np.array([0.2, math.nan, 0.4, math.nan, 0.9])
    low, high = mean_intervals(values[:, None])[0]
    assert 0.2 <= low < np.nanmean(values) < high <= 0.9


@pytest.mark.parametrize("values", [[], [0.7], [0.7, math.nan], [math.nan, math.nan]])
def test_fewer_than_two_values_have_no_interval(values):
    assert np.isnan(mean_intervals(np.array(values, dtype=float).reshape(-1, 1))).all()


def test_one_patient_has_no_interval():
    assert np.isnan(mean_intervals(np.array([[0.5], [0.7], [0.9]]), ["p", "p", "p"])).all()


def test_seed_decides_and_the_size_of_a_batch_does_not(monkeypatch):
    table = np.random.default_rng(4).random((9, 2))
    first = mean_intervals(table)
    assert np.array_equal(first, mean_intervals(table))
    assert not np.array_equal(first, mean_intervals(table, seed=1))
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 1000)
    assert mean_intervals(table) == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (np.zeros(3), {}),
        (np.zeros((3, 1)), {"groups": ["a"]}),
        (np.zeros((3, 1)), {"resamples": 0}),
        (np.zeros((3, 1)), {"confidence": 1.0}),
    ],
)
def test_refuses_senseless_arguments(table, options):
    with pytest.raises(UsageError, match="Intervals need"):
        mean_intervals(table, **options)
