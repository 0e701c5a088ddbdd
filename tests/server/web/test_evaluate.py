"""The form that measures a mask against a reference, and what it shows."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from scanseg import pipeline

from .test_page import saved

pytestmark = pytest.mark.timeout(300)  # the first test waits for the models to be trained


@pytest.fixture(scope="module")
def reference(demo_data: Path, image_3d: Path) -> Path:
    """What an expert drew on `image_3d`."""
    return demo_data / "hippocampus" / "labelsTs" / image_3d.name.replace("_0000", "")


def tab_to(page: Any, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(what) => document.activeElement.matches(what)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_the_mask_of_a_case_is_measured(
    visit, site: Any, image_3d: Path, reference: Path, tmp_path: Path
) -> None:
    with site.client() as client:
        url = "/api/v1/predictions?model=hippocampus&wait=60"
        head = {"X-Scanseg-Name": "scan.nii.gz"}
        job = client.put(url, content=image_3d.read_bytes(), headers=head).json()
        mask = client.get(f"/api/v1/predictions/{job['id']}/mask?format=nii.gz").content
        (tmp_path / "mask.nii.gz").write_bytes(mask)
        one = visit(scheme="dark")
        page = one.page
        page.goto(f"{one.url}/#/cases/{job['id']}")
        page.click("#to-evaluate")
        page.wait_for_selector("#evaluate-run:disabled")
        assert page.input_value("#evaluate-source") == job["id"]
        tab_to(page, "#evaluate-source")
        tab_to(page, "#evaluate-reference")
        page.set_input_files("#evaluate-reference", reference)
        tab_to(page, "#evaluate-run")
        page.keyboard.press("Enter")
        page.wait_for_selector(".scores")
        found = json.loads(saved(page, "#get-json"))
        made = page.url.rpartition("/")[2]
        assert found == client.get(f"/api/v1/evaluations/{made}/result").json()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mask.nii.gz").write_bytes(reference.read_bytes())
    expected, _ = pipeline.evaluate(tmp_path / "mask.nii.gz", tmp_path / "r" / "mask.nii.gz", output=tmp_path)
    rows = list(csv.DictReader(io.StringIO(saved(page, "#get-csv").decode())))
    assert list(rows[0]) == (tmp_path / "cases.csv").read_text().splitlines()[0].split(",")
    assert [float(row["dice"]) for row in rows] == [row["dice"] for row in expected.cases]
    assert [row["name"] for row in rows] == ["Anterior", "Posterior"]
    shown = page.locator(".scores tbody tr").all_inner_texts()
    for text, row in zip(shown, expected.cases, strict=True):
        assert f"{row['hd95']:.3g}" in text
    page.click("text=the case")
    page.wait_for_url(re.compile(f"#/cases/{job['id']}"))


def test_a_mask_of_ones_own_and_what_is_not_there(visit, reference: Path, tmp_path: Path) -> None:
    image = nibabel.load(reference)
    values = np.asarray(image.dataobj)
    for name, kept in (("empty.nii.gz", ()), ("first.nii.gz", (1,))):
        part = np.where(np.isin(values, kept), values, 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(part, image.affine), tmp_path / name)
    one = visit(width=390, height=844)
    page = one.page
    page.click("nav >> text=Evaluate")
    page.select_option("#evaluate-source", "model:hippocampus")
    page.set_input_files("#evaluate-reference", tmp_path / "first.nii.gz")
    assert page.is_disabled("#evaluate-run")
    page.set_input_files("#evaluate-mask", tmp_path / "empty.nii.gz")
    page.click("#evaluate-run:enabled")
    page.wait_for_selector(".scores")
    cells = [row.locator("td").all_inner_texts() for row in page.locator(".scores tbody tr").all()]
    names = [text.split("\n")[0] for text in page.locator(".scores thead th").all_inner_texts()][2:]
    missed, absent = (dict(zip(names, row[1:], strict=True)) for row in cells)
    assert cells[0][0] == "the reference only: missed"
    diagonal = np.linalg.norm(np.array(values.shape) * image.header.get_zooms())
    assert (missed["Dice"], missed["Sensitivity"]) == ("0", "0")
    assert float(missed["HD95 (mm)"]) == pytest.approx(diagonal, rel=0.01)
    # Two values of the reference are known to the model, one of them is nowhere.
    assert cells[1][0] == "neither mask"
    assert (absent["Dice"], absent["HD95 (mm)"], absent["Specificity"]) == ("n/a", "n/a", "1")
    rules = page.locator(".rules tbody tr").all_inner_texts()
    assert any(re.match(r"Dice\s+worst value\s+worst value\s+no value", rule) for rule in rules)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("#delete")
    page.click("dialog .danger")
    page.wait_for_selector("#evaluate-source")


def test_what_cannot_be_measured_is_told(visit, reference: Path) -> None:
    one = visit()
    page = one.page
    page.goto(f"{one.url}/#/evaluate")
    page.select_option("#evaluate-source", "model:hippocampus")
    empty = {"name": "nothing.nii.gz", "mimeType": "application/gzip", "buffer": b""}
    page.set_input_files("#evaluate-mask", empty)
    page.wait_for_selector(".problem >> text=nothing.nii.gz is empty")
    page.set_input_files("#evaluate-mask", reference)
    cut = {**empty, "buffer": reference.read_bytes()[:-30]}
    page.set_input_files("#evaluate-reference", cut)
    page.click("#evaluate-run:enabled")
    page.wait_for_selector("[data-job-state=failed] .problem >> text=E-FILE-TRUNCATED")
