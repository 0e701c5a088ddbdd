import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from scanseg.data.image import read_label_map, write_label_map
from scanseg.errors import DataError, DatasetError, UsageError
from scanseg.evaluation import EMPTY_RULES, METRICS, evaluate_folder, evaluate_pair, evaluate_pairs
from scanseg.evaluation.pairing import Pair
from scanseg.types import Geometry, Label

LABELS = [Label(0, "background"), Label(1, "organ"), Label(5, "lesion")]
SPACING = (2.0, 1.0, 0.5)


def geometry(shape, spacing=SPACING):
    return Geometry(shape, spacing, affine=np.diag([*spacing[::-1], 1.0]))


def save(folder, name, array, spacing=SPACING, suffix=".nii.gz"):
    folder.mkdir(exist_ok=True)
    write_label_map(folder / f"{name}{suffix}", array, geometry(array.shape, spacing))


def reference_map(*, lesion=True):
    array = np.zeros((8, 10, 12), dtype=np.uint8)
    array[2:6, 2:7, 3:9] = 1
    if lesion:
        array[3:5, 3:5, 4:6] = 5
    return array


@pytest.fixture
def folders(tmp_path):
    """Four references: one predicted perfectly, one shifted, one without its lesion, one not at all."""
    for name, lesion in {"a": True, "b": True, "c": True, "d": False}.items():
        save(tmp_path / "references", name, reference_map(lesion=lesion))
    save(tmp_path / "predictions", "a", reference_map())
    save(tmp_path / "predictions", "b", np.roll(reference_map(), 1, axis=2))
    without_lesion = reference_map()
    without_lesion[without_lesion == 5] = 1
    save(tmp_path / "predictions", "c", without_lesion)
    return tmp_path / "predictions", tmp_path / "references"


def rows_of(evaluation):
    return {(row["case_id"], row["name"]): row for row in evaluation.cases}


class TestPair:
    def test_rows_are_the_metrics_of_every_label(self):
        reference, prediction = reference_map(), np.roll(reference_map(), 1, axis=1)
        rows = evaluate_pair(prediction, reference, LABELS, SPACING, nsd_tolerance_mm=0.5)
        assert [(row["value"], row["name"], row["state"]) for row in rows] == [
            (1, "organ", "present"),
            (5, "lesion", "present"),
        ]
        for row in rows:
            masks = prediction == row["value"], reference == row["value"]
            for name, metric in METRICS.items():
                options = {"tolerance_mm": 0.5} if name == "nsd" else {}
                assert row[name] == metric.function(*masks, SPACING, **options)

    def test_absent_labels_keep_the_whole_image_in_sight(self):
        (row,) = evaluate_pair(reference_map(), reference_map(), [Label(9, "none")], SPACING)
        assert row["state"] == "both_empty"
        assert row["specificity"] == row["accuracy"] == 1
        assert all(math.isnan(row[n]) for n in ("dice", "iou", "sensitivity", "nsd", "hd95", "assd"))

    def test_missed_structure_is_as_far_as_the_image_is_large(self):
        reference = reference_map()
        (row,) = evaluate_pair(np.zeros_like(reference), reference, LABELS[1:2], SPACING)
        assert row["state"] == "missed"
        assert row["hd95"] == row["assd"] == pytest.approx(math.hypot(8 * 2.0, 10 * 1.0, 12 * 0.5))

    def test_refuses_what_are_no_label_maps(self):
        mask = reference_map()
        with pytest.raises(UsageError, match="label values"):
            evaluate_pair(mask.astype(float), mask, LABELS, SPACING)
        with pytest.raises(UsageError, match="label values"):
            evaluate_pair(mask.astype(int) - 1, mask, LABELS, SPACING)
        with pytest.raises(UsageError, match="same shape"):
            evaluate_pair(mask[1:], mask, LABELS, SPACING)
        with pytest.raises(UsageError, match="Did you mean dice"):
            evaluate_pair(mask, mask, LABELS, SPACING, metrics=["dicee"])
        with pytest.raises(UsageError, match="No metric"):
            evaluate_pair(mask, mask, LABELS, SPACING, metrics=[])


