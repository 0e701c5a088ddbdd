"""Which cases train and which validate, never splitting a patient."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanseg.errors import DataError, UsageError
from scanseg.types import Case

NNUNET_SEED = 12345


@dataclass(frozen=True)
class Split:
    """The case ids of one fold, sorted.

    Attributes:
        train: Cases the weights are fitted to.
        validation: Cases the fold is judged by.
        validation_is_training: True for the fold `all`: both lists are the same, and its validation figures
            say nothing about new cases.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    validation_is_training: bool = False


def make_splits(cases: Sequence[Case], *, folds: int = 5, seed: int = NNUNET_SEED) -> list[Split]:
    """Returns the folds of a cross-validation; each case is validated exactly once.

    Where at least two cases share a group, whole groups are dealt out: the largest first, each to the fold
    with the fewest cases so far. The folds then differ in size by no more than the largest group. A case
    without a group among cases with groups is a group of its own. Where nobody shares a group, the folds
    are nnU-Net's own (with its seed 12345), so that results can be compared with it.

    The order of `cases` changes nothing. With fewer groups (or cases) than `folds` there are as many folds
    as groups, which is leave-one-out.

    Args:
        cases: The labelled cases; their ids are unique.
        folds: How many folds are wanted, at least 2.
        seed: Deals out groups of equal size, and shuffles the cases where there are no groups.

    Raises:
        UsageError: `folds` is under 2.
        DataError: The cases are of one group only, or there is one case or none.

    Example:
        >>> from scanseg.types import Case
        >>> cases = [Case(f"scan_{n}", (), group=f"patient_{n // 2}") for n in range(6)]
        >>> for split in make_splits(cases, folds=3):
        ...     print(split.validation)
        ('scan_0', 'scan_1')
        ('scan_4', 'scan_5')
        ('scan_2', 'scan_3')

    Source: without groups as `nnunetv2/utilities/crossval_split.py` (scikit-learn's shuffled KFold).
    """
    if folds < 2:
        raise UsageError(f"folds must be 2 or more, got {folds}.", code="E-SPLIT-FOLDS")
    units = _units(cases)
    if len(units) < 2:
        raise DataError(
            f"Cross-validation needs at least two cases of different patients, got {len(cases)} case"
            f"{'' if len(cases) == 1 else 's'} in {len(units)} group{'' if len(units) == 1 else 's'}.",
            code="E-SPLIT-FEW",
            hint="Train on everything with `--fold all`, or add cases.",
        )
    folds = min(folds, len(units))
    if all(len(unit) == 1 for unit in units):
        parts = _deal_cases([unit[0] for unit in units], folds, seed)
    else:
        parts = _deal_groups(units, folds, seed)
    everything = {case_id for unit in units for case_id in unit}
    return [Split(tuple(sorted(everything - set(part))), tuple(sorted(part))) for part in parts]


def make_all_split(cases: Sequence[Case]) -> Split:
    """Returns the fold `all`: every case trains, and the same cases validate.

    Raises:
        DataError: There are no cases.
    """
    if not cases:
        raise DataError("There are no labelled cases to train on.", code="E-SPLIT-FEW")
    ids = tuple(sorted(case.case_id for case in cases))
    return Split(train=ids, validation=ids, validation_is_training=True)


def count_units(cases: Sequence[Case]) -> int:
    """Returns how many groups can be dealt out: the upper limit of the number of folds."""
    return len(_units(cases))


def _units(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """Returns the case ids that must stay together, in an order that does not depend on that of `cases`."""
    units: dict[tuple[bool, str], list[str]] = {}
    for case in cases:
        key = (True, case.group) if case.group is not None else (False, case.case_id)
        units.setdefault(key, []).append(case.case_id)
    return sorted(tuple(sorted(unit)) for unit in units.values())


def _deal_cases(case_ids: Sequence[str], folds: int, seed: int) -> list[list[str]]:
    order = np.arange(len(case_ids))
    # nnU-Net's folds come from this legacy generator; any other gives other folds.
    np.random.RandomState(seed).shuffle(order)
    return [[case_ids[index] for index in part] for part in np.array_split(order, folds)]


def _deal_groups(units: Sequence[tuple[str, ...]], folds: int, seed: int) -> list[list[str]]:
    shuffled = [units[index] for index in np.random.default_rng(seed).permutation(len(units))]
    parts: list[list[str]] = [[] for _ in range(folds)]
    for unit in sorted(shuffled, key=len, reverse=True):
        min(parts, key=len).extend(unit)
    return parts
