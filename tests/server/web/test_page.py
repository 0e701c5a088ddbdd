"""What people do on the page, in a real browser on a real server."""

import gzip
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import Visit, shown_runs

# Counts the labels of all slices of an axis, with the page's own reader.
COUNT = """async ([id, axis, count, labels, token]) => {
  const { Labels } = await import("/web/labels_picture.js");
  const picture = async (path) => createImageBitmap(await (await fetch(`/api/v1/${path}`,
    { headers: { Authorization: `Bearer ${token}` } })).blob());
  const found = {};
  for (let index = 0; index < count; index++) {
    const one = await Labels.read(`predictions/${id}/slice/${axis}/${index}.png`, labels, picture);
    for (const value of one.values) if (value) found[value] = (found[value] ?? 0) + 1;
  }
  return found;
}"""


# As browsers do that protect against tracking.
NOISE = """() => {
  const own = CanvasRenderingContext2D.prototype.getImageData;
  CanvasRenderingContext2D.prototype.getImageData = function (...box) {
    const found = own.apply(this, box);
    for (let at = 0; at < found.data.length; at += 3) found.data[at] ^= 1;
    return found;
  };
}"""


@pytest.fixture(scope="module")
def client(site: Any) -> Any:
    with site.client() as client:
        yield client


def test_faults_of_the_page_are_noticed(visit) -> None:
    one = visit()
    one.page.wait_for_selector(".tile")
    one.expected = ("policy", "Content Security Policy", "request to https://elsewhere.invalid")
    one.page.evaluate("document.body.setAttribute('style', 'color: red')")
    one.page.evaluate(
        "document.body.append(Object.assign(new Image(), { src: 'https://elsewhere.invalid/x' }))"
    )
    until(one.page, "true")
    told = " ".join(one.faults)
    assert "policy style-src" in told
    assert "policy img-src https://elsewhere.invalid" in told


def id_of(page: Any) -> str:
    return page.url.rpartition("/")[2]


def choose(visit: Visit, model: str, name: str, content: bytes) -> None:
    """Chooses a model and a file and starts."""
    page = visit.page
    page.check(f"#model-{model}")
    page.set_input_files("#choose-files", [{"name": name, "mimeType": "application/gzip", "buffer": content}])
    page.click("#run:enabled")
    page.wait_for_url(re.compile("#/cases/p_"))


def until(page: Any, script: str, argument: object = None) -> None:
    """Waits for a script to be true; the policy of the page forbids playwright's own way, which uses eval."""
    end_s = time.monotonic() + 20
    while not page.evaluate(script, argument):
        assert time.monotonic() < end_s, script
        page.wait_for_timeout(50)


