"""Tables and pictures of comparisons; the numbers in them are those of the document."""

import io

import numpy as np
import pytest
from PIL import Image

from scanseg.evaluation import evaluate_pair
from scanseg.evaluation.compare import Judged, compare_scores
from scanseg.evaluation.summary import describe_metrics
from scanseg.reporting.compared import cost_rows, latex_page, markdown_page, metric_rows, reading_notes
from scanseg.reporting.costs import mean_costs
from scanseg.reporting.differences import differences_figure
from scanseg.types import Label

LABELS = [Label(0, "background"), Label(1, "organ_a")]


@pytest.fixture(scope="module")
def document():
    truth = np.zeros((12, 14), np.uint8)
    truth[3:8, 4:10] = 1

    def rows(shifts):
        return [
            {"case_id": f"c{n}", "group": "", **row}
            for n, shift in enumerate(shifts)
            for row in evaluate_pair(np.roll(truth, shift, 1), truth, LABELS, (1.0, 1.0))
        ]

    names = ["base_line", "un|usual $name$"]
    judged = [
        Judged(names[0], ("r0",), (rows([0, 1, 2, 1]),)),
        Judged(names[1], ("r1", "r2"), (rows([1, 1, 3, 2]), rows([1, 2, 3, 2]))),
    ]
    scores = compare_scores(judged, ["dice", "hd95"])
    costs = {"steps": 1200, "seconds_per_step": 0.5, "parameters": None, "peak_memory_bytes": 2_500_000_000}
    runs = {name: {"network": "", "members": [{}], "costs": costs} for name in names}
    return {**scores, "metrics": describe_metrics(["dice", "hd95"], "mm"), "runs": runs, "notes": ["A note."]}


def test_rows_are_the_numbers_of_the_document(document):
    columns, rows = metric_rows(document, "dice", document["mean"]["dice"])
    found = document["mean"]["dice"]["un|usual $name$"]
    assert columns[0] == "contender"
    assert all(len(row) == len(columns) for row in rows)
    first, second = (dict(zip(columns, row, strict=True)) for row in rows)
    assert first["minus base_line"] == "baseline"
    assert second["Dice"].startswith(f"{found['mean']:.3f} (")
    assert second["minus base_line"].startswith(f"{found['difference']['mean']:.3f} (-")
    assert second["won/tied/lost"] == "0/0/4"
    assert second["p"] == f"{found['difference']['p']:.3f}"
    assert f"SD {found['seeds']['std']:.3f}" in second["spread of seeds"]
    assert first["spread of seeds"] == "one run"


def test_a_worse_distance_has_a_plus(document):
    columns, rows = metric_rows(document, "hd95", document["mean"]["hd95"])
    assert rows[1][columns.index("minus base_line")].startswith("+")


def test_costs_that_are_unknown_are_question_marks(document):
    columns, rows = cost_rows(document)
    row = dict(zip(columns, rows[0], strict=True))
    assert (row["steps"], row["parameters"], row["peak memory"]) == ("1,200", "?", "2.50 GB")


def test_names_are_no_markup(document):
    assert r"un\|usual" in markdown_page(document)
    assert r"un|usual \$name\$" in latex_page(document)
    assert latex_page(document).count(r"\begin{tabular}") == 3


def test_the_page_says_how_it_was_made(document):
    page = markdown_page(document)
    for note in reading_notes(document):
        assert f"- {note}" in page
    notes = " ".join(reading_notes(document))
    assert "cannot reach p < 0.05" in notes  # four cases
    assert "2 tests of the means" in notes
    assert "A note." in notes


def test_the_picture_is_drawn_twice_alike(document):
    png = differences_figure(document)
    assert png == differences_figure(document)
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size[0] > picture.size[1] > 100


def test_times_are_averaged_and_sizes_are_the_largest():
    costs = [
        {"steps": 10, "seconds_per_step": 1.0, "parameters": 5, "peak_memory_bytes": None},
        {"steps": 12, "seconds_per_step": 3.0, "parameters": None, "peak_memory_bytes": None},
    ]
    assert mean_costs(costs) == {
        "steps": 12,
        "seconds_per_step": 2.0,
        "parameters": 5,
        "peak_memory_bytes": None,
    }
