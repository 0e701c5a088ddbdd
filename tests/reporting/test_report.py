import base64
import csv
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image as PillowImage

from scanseg.reporting.report import write_report
from scanseg.reporting.run_files import read_run

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and texts, and checks that tags are closed in order."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text("utf-8")
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(self.texts)

    @property
    def pictures(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]


def assert_self_contained(page):
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "a", "svg"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert value.startswith("data:image/png;base64,"), (tag, name)
        assert name != "style"
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "http" not in style
    (policy,) = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    )


def test_tells_everything_about_a_run(run_folder):
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    assert (run_folder / "progress.png").is_file()
    page = Page(path)
    assert_self_contained(page)
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings == [
        "Scores: validation cases, held out from training",
        "Examples",
        "Failures and gaps",
        "Every case",
        "Training",
        "Data",
        "Plan, and why",
        "Recipe",
        "Repeat it",
    ]
    summary = json.loads((run_folder / "validation" / "summary.json").read_text())
    for expected in [
        "Hippocampus MR",
        "umamba_bot, 3d_fullres, fold 0",
        f"{summary['mean']['dice']['mean']:.3f}",
        f"{summary['labels'][0]['metrics']['hd95']['mean']:.2f}",
        "10,000 resamples",
        "seed 12345",
        "NSD at a tolerance of 1 mm",
        "3 of 8",  # failed structures
        "missed: in the reference, not in the prediction",
        "no prediction",
        "CC BY-SA 4.0",
        "Antonelli et al.",
        "40 × 56 × 40",
        "Aspect of the median image, a multiple of the strides.",
        "0.59 GB",
        "Few cases.",
        "scanseg train 'my data' -o runs/x",
        "torch 2.13.0",
        "Linux-6.1-x86_64",
        "ab" * 32,
        "1 h 2 min",
        "Research software. Not a medical device.",
    ]:
        assert expected in page.text, expected
    assert "missing" not in page.text.replace("missing prediction", "")


def test_pictures_are_those_of_the_best_median_and_worst_case(run_folder):
    page = Page(write_report(run_folder))
    cases = json.loads((run_folder / "validation" / "summary.json").read_text())["cases"]
    order = sorted(cases, key=lambda case: cases[case]["dice"])
    captions = re.findall(r"(\w+) case: (\w+), Dice ([\d.]+)", page.text)
    assert [(which, case) for which, case, _ in captions] == [
        ("Best", order[-1]),
        ("Median", order[2]),
        ("Worst", order[0]),
    ]
    # Scores, two of three examples (the worst has no prediction) and the curves.
    assert len(page.pictures) == 4
    assert "There is no picture of this case" in page.text
    for uri in page.pictures:
        PillowImage.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).verify()
    embedded = base64.b64decode(page.pictures[1].split(",")[1])
    assert embedded == (run_folder / "validation" / f"{order[-1]}.png").read_bytes()


HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(2)>"


def test_hostile_names_stay_text(run_folder):
    for name in ("dataset.json", "check.json", "config.json", "plan.json", "run.json"):
        text = (run_folder / name).read_text()
        for word in (
            "hippocampus_023",
            "Anterior",
            "MRI",
            "Vanderbilt",
            "Orientation of most",
            "Linux",
            "umamba",
        ):
            text = text.replace(word, json.dumps(HOSTILE)[1:-1])
        (run_folder / name).write_text(text)
    recipe = run_folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("umamba_bot", HOSTILE.replace('"', '\\"')))
    summary = run_folder / "validation" / "summary.json"
    text = summary.read_text().replace("Anterior", json.dumps(HOSTILE)[1:-1])
    summary.write_text(text.replace('"hippocampus_023"', json.dumps(HOSTILE)))
    cases = run_folder / "validation" / "cases.csv"
    with open(cases, newline="") as stream:
        rows = list(csv.DictReader(stream))
    with open(cases, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows({**row, "case_id": HOSTILE, "name": HOSTILE} for row in rows)
    metrics = run_folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("Anterior", json.dumps(HOSTILE)[1:-1]))
    page = Page(write_report(run_folder))
    assert_self_contained(page)
    assert page.text.count("<script>alert(1)</script>") > 10
    assert len(page.pictures) >= 3


def test_case_names_do_not_lead_out_of_the_run(run_folder, tmp_path):
    secret = tmp_path / "secret.png"
    PillowImage.new("RGB", (5, 5), "red").save(secret)
    (run_folder / "validation" / "linked.png").symlink_to(secret)
    run = read_run(run_folder)
    from scanseg.reporting.run_files import find_picture

    for name in ("../../secret", str(tmp_path / "secret"), "linked", "..", ""):
        assert find_picture(run, run.scores[0], name) is None
    assert find_picture(run, run.scores[0], "hippocampus_023") is not None


