"""Comparisons of scores: identical runs, known shifts, seeds, what is refused."""

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from scanseg.errors import DataError, UsageError
from scanseg.evaluation import evaluate_pair
from scanseg.evaluation.compare import Judged, compare_scores
from scanseg.types import Label

LABELS = [Label(0, "background"), Label(1, "organ"), Label(2, "lesion")]


def reference(case):
    array = np.zeros((14, 16 + case), np.uint8)
    array[2:9, 3:12] = 1
    if case != 3:
        array[4:7, 5 : 7 + case % 3] = 2
    return array


def rows(shifts, *, group=None, drop=()):
    """Returns the scores of label maps that are shifted by so many columns, one case for each shift."""
    found = []
    for case, shift in enumerate(shifts):
        if case in drop:
            continue
        truth = reference(case)
        for row in evaluate_pair(np.roll(truth, shift, axis=1), truth, LABELS, (1.0, 1.0)):
            found.append({"case_id": f"c{case}", "group": group(case) if group else "", **row})
    return found


def judged(name, *tables):
    return Judged(name, tuple(f"{name}_{seed}" for seed in range(len(tables))), tables)


SHIFTS = {"a": [0, 1, 2, 3, 1, 2], "b": [1, 2, 3, 4, 2, 2]}


@pytest.fixture(scope="module")
def two():
    return [judged(name, rows(shifts)) for name, shifts in SHIFTS.items()]


def test_identical_runs_do_not_differ():
    table = rows(SHIFTS["a"])
    result = compare_scores([judged("x", table), judged("y", [dict(row) for row in table])], ["dice", "hd95"])
    for metric in ("dice", "hd95"):
        numbers = result["mean"][metric]["y"]
        found = numbers["difference"]
        assert [found[key] for key in ("mean", "ci_low", "ci_high", "median")] == [0, 0, 0, 0]
        assert (found["p"], found["p_holm"]) == (1, 1)
        assert (found["wins"], found["ties"], found["losses"]) == (0, 6, 0)
        assert numbers["rank"] == result["mean"][metric]["x"]["rank"] == 1.5
        assert numbers["seeds"]["std"] is None


def test_numbers_follow_from_the_rows(two):
    result = compare_scores(two, ["dice"])
    means = {}
    for one in two:
        by_case = {}
        for row in one.tables[0]:
            by_case.setdefault(row["case_id"], []).append(row["dice"])
        means[one.name] = np.array([np.nanmean(values) for _, values in sorted(by_case.items())])
    differences = means["b"] - means["a"]
    found = result["mean"]["dice"]["b"]["difference"]
    assert result["mean"]["dice"]["a"]["mean"] == pytest.approx(means["a"].mean(), abs=1e-12)
    assert result["mean"]["dice"]["a"]["difference"] is None
    assert found["mean"] == pytest.approx(differences.mean(), abs=1e-12)
    assert found["median"] == pytest.approx(np.median(differences), abs=1e-11)
    assert found["p"] == pytest.approx(wilcoxon(np.round(differences, 12)).pvalue)
    assert (found["wins"], found["ties"], found["losses"]) == (0, 1, 5)
    assert found["ci_low"] < found["mean"] < found["ci_high"] <= 0
    assert [result["values"]["dice"]["b"][f"c{n}"] for n in range(6)] == pytest.approx(means["b"])


def test_exchanging_the_baseline_turns_the_signs(two):
    forth, back = compare_scores(two, ["hd95"]), compare_scores(two, ["hd95"], baseline="b")
    ours, theirs = forth["mean"]["hd95"]["b"]["difference"], back["mean"]["hd95"]["a"]["difference"]
    assert back["mean"]["hd95"]["b"]["difference"] is None
    assert ours["mean"] == pytest.approx(-theirs["mean"])
    assert (ours["ci_low"], ours["ci_high"]) == pytest.approx((-theirs["ci_high"], -theirs["ci_low"]))
    assert (ours["wins"], ours["losses"]) == (theirs["losses"], theirs["wins"])
    assert ours["p"] == theirs["p"]
    # A distance: the run with smaller shifts wins.
    assert theirs["wins"] > theirs["losses"]


def test_seeds_are_averaged_per_case_first():
    tables = [rows([shift + extra for shift in SHIFTS["a"]]) for extra in (0, 1, 2)]
    result = compare_scores([judged("x", rows(SHIFTS["b"])), judged("y", *tables)], ["dice"])
    alone = [
        compare_scores([judged("x", rows(SHIFTS["b"])), judged("y", table)], ["dice"])["mean"]["dice"]["y"]
        for table in tables
    ]
    numbers = result["mean"]["dice"]["y"]
    means = [one["mean"] for one in alone]
    assert numbers["n"] == 6
    assert numbers["mean"] == pytest.approx(np.mean(means))
    assert numbers["seeds"]["means"] == pytest.approx(means)
    assert numbers["seeds"]["std"] == pytest.approx(np.std(means, ddof=1))
    assert (numbers["seeds"]["min"], numbers["seeds"]["max"]) == pytest.approx((min(means), max(means)))
    assert numbers["difference"]["mean"] == pytest.approx(
        np.mean([one["difference"]["mean"] for one in alone])
    )


