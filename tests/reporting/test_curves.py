import io
import json

import numpy as np
import pytest
from PIL import Image as PillowImage

from scanseg.errors import DataError
from scanseg.reporting.curves import (
    duration,
    learned_columns,
    learned_figure,
    progress_figure,
    read_metrics,
    scores_figure,
)
from scanseg.types import Label

FACTS = {
    "dice": {"title": "Dice", "unit": "", "low": 0.0, "high": 1.0},
    "hd95": {"title": "HD95", "unit": "mm", "low": 0.0, "high": None},
}


def opened(png):
    return PillowImage.open(io.BytesIO(png))


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_half_written_last_line_is_left_out(finished_run):
    assert [record["epoch"] for record in read_metrics(finished_run / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(DataError, match="Line 2"):
        read_metrics(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text"):
        read_metrics(path)


def test_curves_lie_beside_the_metrics(finished_run, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes((finished_run / "metrics.jsonl").read_bytes())
    path = progress_figure(metrics)
    assert path == tmp_path / "progress.png"
    assert opened(path.read_bytes()).size == (1170, 936)
    first = path.read_bytes()
    assert progress_figure(metrics).read_bytes() == first


@pytest.mark.parametrize(
    "lines",
    [
        [{"epoch": 1}],
        [{}],
        [{"epoch": 1, "train_loss": None, "pseudo_dice": 0.3}],
        [{"epoch": 1, "train_loss": "oops", "pseudo_dice_per_label": None}, {"epoch": 2, "train_loss": 1}],
        [{"epoch": n, "pseudo_dice_per_label": {f"$_{k}": 0.1 * n for k in range(30)}} for n in (1, 2)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_missing_values_are_left_out(lines, tmp_path):
    assert progress_figure(write(tmp_path / "m.jsonl", lines)).is_file()


def test_no_epoch_no_curve(tmp_path):
    with pytest.raises(DataError, match="no finished epoch"):
        progress_figure(write(tmp_path / "m.jsonl", []))
    with pytest.raises(DataError, match="does not exist"):
        progress_figure(tmp_path / "absent.jsonl")


def rows_with(dice, states=None):
    states = states or ["present"] * len(dice)
    return [
        {
            "case_id": str(n),
            "value": "1",
            "state": s,
            "dice": str(d),
            "hd95": "" if d == "" else str(5 - 5 * float(d)),
        }
        for n, (d, s) in enumerate(zip(dice, states, strict=True))
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "rows",
    [
        rows_with([0.5, 0.6, 0.9]),
        rows_with([0.5, "", 0.0], ["present", "both_empty", "missed"]),
        rows_with([0.0], ["no_prediction"]),
        [],
    ],
)
def test_scores_of_any_cases_make_a_picture(rows):
    for labels in (
        [Label(0, "background"), Label(1, "_$organ")],
        [Label(n, f"label {n}") for n in range(60)],
    ):
        assert max(opened(scores_figure(rows, FACTS, labels)).size) < 3000


def test_failed_cases_do_not_squeeze_the_others():
    """A missed case of 400 mm must not change where the others are drawn by more than the edge."""
    labels = [Label(1, "organ")]
    pictures = []
    for worst in (40.0, 4000.0):
        rows = [
            *rows_with([0.5, 0.6, 0.9]),
            {"case_id": "m", "value": 1, "state": "missed", "dice": 0, "hd95": worst},
        ]
        pictures.append(scores_figure(rows, FACTS, labels))
    first, second = (np.asarray(opened(png)).astype(int) for png in pictures)
    # The box of the quartiles reaches to the worst value; points and axes stay.
    assert np.mean(np.abs(first - second).max(axis=-1) > 8) < 0.05


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (7260, "2 h 1 min")]
)
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


def test_learned_weights_are_found_by_their_columns(tmp_path):
    records = [
        {"epoch": 1, "sigma_dice": 1.0, "sigma_focal": None, "alpha_skip_up": 1.0},
        {"epoch": 2, "sigma_dice": 0.5},
    ]
    assert learned_columns(records, "sigma")["dice"].tolist() == [1.0, 0.5]
    assert list(learned_columns(records, "sigma")) == ["dice"]
    alphas = learned_columns(records, "alpha")
    assert list(alphas) == ["skip_up"]
    assert np.isnan(alphas["skip_up"][1])
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert learned_figure(path, "sigma").startswith(b"\x89PNG")
    assert learned_figure(path, "beta") is None