def saved(page: Any, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def test_a_volume_from_upload_to_download(visit, client: httpx.Client, image_3d: Path) -> None:
    one = visit(webgl=True, width=800, height=600)
    page = one.page
    page.wait_for_selector("#run")
    assert "token" not in page.url
    assert page.is_disabled("#run")
    choose(one, "hippocampus", "<b>scan.nii.gz", image_3d.read_bytes())
    page.wait_for_selector(".jobbar")
    page.wait_for_selector(".viewer[data-kind=volume]")
    job = id_of(page)
    assert page.inner_text("h1") == "<b>scan.nii.gz"
    assert page.is_visible("text=Research software. Not a medical device.")
    for button, path in (("#get-mask", "mask"), ("#get-zip", "all.zip"), ("#get-report", "report.html")):
        assert saved(page, button) == client.get(f"/api/v1/predictions/{job}/{path}").content
    result = client.get(f"/api/v1/predictions/{job}/result").json()
    assert json.loads(saved(page, "#get-json")) == result
    table = saved(page, "#get-csv").decode().splitlines()
    assert [row.split(",")[4] for row in table[1:]] == [str(label["voxels"]) for label in result["labels"]]
    assert saved(page, "#get-mesh")[80:84] != b"\0\0\0\0"
    step = next(step for step in result["next_steps"] if step["where_mm"])
    page.click(f"[data-go={step['code']}] >> nth=0")
    place = [float(part) for part in page.inner_text(".place").split("mm")[0].split()]
    assert place == pytest.approx(step["where_mm"], abs=1.0)  # the cross-hair stays inside a voxel of 1 mm
    page.keyboard.press("r")
    page.wait_for_selector("#verdict-reject[aria-pressed=true]")
    assert client.get(f"/api/v1/predictions/{job}").json()["review"]["verdict"] == "reject"


def test_labels_of_a_volume_can_be_seen_hidden_and_coloured(visit, client: httpx.Client) -> None:
    one = visit(webgl=True, width=800, height=600)
    page = one.page
    order = {"model": "hippocampus", "sample": "hippocampus_144"}
    made = client.post("/api/v1/predictions", json=order).json()
    assert client.get(f"/api/v1/predictions/{made['id']}?wait=60").json()["state"] == "done"
    page.goto(f"{one.url}/#/cases/{made['id']}")
    page.wait_for_selector(".viewer[data-kind=volume]")
    result = client.get(f"/api/v1/predictions/{made['id']}/result").json()
    first = max(result["labels"], key=lambda label: label["voxels"])
    row = f".label[data-value='{first['value']}']"

    def green() -> int:
        picture = np.asarray(Image.open(io.BytesIO(saved(page, "#screenshot"))).convert("RGB")).astype(int)
        # As neither image nor labels nor cross-hair are.
        return int(
            ((picture[..., 1] > picture[..., 0] + 60) & (picture[..., 1] > picture[..., 2] + 60)).sum()
        )

    assert green() == 0
    page.fill(f"{row} input[type=color]", "#00ff00")
    page.fill(f"{row} input[type=range]", "1")
    shown = green()
    assert shown > 100
    page.click(f"{row} button >> nth=0")
    assert green() == 0
    page.click(f"{row} >> text=Solo")
    assert green() == pytest.approx(shown, rel=0.1)
    page.evaluate(
        "document.querySelector('canvas.gl').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    page.wait_for_selector(".viewer[data-kind=slices]")
    assert green() > 100
    place = page.inner_text(".place")
    page.focus("[data-axis=axial] canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("PageDown")
    until(page, "(old) => document.querySelector('.place').innerText !== old", place)
    steps = [
        made["id"],
        "coronal",
        result["view"]["axes"]["coronal"]["count"],
        result["labels"],
        _token(client),
    ]
    found = page.evaluate(COUNT, steps)
    assert found == {str(label["value"]): label["voxels"] for label in result["labels"] if label["voxels"]}


def _token(client: httpx.Client) -> str:
    return client.headers.get("authorization", "").removeprefix("Bearer ")


def test_a_plane_without_a_graphics_card(visit, client: httpx.Client, demo_data: Path) -> None:
    one = visit(width=390, height=844)
    page = one.page
    image = sorted((demo_data / "nuclei" / "imagesTs").iterdir())[0]
    choose(one, "nuclei", image.name, image.read_bytes())
    page.wait_for_selector(".viewer[data-kind=slices]")
    job = id_of(page)
    assert saved(page, "#get-mask") == client.get(f"/api/v1/predictions/{job}/mask").content
    result = client.get(f"/api/v1/predictions/{job}/result").json()
    found = page.evaluate(COUNT, [job, "plane", 1, result["labels"], _token(client)])
    assert found == {str(label["value"]): label["voxels"] for label in result["labels"] if label["voxels"]}
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("text=Hide all")
    calm = _redness(page)
    with page.expect_response(re.compile("uncertainty=true")):
        page.click("#uncertainty-toggle")
    page.wait_for_timeout(300)
    assert _redness(page) > calm + 5
    one.expected = ("status of 401",)
    page.reload()
    page.fill("#token", _token(client))
    page.evaluate(NOISE)
    page.click("button[type=submit]")
    with page.expect_request(re.compile(r"slice/plane/0.png\?.*overlay=0.5")):
        page.wait_for_selector(".viewer[data-kind=slices]")


def _redness(page: Any) -> float:
    """Mean difference of red and blue in a picture of the viewer."""
    picture = np.asarray(Image.open(io.BytesIO(saved(page, "#screenshot"))).convert("RGB")).astype(int)
    return float((picture[..., 0] - picture[..., 2]).mean())


def test_a_damaged_file_shows_what_the_server_says(visit, client: httpx.Client, image_3d: Path) -> None:
    one = visit()
    page = one.page
    whole = gzip.decompress(image_3d.read_bytes())
    choose(one, "hippocampus", "cut.nii", whole[: len(whole) // 2])
    page.wait_for_selector("[data-job-state=failed]")
    error = client.get(f"/api/v1/predictions/{id_of(page)}").json()["error"]
    shown = page.locator("[data-job-state=failed] .problem")
    assert shown.get_attribute("role") == "alert"
    assert shown.locator(".code").inner_text() == error["code"]
    assert shown.locator(".detail").inner_text() == error["detail"]
    assert shown.locator(".hint").inner_text() == error["hint"]
    page.goto(f"{one.url}/#/")
    page.set_input_files("#choose-files", [{"name": "notes.docx", "mimeType": "text/plain", "buffer": b"x"}])
    assert "notes.docx" in page.inner_text(".problem")
    assert page.is_disabled("#run")


def test_a_job_survives_a_reload_and_can_be_cancelled(visit, site: Any, client: httpx.Client) -> None:
    one = visit()
    one.expected = ("status of 401",)
    page = one.page
    page.check("#preset-best")
    page.click("text=Advanced")
    page.fill("#option-step_size", "0.1")
    until(page, "document.querySelector('#snippet').textContent.includes('--step-size 0.1')")
    assert "--tta" in page.inner_text("#snippet")
    page.click(".tile >> nth=0")
    page.wait_for_selector("[data-job-state=running]")
    page.reload()
    page.fill("#token", "this-is-not-the-token-at-all")
    page.click("button[type=submit]")
    page.wait_for_selector(".problem >> text=E-SERVE-TOKEN")
    page.fill("#token", site.token)
    page.click("button[type=submit]")
    page.wait_for_selector("[data-job-state=running]")
    first = id_of(page)
    order = {"model": "hippocampus", "sample": "hippocampus_143"}
    second = client.post("/api/v1/predictions", json=order).json()["id"]
    for job, text in ((second, "Queued, place 1"), (first, "Segmenting")):
        page.goto(f"{one.url}/#/cases/{job}")
        page.wait_for_selector(f"[data-job-state] >> text={text}")
        page.click("#cancel")
        page.wait_for_selector("[data-job-state=cancelled]")
        assert client.get(f"/api/v1/predictions/{job}").json()["state"] == "cancelled"


def test_an_unfinished_upload_goes_on(visit, client: httpx.Client, image_3d: Path) -> None:
    one = visit()
    page = one.page
    order = {"model": "hippocampus", "inputs": [{"name": "late.nii.gz"}]}
    job = client.post("/api/v1/predictions", json=order).json()["id"]
    page.goto(f"{one.url}/#/cases/{job}")
    page.set_input_files(".again input", image_3d)
    page.click(".again button")
    page.wait_for_selector(".viewer[data-kind]")
    assert client.get(f"/api/v1/predictions/{job}/result").status_code == 200


def test_many_files_are_many_cases(visit, demo_data: Path) -> None:
    page = visit().page
    page.check("#model-nuclei")
    page.set_input_files("#choose-files", sorted((demo_data / "nuclei" / "imagesTs").iterdir())[1:3])
    page.click("text=Segment 2 cases")
    page.wait_for_url(re.compile("#/history"))
    for name in ("nuc_1e61ecf354", "nuc_9586e48a9a"):
        page.wait_for_selector(f".history tr:has-text('{name}') [data-state=done]")


def test_a_server_that_is_gone_is_told(visit) -> None:
    one = visit()
    one.expected = ("ERR_INTERNET_DISCONNECTED",)
    one.page.wait_for_selector(".tile")
    one.page.context.set_offline(True)
    one.page.click("text=History")
    one.page.wait_for_selector(".problem >> text=E-PAGE-NETWORK")
    one.page.context.set_offline(False)
    one.page.click(".problem button")
    one.page.wait_for_selector("#search")


def test_with_the_keyboard_only(visit, client: httpx.Client) -> None:
    before = {"model": "nuclei", "sample": "nuc_feffce59a1"}
    made = client.post("/api/v1/predictions", json=before).json()["id"]
    assert client.get(f"/api/v1/predictions/{made}?wait=60").json()["state"] == "done"
    page = visit().page
    page.wait_for_selector(".tile")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("(what) => document.activeElement.matches(what)", selector):
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    tab_to("#choose-files")
    tab_to(".tile")
    page.keyboard.press("Enter")
    page.wait_for_selector(".viewer[data-kind]")
    job = id_of(page)
    page.keyboard.press("a")
    page.wait_for_selector("#verdict-accept[aria-pressed=true]")
    page.keyboard.press("c")
    page.keyboard.type("arc and r are letters here")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id !== 'comment'")
    tab_to(".label button")
    page.keyboard.press("Enter")
    assert page.get_attribute(".label button >> nth=0", "aria-pressed") == "false"
    page.evaluate("document.activeElement.blur()")
    page.wait_for_selector("[data-to=left]")
    page.keyboard.press("ArrowLeft")
    until(page, "(id) => location.hash.endsWith(id)", made)
    review = client.get(f"/api/v1/predictions/{job}").json()["review"]
    assert (review["verdict"], review["comment"]) == ("accept", "arc and r are letters here")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((one) =>"
        " !(one.textContent.trim() || one.ariaLabel || one.labels?.length || one.title))"
        ".map((one) => one.outerHTML)"
    )
    assert unnamed == []


def test_history_is_searched_and_emptied(visit, client: httpx.Client) -> None:
    for name in ("damaged.nii", "other.nii"):
        url = "/api/v1/predictions?model=hippocampus&wait=60"
        answer = client.put(url, content=b"no image", headers={"X-Scanseg-Name": name})
        assert answer.json()["state"] == "failed"
    one = visit(scheme="dark")
    page = one.page
    page.goto(f"{one.url}/#/history")
    page.wait_for_selector(".history tbody tr:has-text('other.nii')")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 24)"
    page.select_option("#tools select", "light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(243, 245, 246)"
    before = page.locator(".history tbody tr").count()
    page.fill("#search", "damaged.nii")
    assert page.locator(".history tbody tr").count() == 1
    page.click(".history tbody tr button")
    page.click("dialog >> text=Keep it")
    page.click(".history tbody tr button")
    page.click("dialog .danger")
    until(page, "!document.querySelector('.history tbody tr')")
    page.fill("#search", "")
    assert page.locator(".history tbody tr").count() == before - 1
    names = [job["name"] for job in client.get("/api/v1/predictions").json()["predictions"]]
    assert "damaged.nii" not in names


@pytest.mark.skipif(not shown_runs(), reason="writes pictures only where SCANSEG_PAGE_IMAGES names two runs")
def test_pictures_for_the_documents(visit: Callable[..., Visit], client: httpx.Client) -> None:
    folder = Path(__file__).parents[3] / "docs" / "images"
    ids = []
    for model, sample in (("hippocampus", "hippocampus_154"), ("nuclei", "nuc_0280fa8f60")):
        made = client.post("/api/v1/predictions", json={"model": model, "sample": sample}).json()
        assert client.get(f"/api/v1/predictions/{made['id']}?wait=60").json()["state"] == "done"
        ids.append(made["id"])
    for name, page_name, size, scheme in (
        ("new", "", (1280, 800), "light"), ("volume", f"cases/{ids[0]}", (1280, 1000), "light"),
        ("dark", f"cases/{ids[1]}", (1280, 800), "dark"), ("phone", f"cases/{ids[0]}", (390, 844), "light"),
    ):  # fmt: skip
        one = visit(webgl=True, width=size[0], height=size[1], scheme=scheme)
        one.page.goto(f"{one.url}/#/{page_name}")
        one.page.wait_for_selector(".viewer[data-kind]" if page_name else ".tile")
        one.page.wait_for_timeout(1500)
        one.page.screenshot(path=folder / f"serve-{name}.png")