def test_a_grey_mask_is_not_taken_for_a_picture(run_folder):
    from scanseg.reporting.run_files import find_picture

    picture = run_folder / "validation" / "hippocampus_023.png"
    PillowImage.new("L", (5, 5), 1).save(picture)
    run = read_run(run_folder)
    assert find_picture(run, run.scores[0], "hippocampus_023") is None
    previews = run_folder / "validation" / "previews"
    previews.mkdir()
    shutil.copy(run_folder / "validation" / "hippocampus_024.png", previews / "hippocampus_023.png")
    assert find_picture(run, run.scores[0], "hippocampus_023") == previews / "hippocampus_023.png"


FILES = ["config.json", "plan.json", "dataset.json", "check.json", "run.json", "recipe.toml", "metrics.jsonl"]


@pytest.fixture
def lean_run(run_folder):
    """A run whose report needs few pictures: one epoch, one metric."""
    metrics = run_folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + "\n")
    summary = run_folder / "validation" / "summary.json"
    content = json.loads(summary.read_text())
    content["metrics"] = {"dice": content["metrics"]["dice"]}
    summary.write_text(json.dumps(content))
    return run_folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "binary", "other"])
def test_each_file_may_be_missing_or_damaged(lean_run, name, damage):
    if name != "metrics.jsonl":
        (lean_run / "metrics.jsonl").unlink()
    file = lean_run / name
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(b"\n".join(file.read_bytes().splitlines()[:1]) + b"\n{[,\n\n{}\n")
    elif damage == "binary":
        file.write_bytes(bytes(range(256)))
    else:
        file.write_text(
            "[1, 2]" if name.endswith("json") else "x = [1]\n" if name == "recipe.toml" else "[]\n3\n"
        )
    page = Page(write_report(lean_run))
    assert_self_contained(page)
    assert "Failures and gaps" in page.text
    assert name in page.text or damage == "other"
    assert "0.5" in page.text  # the scores are still there


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"network": 3, "split": [], "training": "x", "fold": {}}),
        ("plan.json", {"configurations": {"3d_fullres": []}, "reasons": 4}),
        ("check.json", {"statistics": {"labels": 3, "shape": []}, "cases": [1], "findings": {"a": 1}}),
        ("run.json", {"versions": [1], "seconds": "long"}),
        ("validation/summary.json", {"metrics": {"dice": 3}, "labels": [4], "mean": [], "cases": 9}),
        ("validation/summary.json", {}),
    ],
)
def test_unexpected_content_spoils_only_its_section(lean_run, name, content):
    (lean_run / name).write_text(json.dumps(content))
    page = Page(write_report(lean_run))
    assert_self_contained(page)
    assert "Research software" in page.text
    assert "Recipe" in page.text


def test_an_empty_folder_gives_a_page_that_says_so(tmp_path):
    page = Page(write_report(tmp_path))
    assert_self_contained(page)
    for name in FILES:
        assert f"{name} is missing" in page.text
    assert "validation/summary.json is missing" in page.text


def test_folds_are_gathered(run_folder, tmp_path):
    top = tmp_path / "cv"
    shutil.copytree(run_folder, top / "fold_0")
    shutil.copytree(run_folder, top / "fold_1")
    (top / "validation").mkdir()
    for name in ("cases.csv", "summary.json"):
        shutil.copy(run_folder / "validation" / name, top / "validation" / name)
    page = Page(write_report(top))
    assert "umamba_bot, 3d_fullres, cross-validation of 2 folds" in page.text
    assert page.text.count("case: hippocampus") == 3
    assert len(page.pictures) == 5  # scores, two examples, curves of both folds
    assert "run.json is missing" not in page.text


def test_test_cases_come_first(run_folder):
    shutil.copytree(run_folder / "validation", run_folder / "unseen")
    page = Page(write_report(run_folder))
    assert page.text.index("Scores: test cases, never seen in training") < page.text.index(
        "Scores: validation"
    )


def test_long_tables_are_cut_with_a_note(lean_run):
    cases = lean_run / "validation" / "cases.csv"
    lines = cases.read_text().splitlines(keepends=True)
    cases.write_text(lines[0] + lines[1] * 1000)
    page = Page(write_report(lean_run))
    assert "600 further rows stand in the files of the run." in page.text


def test_the_same_files_give_the_same_page(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_learned_weights_are_drawn_where_the_training_tells_them(run_folder):
    before = Page(write_report(run_folder)).tags.count("img")
    path = run_folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()[:-1]]
    for line in lines:
        line |= {"alpha_skip_down": 1 / line["epoch"], "sigma_dice": 1.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run_folder))
    assert page.tags.count("img") == before + 2
    assert "Learned weights of the scans (alpha), mean over the blocks" in page.texts
