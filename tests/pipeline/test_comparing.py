"""`compare` on run folders with scores of real label maps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scanseg
from scanseg.data.dataset import load_dataset
from scanseg.data.image import read_label_map, write_label_map
from scanseg.errors import DataError, UsageError
from scanseg.evaluation import evaluate_pairs
from scanseg.evaluation.pairing import Pair
from scanseg.networks import count_parameters, create_network

NETWORK = {
    "name": "umamba_bot",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": [16, 16, 16],
    "strides": None,
    "kernel_sizes": None,
    "deep_supervision": True,
    "options": {"base_features": 4},
}


def make_run(folder: Path, cases, shift: int, *, seed=0, network="umamba_bot", drop=0, **recipe) -> Path:
    """Writes a run whose masks are the references shifted by so many voxels along the second axis."""
    pairs = []
    for case in cases[drop:]:
        label_map = read_label_map(case.label)
        mask = folder / "masks" / f"{case.case_id}.nii.gz"
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(mask, np.roll(label_map.array, shift, axis=1), label_map.geometry)
        pairs.append(Pair(case.case_id, case.label, mask))
    groups = {case.case_id: case.group for case in cases if case.group}
    labels = load_dataset(Path(scanseg.__file__).parent / "demo_data" / "hippocampus").labels
    evaluate_pairs(pairs, labels=labels, groups=groups, metrics=["dice", "nsd", "hd95"]).save(
        folder / "validation"
    )
    shutil.rmtree(folder / "masks")
    config = {"network": {**NETWORK, "name": network}, "split": {"train": [], "validation": []}, "fold": 0}
    (folder / "config.json").write_text(json.dumps(config))
    fields = {"network": network, "seed": seed, **recipe}
    (folder / "recipe.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()))
    (folder / "run.json").write_text(json.dumps({"device": "cpu", "threads": 2, "platform": "here"}))
    epochs = [
        {"epoch": n, "step": 5 * n, "seconds": 60 if n == 1 else 10 + n, "peak_memory_bytes": n * 10**9}
        for n in (1, 2, 3, 4)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    return folder


@pytest.fixture(scope="module")
def cases(demo_data: Path):
    return load_dataset(demo_data / "hippocampus").cases[:7]


@pytest.fixture(scope="module")
def runs(cases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        "good": make_run(root / "good", cases, 0),
        "good_1": make_run(root / "good_1", cases, 1, seed=1),
        "bad": make_run(root / "bad", cases, 3, network="nnunet_plain"),
        "other": make_run(root / "other", cases, 2, seed=5, loss="focal"),
        "short": make_run(root / "short", cases, 0, drop=2),
    }


def test_a_comparison_holds_scores_costs_and_files(runs, tmp_path) -> None:
    result = scanseg.compare([runs["good"], runs["bad"]], output=tmp_path, latex=True)
    document = result.as_dict()
    assert json.loads((tmp_path / "compare.json").read_text()) == document
    assert document["mean"]["dice"]["good"]["mean"] == 1
    assert document["mean"]["dice"]["bad"]["difference"]["losses"] == 7
    assert document["mean"]["hd95"]["bad"]["difference"]["mean"] > 0
    costs = document["runs"]["good"]["costs"]
    assert (costs["steps"], costs["peak_memory_bytes"]) == (20, 4 * 10**9)
    assert costs["seconds_per_step"] == pytest.approx(13 / 5)  # median of 12, 13, 14; the first is left out
    network = create_network(**{k: v for k, v in NETWORK.items() if k != "options"}, base_features=4)
    assert costs["parameters"] == count_parameters(network)
    page, latex = ((tmp_path / name).read_text() for name in ("compare.md", "compare.tex"))
    for text in (page, latex):
        assert "0/0/7" in text
        assert "HD95 (mm)" in text
    assert page.count("\n| --- |") == 2 * 3 + 1  # two metrics, mean and two labels, and the costs
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_patients_are_the_units(runs, cases) -> None:
    document = scanseg.compare([runs["good"], runs["bad"]]).document
    assert document["statistics"]["n_units"] == len({case.group or case.case_id for case in cases})
    assert document["statistics"]["resampled"] == "groups"


def test_seeds_of_one_recipe_make_one_contender(runs) -> None:
    folders = [runs["bad"], runs["good"], runs["good_1"], runs["other"]]
    document = scanseg.compare(folders, group=True, metrics=["dice"]).document
    assert document["contenders"] == ["nnunet_plain", "umamba_bot", "umamba_bot (loss=focal)"]
    assert document["baseline"] == "nnunet_plain"
    members = document["runs"]["umamba_bot"]["members"]
    assert [(member["name"], member["seed"]) for member in members] == [("good", 0), ("good_1", 1)]
    seeds = document["mean"]["dice"]["umamba_bot"]["seeds"]
    alone = [
        scanseg.compare([runs["bad"], runs[name]]).document["mean"]["dice"][name]
        for name in ("good", "good_1")
    ]
    assert seeds["means"] == pytest.approx([one["mean"] for one in alone])
    assert seeds["std"] == pytest.approx(abs(seeds["means"][0] - seeds["means"][1]) / 2**0.5)


def test_names_make_groups_too(runs) -> None:
    folders = [runs["good"], runs["other"], runs["bad"]]
    document = scanseg.compare(folders, group=True, names=["ours", "ours", "theirs"]).document
    assert document["contenders"] == ["ours", "theirs"]
    with pytest.raises(UsageError, match="the name 'ours'"):
        scanseg.compare(folders, names=["ours", "ours", "theirs"])
    with pytest.raises(UsageError, match="3 runs, but 2 names"):
        scanseg.compare(folders, names=["ours", "theirs"])


def test_different_cases_are_refused_or_left_out(runs, cases) -> None:
    missing = [case.case_id for case in cases[:2]]
    with pytest.raises(DataError, match=f"short lacks {', '.join(sorted(missing))}"):
        scanseg.compare([runs["good"], runs["short"]])
    document = scanseg.compare([runs["good"], runs["short"]], common=True).document
    assert document["left_out"]["good"] == sorted(missing)
    assert "2 cases of good were left out" in " ".join(document["notes"])


def test_what_weakens_a_comparison_is_said(runs, cases, tmp_path) -> None:
    spoiled = shutil.copytree(runs["bad"], tmp_path / "bad")
    config = json.loads((spoiled / "config.json").read_text())
    config["split"]["train"] = [cases[0].case_id]
    (spoiled / "config.json").write_text(json.dumps(config))
    (spoiled / "run.json").write_text(json.dumps({"device": "cuda", "threads": 8, "platform": "there"}))
    (spoiled / "metrics.jsonl").write_text('{"epoch": 1, "step": 3, "seconds": 1}\n')
    notes = " ".join(scanseg.compare([runs["good"], spoiled]).document["notes"])
    assert "bad was trained on 1 of the compared cases" in notes
    assert "different machines" in notes
    assert "different numbers of steps" in notes


def test_different_ways_of_measuring_are_refused(runs, tmp_path) -> None:
    spoiled = shutil.copytree(runs["bad"], tmp_path / "bad")
    summary = json.loads((spoiled / "validation" / "summary.json").read_text())
    summary["nsd_tolerance_mm"] = 2.0
    (spoiled / "validation" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match="different nsd tolerance mm"):
        scanseg.compare([runs["good"], spoiled], metrics=["nsd"])
    assert scanseg.compare([runs["good"], spoiled]).document["metrics"].keys() == {"dice", "hd95"}
    with pytest.raises(DataError, match="has no iou"):
        scanseg.compare([runs["good"], runs["bad"]], metrics=["iou"])


def test_an_evaluation_without_a_run_can_be_compared(runs, tmp_path) -> None:
    folder = shutil.copytree(runs["bad"] / "validation", tmp_path / "masks")
    document = scanseg.compare([runs["good"], folder]).document
    assert document["runs"]["masks"]["costs"]["parameters"] is None
    assert document["mean"]["dice"]["masks"]["difference"]["losses"] == 7
    with pytest.raises(DataError, match="no measured cases"):
        scanseg.compare([runs["good"], tmp_path])


def test_a_cross_validation_was_not_trained_on_what_it_predicts(runs, cases, tmp_path) -> None:
    top = tmp_path / "cv"
    for fold in (0, 1):
        part = shutil.copytree(runs["bad"], top / f"fold_{fold}")
        config = json.loads((part / "config.json").read_text())
        config["split"]["train"] = [case.case_id for case in cases]
        (part / "config.json").write_text(json.dumps(config))
    shutil.copytree(runs["bad"] / "validation", top / "validation")
    document = scanseg.compare([runs["good"], top]).document
    assert not any("trained on" in note for note in document["notes"])
    assert document["runs"]["cv"]["costs"]["steps"] == 20
    assert document["runs"]["cv"]["network"] == "nnunet_plain"
