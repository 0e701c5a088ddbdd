import json

import pytest

from scanseg.reporting.tables import interval_text, latex_table, markdown_table, number_text, score_rows


@pytest.fixture
def summary(finished_run):
    return json.loads((finished_run / "validation" / "summary.json").read_text())


def test_rows_hold_the_numbers_of_the_summary(summary):
    columns, rows = score_rows(summary)
    titles = "Dice, IoU, Sensitivity, Specificity, Accuracy, NSD, HD95 (mm), ASSD (mm), MSE"
    assert columns == ["label", "cases", *titles.split(", ")]
    assert [row[:2] for row in rows] == [["Anterior", "4"], ["Posterior", "4"], ["mean", "4"]]
    values = summary["labels"][1]["metrics"]["hd95"]
    assert rows[1][8] == f"{values['mean']:.2f} ({values['ci_low']:.2f} to {values['ci_high']:.2f})"
    assert score_rows(summary, ["nsd", "unknown"])[0] == ["label", "cases", "NSD"]


def test_one_label_needs_no_mean(summary):
    summary["labels"] = summary["labels"][:1]
    assert [row[0] for row in score_rows(summary)[1]] == ["Anterior"]


def test_an_empty_summary_makes_an_empty_table():
    assert score_rows({}) == (["label", "cases"], [])


def test_markdown_keeps_its_columns_whatever_the_names(summary):
    summary["labels"][0]["name"] = "a|b *x* <script>\n_y_"
    lines = markdown_table(summary, ["dice"]).splitlines()
    assert lines[0] == "| label | cases | Dice |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[2].startswith(r"| a\|b \*x\* \<script\> \_y\_ | 4 | ")
    assert all(line.replace(r"\|", "").count("|") == 4 for line in lines)


def test_latex_is_balanced_and_escaped(summary):
    summary["labels"][0]["name"] = "50% of A_1 & B \\input{x} $y^2$ #"
    text = latex_table(summary, ["dice", "hd95"])
    assert r"50\% of A\_1 \& B \textbackslash{}input\{x\} \$y\textasciicircum{}2\$ \#" in text
    assert text.startswith("\\begin{tabular}{lrrr}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    body = text.replace(r"\{", "").replace(r"\}", "")
    assert body.count("{") == body.count("}")


def test_numbers_that_do_not_exist_are_not_made_up():
    assert interval_text({}, {}) == "n/a"
    assert interval_text({"mean": 0.5, "ci_low": None, "ci_high": None}, {}) == "0.500"
    assert number_text(float("nan"), {}) == number_text("", {}) == number_text("oops", {}) == "n/a"
