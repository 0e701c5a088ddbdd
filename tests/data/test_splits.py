"""Splits against nnU-Net's own, and the promise that no patient is on both sides."""

from pathlib import Path

import numpy as np
import pytest

from scanseg.data.splits import count_units, make_all_split, make_splits
from scanseg.errors import DataError, UsageError
from scanseg.types import Case


def cases_of(count: int, groups: list[str | None] | None = None) -> list[Case]:
    names = [f"case_{n:03d}" for n in range(count)]
    return [
        Case(name, (Path(f"{name}.nii.gz"),), group=None if groups is None else groups[n])
        for n, name in enumerate(names)
    ]


@pytest.mark.parametrize("count", [5, 6, 7, 9, 10, 23, 60, 194])
@pytest.mark.parametrize("seed", [12345, 7])
def test_without_groups_the_folds_are_those_of_nnunet(count: int, seed: int) -> None:
    crossval_split = pytest.importorskip("nnunetv2.utilities.crossval_split")
    cases = cases_of(count)
    theirs = crossval_split.generate_crossval_split(
        list(np.sort([case.case_id for case in cases])), seed=seed, n_splits=5
    )
    ours = make_splits(cases[::-1], seed=seed)
    assert [list(split.train) for split in ours] == [fold["train"] for fold in theirs]
    assert [list(split.validation) for split in ours] == [fold["val"] for fold in theirs]


def test_one_case_per_group_gives_the_folds_without_groups() -> None:
    groups: list[str | None] = [f"patient_{99 - n}" for n in range(24)]
    assert make_splits(cases_of(24, groups)) == make_splits(cases_of(24))


def test_no_group_is_on_both_sides_in_1000_random_cohorts() -> None:
    random = np.random.default_rng(20)
    for _ in range(1000):
        count = int(random.integers(2, 60))
        pool = [f"p{n}" for n in range(int(random.integers(2, 30)))] + [None]  # type: ignore[list-item]
        groups = [pool[index] for index in random.integers(0, len(pool), count)]
        cases = cases_of(count, groups)
        if count_units(cases) < 2:
            continue
        folds = int(random.integers(2, 8))
        splits = make_splits(cases, folds=folds, seed=int(random.integers(1000)))
        check_folds(cases, splits, folds)


def check_folds(cases: list[Case], splits: list, folds: int) -> None:
    group_of = {case.case_id: case.group or case.case_id for case in cases}
    ids = sorted(group_of)
    assert len(splits) == min(folds, count_units(cases))
    assert sorted(case_id for split in splits for case_id in split.validation) == ids
    for split in splits:
        assert sorted(split.train + split.validation) == ids
        assert split.train
        assert split.validation
        assert not {group_of[c] for c in split.train} & {group_of[c] for c in split.validation}
    sizes = [len(split.validation) for split in splits]
    largest = max(sum(group == g for group in group_of.values()) for g in set(group_of.values()))
    assert max(sizes) - min(sizes) <= largest


def test_the_order_of_the_cases_and_a_second_call_change_nothing() -> None:
    groups: list[str | None] = [f"p{n // 3}" for n in range(30)]
    cases = cases_of(30, groups)
    assert make_splits(cases) == make_splits(cases[::-1]) == make_splits(cases)


def test_the_seed_changes_grouped_folds() -> None:
    cases = cases_of(30, [f"p{n // 3}" for n in range(30)])
    assert make_splits(cases, seed=1) != make_splits(cases, seed=2)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_cases_are_left_out_one_by_one(count: int) -> None:
    splits = make_splits(cases_of(count))
    assert len(splits) == count
    assert all(len(split.validation) == 1 for split in splits)


def test_a_case_named_like_a_group_is_not_taken_for_it() -> None:
    cases = [Case("a", (), group="b"), Case("b", ()), Case("c", (), group="b")]
    assert count_units(cases) == 2
    assert {split.validation for split in make_splits(cases)} == {("a", "c"), ("b",)}


@pytest.mark.parametrize("cases", [[], cases_of(1), cases_of(4, ["same"] * 4)])
def test_one_group_cannot_be_split(cases: list[Case]) -> None:
    with pytest.raises(DataError, match="at least two cases") as caught:
        make_splits(cases)
    assert caught.value.code == "E-SPLIT-FEW"
    assert "--fold all" in caught.value.hint


def test_one_fold_is_refused() -> None:
    with pytest.raises(UsageError, match="got 1"):
        make_splits(cases_of(10), folds=1)


def test_all_trains_and_validates_on_everything_and_says_so() -> None:
    split = make_all_split(cases_of(3)[::-1])
    assert split.train == split.validation == ("case_000", "case_001", "case_002")
    assert split.validation_is_training
    assert not make_splits(cases_of(3))[0].validation_is_training
    with pytest.raises(DataError):
        make_all_split([])