def test_an_invented_structure_has_no_pair():
    """Of c3, which has no lesion, one run invents it: no difference of Dice, but it is counted."""
    clean, inventing = rows([0] * 5), rows([0] * 5)
    truth = reference(3)
    predicted = truth.copy()
    predicted[0, 0] = 2
    for row, new in zip(
        [row for row in inventing if row["case_id"] == "c3"],
        evaluate_pair(predicted, truth, LABELS, (1.0, 1.0)),
        strict=True,
    ):
        row.update(new)
    result = compare_scores([judged("x", clean), judged("y", inventing)], ["dice"])
    lesion = result["by_label"][1]["metrics"]["dice"]["y"]
    assert lesion["n"] == 5
    assert lesion["difference"]["n"] == 4
    assert lesion["difference"]["unpaired"] == 1
    assert result["mean"]["dice"]["y"]["difference"]["losses"] == 1  # its mean over labels did fall


def test_groups_make_one_unit_of_a_patient(two):
    grouped = [judged(n, rows(s, group=lambda case: f"p{case % 3}")) for n, s in SHIFTS.items()]
    result, plain = compare_scores(grouped, ["dice"]), compare_scores(two, ["dice"])
    assert result["statistics"]["n_units"] == 3
    assert result["statistics"]["resampled"] == "groups"
    assert plain["statistics"]["n_units"] == 6
    # Three patients, all worse: the exact p of three signs.
    assert result["mean"]["dice"]["b"]["difference"]["p"] == pytest.approx(2 / 2**3)


def test_holm_counts_every_test_of_its_family():
    contenders = [judged(str(n), rows([s + n for s in SHIFTS["a"]])) for n in range(3)]
    result = compare_scores(contenders, ["dice", "iou", "hd95"])
    assert result["statistics"]["tests"] == {"mean": 6, "by_label": 12}
    found = [result["mean"][m][n]["difference"] for m in ("dice", "iou", "hd95") for n in "12"]
    smallest = min(found, key=lambda d: d["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 6 * smallest["p"]))
    assert all(d["p_holm"] >= d["p"] for d in found)


class TestRefusals:
    def test_different_cases_are_named(self):
        pair = [judged("x", rows(SHIFTS["a"])), judged("y", rows(SHIFTS["b"], drop=(1, 4)))]
        with pytest.raises(DataError, match="y_0 lacks c1, c4") as caught:
            compare_scores(pair, ["dice"])
        assert caught.value.code == "E-COMPARE-CASES"
        result = compare_scores(pair, ["dice"], common=True)
        assert result["cases"] == ["c0", "c2", "c3", "c5"]
        assert result["left_out"] == {"x": ["c1", "c4"], "y": []}

    def test_nothing_in_common(self):
        pair = [judged("x", rows([1, 1], drop=(0,))), judged("y", rows([1, 1], drop=(1,)))]
        with pytest.raises(DataError, match="no case in common"):
            compare_scores(pair, ["dice"], common=True)

    def test_other_references(self):
        table = rows(SHIFTS["a"])
        table[0]["reference_voxels"] += 1
        with pytest.raises(DataError, match="different references: the label 1 of the case c0"):
            compare_scores([judged("x", rows(SHIFTS["a"])), judged("y", table)], ["dice"])

    def test_other_labels(self):
        table = [{**row, "name": "tumour" if row["value"] == 2 else row["name"]} for row in rows([1, 2, 3])]
        pair = [judged("x", rows([1, 2, 3])), judged("y", table)]
        with pytest.raises(DataError, match="1 organ, 2 lesion; y_0 has 1 organ, 2 tumour"):
            compare_scores(pair, ["dice"])
        assert [label["name"] for label in compare_scores(pair, ["dice"], common=True)["labels"]] == ["organ"]

    def test_senseless_arguments(self, two):
        with pytest.raises(UsageError, match="two contenders"):
            compare_scores(two[:1], ["dice"])
        with pytest.raises(UsageError, match="occurs twice"):
            compare_scores([two[0], two[0]], ["dice"])
        with pytest.raises(UsageError, match="none of the contenders"):
            compare_scores(two, ["dice"], baseline="c")


def test_everything_is_plain_json(two):
    import json

    result = compare_scores(two, ["dice", "hd95"])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert not any(isinstance(v, float) and math.isnan(v) for v in result["values"]["dice"]["a"].values())
