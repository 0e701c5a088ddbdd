"""Two pictures of one slice with an edge between them."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .test_page import saved, until

pytestmark = pytest.mark.timeout(300)  # the first test waits for the models to be trained


@pytest.fixture(scope="module")
def two(site: Any, image_3d: Path) -> list[str]:
    """Ids of two predictions of one image, in different ways, the later one first."""
    made = []
    with site.client() as client:
        for options in ("tta=false", "tta=true"):
            url = f"/api/v1/predictions?model=hippocampus&wait=60&{options}"
            head = {"X-Scanseg-Name": "scan.nii.gz"}
            made.append(client.put(url, content=image_3d.read_bytes(), headers=head).json()["id"])
        order = {"model": "hippocampus", "sample": "hippocampus_144"}
        other = client.post("/api/v1/predictions", json=order).json()["id"]
        assert client.get(f"/api/v1/predictions/{other}?wait=60").json()["state"] == "done"
    return made[::-1]


def picture(page: Any) -> np.ndarray:
    """The viewer as it is, without the line of text below."""
    found = np.asarray(Image.open(io.BytesIO(saved(page, "#screenshot"))).convert("RGB")).astype(int)
    return found[:-24]


EDGE = np.array([0x40, 0xBE, 0xCD])


def coloured(part: np.ndarray) -> int:
    """Pixels that are neither grey, as the image, nor of the edge: labels are drawn in colour."""
    edge = (abs(part - EDGE) < 25).all(-1)
    return int(((part.max(-1) - part.min(-1) > 40) & ~edge).sum())


def slide(page: Any, percent: int) -> None:
    page.fill("#wipe", str(percent))
    page.wait_for_timeout(100)


def test_the_mask_is_wiped_away(visit, two: list[str]) -> None:
    one = visit(width=900, height=700)
    page = one.page
    page.goto(f"{one.url}/#/cases/{two[0]}")
    page.wait_for_selector(".viewer[data-kind=slices]")
    page.focus("#compare")
    page.keyboard.press("Enter")
    page.wait_for_selector(".viewer[data-kind=compare]")
    assert page.evaluate("document.activeElement.id") == "compare"
    assert page.get_attribute("#compare", "aria-pressed") == "true"
    slide(page, 100)
    whole = coloured(picture(page))
    assert whole > 50
    slide(page, 0)
    assert coloured(picture(page)) == 0
    lefts = []
    for percent in (30, 50, 70):
        slide(page, percent)
        shown = picture(page)
        edge = _edge(shown)
        assert coloured(shown[:, edge + 3 :]) == 0
        lefts.append(coloured(shown[:, : edge - 3]))
    assert page.get_attribute("#wipe", "aria-valuetext").startswith(
        "left 70 %: with the mask; right: without"
    )
    page.focus(".wipe canvas")
    page.keyboard.press("Home")
    assert page.input_value("#wipe") == "0"
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.input_value("#wipe") == "6"
    slice_before = int(page.input_value("#wipe-slice"))
    with page.expect_response(re.compile(f"{two[0]}/slice/axial/{slice_before + 1}.png")):
        page.keyboard.press("PageDown")
    page.select_option("#layout", "coronal")
    page.wait_for_selector(".wipe canvas[aria-label^=Coronal]")
    page.click("#compare")
    page.wait_for_selector(".viewer[data-kind=slices]")
    assert page.input_value("#layout") == "all"


def _edge(shown: np.ndarray) -> int:
    """Column of the edge, the only one that is of its colour almost from top to bottom of the picture."""
    like = (abs(shown - EDGE) < 12).all(-1).sum(0)
    return int(like.argmax())


def test_two_predictions_of_one_image_are_compared(visit, site: Any, two: list[str]) -> None:
    one = visit(width=900, height=700, scheme="dark")
    page = one.page
    page.goto(f"{one.url}/#/cases/{two[0]}")
    page.wait_for_selector(".viewer[data-kind=slices]")
    page.click("#compare")
    page.wait_for_selector(".viewer[data-kind=compare]")
    offered = page.locator("#compare-with option").evaluate_all("(all) => all.map((one) => one.value)")
    # Those of the same bytes, whoever asked for them before; never that of another image.
    assert offered[0] == ""
    assert two[1] in offered
    with site.client() as client:
        jobs = client.get("/api/v1/predictions?limit=200").json()["predictions"]
        own = next(job for job in jobs if job["id"] == two[0])["inputs"][0]["sha256"]
        same = {job["id"] for job in jobs if job["state"] == "done" and job["inputs"][0]["sha256"] == own}
        assert set(offered[1:]) == same - {two[0]}
        with page.expect_response(re.compile(f"{two[1]}/slice/axial/")) as caught:
            page.select_option("#compare-with", two[1])
        expected = client.get(caught.value.url.removeprefix(site.url)).content
    until(page, "document.querySelector('#compare-right').textContent.startsWith('hippocampus')")
    slide(page, 0)
    shown = picture(page)
    drawn = np.argwhere(shown.max(-1) > 0)
    (top, left), (bottom, right) = drawn.min(0), drawn.max(0) + 1
    part = shown[top:bottom, left:right]
    source = Image.open(io.BytesIO(expected)).convert("RGB")
    known = np.asarray(source.resize((part.shape[1], part.shape[0]), Image.Resampling.BILINEAR)).astype(int)
    assert abs(part - known).mean() < 6
    assert coloured(part) > 50


def test_a_plane_is_compared_too(visit, site: Any) -> None:
    with site.client() as client:
        order = {"model": "nuclei", "sample": "nuc_feffce59a1"}
        made = client.post("/api/v1/predictions", json=order).json()["id"]
        assert client.get(f"/api/v1/predictions/{made}?wait=60").json()["state"] == "done"
    one = visit(width=390, height=844)
    page = one.page
    page.goto(f"{one.url}/#/cases/{made}")
    page.wait_for_selector(".viewer[data-kind=slices]")
    page.click("#compare")
    page.wait_for_selector(".viewer[data-kind=compare]")
    assert page.is_hidden("#wipe-slice")
    slide(page, 100)
    whole = picture(page)
    slide(page, 0)
    assert (whole != picture(page)).any()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