class TestFolder:
    def test_every_case_counts_and_failures_are_worst(self, folders):
        evaluation = evaluate_folder(*folders, labels=LABELS)
        rows = rows_of(evaluation)
        assert [(key, row["state"]) for key, row in rows.items()] == [
            (("a", "organ"), "present"),
            (("a", "lesion"), "present"),
            (("b", "organ"), "present"),
            (("b", "lesion"), "present"),
            (("c", "organ"), "present"),
            (("c", "lesion"), "missed"),
            (("d", "organ"), "no_prediction"),
            (("d", "lesion"), "no_prediction"),
        ]
        diagonal = math.hypot(16, 10, 6)
        assert rows["c", "lesion"]["hd95"] == rows["d", "organ"]["hd95"] == pytest.approx(diagonal)
        for name, metric in METRICS.items():
            assert rows["d", "lesion"][name] == pytest.approx(metric.worst(diagonal))
        summary = evaluation.summary
        assert summary["missing_predictions"] == ["d"]
        organ, lesion = summary["labels"]
        assert lesion["states"] == {
            "present": 2,
            "missed": 1,
            "invented": 0,
            "both_empty": 0,
            "no_prediction": 1,
        }
        assert (lesion["metrics"]["dice"]["n"], lesion["metrics"]["dice"]["n_missed"]) == (4, 2)
        assert organ["metrics"]["dice"]["mean"] == pytest.approx(
            np.mean([rows[case, "organ"]["dice"] for case in "abcd"])
        )
        expected = [np.mean([rows[case, label]["dice"] for label in ("organ", "lesion")]) for case in "abcd"]
        assert [summary["cases"][case]["dice"] for case in "abcd"] == pytest.approx(expected)
        assert summary["mean"]["dice"]["mean"] == pytest.approx(np.mean(expected))
        assert summary["mean"]["dice"]["std"] == pytest.approx(np.std(expected, ddof=1))
        assert [f.case_id for f in evaluation.findings if f.code == "E-EVALUATE-MISSING"] == ["d"]

    @pytest.mark.parametrize("name", ["dice", "iou", "sensitivity", "nsd", "hd95", "assd"])
    @pytest.mark.parametrize("failure", ["missed", "invented", "deleted"])
    def test_failing_on_a_case_never_makes_a_mean_better(self, tmp_path, name, failure):
        """A worse prediction of case x must not give a better mean, for every kind of failure."""
        has_lesion = failure != "invented"
        for case in "xy":
            save(tmp_path / "r", case, reference_map(lesion=has_lesion or case == "y"))
            save(tmp_path / "p", case, np.roll(reference_map(lesion=has_lesion or case == "y"), 1, axis=0))
        before = evaluate_folder(tmp_path / "p", tmp_path / "r", labels=LABELS, metrics=[name]).summary
        if failure == "missed":
            save(tmp_path / "p", "x", np.zeros_like(reference_map()))
        elif failure == "invented":
            invented = np.roll(reference_map(lesion=False), 1, axis=0)
            invented[0, 0, 0] = 5
            save(tmp_path / "p", "x", invented)
        else:
            (tmp_path / "p" / "x.nii.gz").unlink()
        after = evaluate_folder(tmp_path / "p", tmp_path / "r", labels=LABELS, metrics=[name]).summary
        sign = 1 if METRICS[name].better == "higher" else -1
        assert sign * after["mean"][name]["mean"] <= sign * before["mean"][name]["mean"]
        for worse, better in zip(after["labels"], before["labels"], strict=True):
            assert sign * worse["metrics"][name]["mean"] <= sign * better["metrics"][name]["mean"]

    def test_a_structure_absent_from_both_is_counted_but_not_scored(self, tmp_path):
        for case, lesion in {"x": True, "y": False}.items():
            save(tmp_path / "r", case, reference_map(lesion=lesion))
            save(tmp_path / "p", case, reference_map(lesion=lesion))
        evaluation = evaluate_folder(tmp_path / "p", tmp_path / "r", labels=LABELS)
        assert math.isnan(rows_of(evaluation)["y", "lesion"]["dice"])
        dice = evaluation.summary["labels"][1]["metrics"]["dice"]
        assert (dice["n"], dice["n_not_applicable"], dice["mean"], dice["ci_low"]) == (1, 1, 1.0, None)
        assert evaluation.summary["cases"]["y"]["dice"] == 1.0  # the organ alone

    def test_workers_change_nothing(self, folders):
        alone = evaluate_folder(*folders, labels=LABELS)
        for workers in (1, 3):
            together = evaluate_folder(*folders, labels=LABELS, workers=workers)
            assert repr(together.cases) == repr(alone.cases)
            assert together.summary == alone.summary

    def test_reports_every_case(self, folders):
        seen = []
        evaluate_folder(*folders, labels=LABELS, report=seen.append, workers=2)
        assert [(p.stage, p.done, p.total) for p in seen] == [("evaluate", n, 4) for n in range(5)]

    def test_saved_files_say_the_same(self, folders, tmp_path):
        evaluation = evaluate_folder(*folders, labels=LABELS, groups={"a": "p1", "b": "p1"})
        evaluation.save(tmp_path / "out")
        assert json.loads((tmp_path / "out" / "summary.json").read_text()) == evaluation.summary
        with open(tmp_path / "out" / "cases.csv", newline="") as stream:
            saved = list(csv.DictReader(stream))
        assert len(saved) == 8
        for row, original in zip(saved, evaluation.cases, strict=True):
            for name, value in original.items():
                if isinstance(value, float):
                    assert row[name] == "" if math.isnan(value) else float(row[name]) == value
                else:
                    assert row[name] == str(value)
        assert saved[0]["group"] == "p1"
        assert float(saved[0]["reference_volume_ml"]) == pytest.approx(
            int(saved[0]["reference_voxels"]) / 1000
        )

    def test_not_applicable_is_an_empty_cell(self, tmp_path):
        save(tmp_path / "r", "x", reference_map(lesion=False))
        save(tmp_path / "p", "x", reference_map(lesion=False))
        evaluate_folder(tmp_path / "p", tmp_path / "r", labels=LABELS).save(tmp_path)
        with open(tmp_path / "cases.csv", newline="") as stream:
            lesion = list(csv.DictReader(stream))[1]
        assert lesion["dice"] == lesion["hd95"] == ""
        assert "NaN" not in (tmp_path / "summary.json").read_text()

    def test_groups_widen_the_interval(self, demo_data, tmp_path):
        references = demo_data / "hippocampus" / "labelsTr"
        paths = sorted(references.iterdir())[:8]
        for number, path in enumerate(paths):
            label_map = read_label_map(path)
            moved = np.roll(label_map.array, number // 2, axis=2)  # cases of one patient fail alike
            write_label_map(tmp_path / "p" / path.name, moved, label_map.geometry)
            write_label_map(tmp_path / "r" / path.name, label_map.array, label_map.geometry)
        groups = {path.name.removesuffix(".nii.gz"): f"patient {n // 2}" for n, path in enumerate(paths)}
        labels = [Label(1, "Anterior"), Label(2, "Posterior")]
        widths = []
        for given in (None, groups):
            summary = evaluate_folder(
                tmp_path / "p", tmp_path / "r", labels=labels, metrics=["dice"], groups=given
            ).summary
            widths.append(summary["mean"]["dice"]["ci_high"] - summary["mean"]["dice"]["ci_low"])
        assert widths[1] > widths[0]
        assert (summary["bootstrap"]["resampled"], summary["bootstrap"]["n_units"]) == ("groups", 4)

    def test_labels_come_from_the_dataset_or_from_the_values(self, folders):
        predictions, references = folders
        unnamed = evaluate_folder(predictions, references, metrics=["dice"])
        assert [(row["value"], row["name"]) for row in unnamed.cases[:2]] == [(1, "label 1"), (5, "label 5")]
        document = {"labels": {"background": 0, "lesion": 5, "organ": 1}}
        (references.parent / "dataset.json").write_text(json.dumps(document))
        named = evaluate_folder(predictions, references, metrics=["dice"])
        assert [(row["value"], row["name"]) for row in named.cases[:2]] == [(1, "organ"), (5, "lesion")]

    def test_values_without_a_label_are_named(self, folders):
        evaluation = evaluate_folder(*folders, labels=LABELS[:2], metrics=["dice"])
        texts = [f.text for f in evaluation.findings if f.code == "E-EVALUATE-VALUE"]
        assert len(texts) == 5  # both masks of a and b, the reference of c
        assert all("were not scored: 5" in text for text in texts)

    def test_pixels_are_called_pixels(self, demo_data, tmp_path):
        references = demo_data / "nuclei" / "labelsTr"
        for path in sorted(references.iterdir())[:2]:
            label_map = read_label_map(path)
            write_label_map(tmp_path / path.name, label_map.array, label_map.geometry)
        evaluation = evaluate_folder(tmp_path, references, metrics=["dice", "hd95"])
        assert evaluation.summary["unit"] == evaluation.summary["metrics"]["hd95"]["unit"] == "px"
        assert evaluation.cases[0]["name"] == "nucleus"
        assert len(evaluation.summary["missing_predictions"]) == 16


class TestPairs:
    def test_pairs_from_anywhere_are_evaluated_like_a_folder(self, folders):
        predictions, references = folders
        pairs = [
            Pair(case, references / f"{case}.nii.gz", None if case == "d" else predictions / f"{case}.nii.gz")
            for case in "abcd"
        ]
        folder = evaluate_folder(predictions, references, labels=LABELS)
        assert evaluate_pairs(pairs, labels=LABELS).summary == folder.summary

    def test_needs_a_pair(self):
        with pytest.raises(DataError, match="no reference"):
            evaluate_pairs([], labels=LABELS)


class TestRefusals:
    def test_all_faults_are_listed_at_once(self, folders):
        predictions, references = folders
        save(predictions, "a", reference_map()[:, :, 1:])
        save(predictions, "b", reference_map(), spacing=(2.1, 1.0, 0.5))
        (predictions / "c.nii.gz").write_bytes(b"no image")
        with pytest.raises(DatasetError) as caught:
            evaluate_folder(predictions, references, labels=LABELS)
        assert caught.value.code == "E-EVALUATE-REFUSED"
        assert caught.value.exit_code == 3
        assert [f.case_id for f in caught.value.findings] == ["a", "b", "c"]
        assert [f.code for f in caught.value.findings[:2]] == ["E-EVALUATE-GEOMETRY"] * 2
        assert "(2.1" in str(caught.value)

    @pytest.mark.parametrize("labels", [LABELS, None])
    def test_voxels_that_cannot_be_read_name_their_case(self, folders, labels):
        predictions, references = folders
        import nibabel

        halves = nibabel.Nifti1Image(np.full((12, 10, 8), 0.5, dtype=np.float32), np.diag([0.5, 1, 2, 1]))
        nibabel.save(halves, predictions / "b.nii.gz")
        with pytest.raises(DatasetError) as caught:
            evaluate_folder(predictions, references, labels=labels)
        assert [f.case_id for f in caught.value.findings if f.level == "error"] == ["b"]

    def test_an_empty_world_is_refused(self, tmp_path):
        nothing = np.zeros((4, 4, 4), dtype=np.uint8)
        save(tmp_path / "r", "x", nothing)
        save(tmp_path / "p", "x", nothing)
        with pytest.raises(DataError, match="background"):
            evaluate_folder(tmp_path / "p", tmp_path / "r")


def test_rules_for_empty_masks_are_in_the_summary(folders):
    summary = evaluate_folder(*folders, labels=LABELS).summary
    assert {name: facts["empty"] for name, facts in summary["metrics"].items()} == EMPTY_RULES
    assert summary["metrics"]["hd95"] == {
        "title": "HD95",
        "unit": "mm",
        "low": 0.0,
        "high": None,
        "better": "lower",
        "summary": METRICS["hd95"].summary,
        "empty": EMPTY_RULES["hd95"],
    }


def test_needs_no_deep_learning_library():
    code = """
import sys
import scanseg.evaluation, scanseg.reporting.report, scanseg.reporting.figures, scanseg.reporting.tables
from scanseg.evaluation.metrics.surface import cell_sizes
cell_sizes((1, 1, 1))
heavy = {"torch", "monai", "nnunetv2", "matplotlib", "pandas", "SimpleITK"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
