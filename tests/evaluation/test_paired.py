"""Paired statistics: closed forms, and equality with scipy."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from scanseg.evaluation.paired import holm, mean_ranks, wilcoxon_p, wins_ties_losses


@pytest.mark.parametrize("count", [3, 12, 60])
def test_signed_ranks_are_those_of_scipy(count):
    differences = np.random.default_rng(count).normal(0.2, 1, count)
    assert wilcoxon_p(differences) == wilcoxon(differences).pvalue
    with_gaps = np.insert(differences, 1, math.nan)
    assert wilcoxon_p(with_gaps) == wilcoxon(differences).pvalue


def test_all_better_has_the_smallest_exact_p():
    for count in (3, 6, 10):
        assert wilcoxon_p(np.arange(1.0, count + 1)) == pytest.approx(2 / 2**count, rel=1e-12)


def test_no_difference_is_no_evidence():
    assert wilcoxon_p(np.zeros(7)) == 1
    assert math.isnan(wilcoxon_p(np.array([])))
    assert math.isnan(wilcoxon_p(np.array([math.nan])))


def test_patients_are_tested_not_their_cases():
    differences = np.array([0.1, 0.3, -0.5, 0.2, 0.7, math.nan, 0.4])
    groups = ["a", "a", "b", "c", "c", "c", ("d",)]
    assert wilcoxon_p(differences, groups) == wilcoxon([0.2, -0.5, 0.45, 0.4]).pvalue
    # A patient with a hundred equal cases is one patient.
    many = np.concatenate([differences[1:], np.full(100, 0.2)])
    assert wilcoxon_p(many, [*groups[1:], *["a"] * 100]) == wilcoxon_p(
        np.array([0.2009900990099, -0.5, 0.45, 0.4])
    )


def test_holm_of_his_own_example():
    # Holm 1979, page 67: of 0.01, 0.04, 0.03 and 0.005 two tests hold at the level 0.05.
    corrected = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [p <= 0.05 for p in corrected] == [True, False, False, True]


def test_holm_is_monotone_bounded_and_skips_what_was_not_tested():
    assert holm([0.4]) == [0.4]
    assert holm([0.5, 0.6, 0.9]) == [1, 1, 1]
    corrected = holm([math.nan, 0.01, 0.02])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.02, 0.02])
    p = np.random.default_rng(0).random(40)
    corrected = np.array(holm(p))
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p)]) >= 0).all()
    assert corrected.max() <= 1


def test_ranks_share_ties_and_turn_with_the_direction():
    table = np.array([[0.9, 0.8, 0.8], [0.7, 0.9, 0.5], [0.1, math.nan, 0.2]])
    assert mean_ranks(table, higher_is_better=True).tolist() == [1.5, 1.75, 2.75]
    assert mean_ranks(table, higher_is_better=False).tolist() == [2.5, 2.25, 1.25]
    assert mean_ranks(table[:2], higher_is_better=True).sum() == 6  # 1 + 2 + 3
    assert np.isnan(mean_ranks(table[2:], higher_is_better=True)).all()


def test_wins_turn_with_the_direction():
    differences = np.array([0.5, 0.0, -0.1, -0.2, math.nan])
    assert wins_ties_losses(differences, higher_is_better=True) == (1, 1, 2)
    assert wins_ties_losses(differences, higher_is_better=False) == (2, 1, 1)
