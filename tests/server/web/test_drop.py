"""Files and folders that are dragged onto the page by the browser itself."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scanseg import pipeline
from scanseg.files import read_json, write_json

from .conftest import Visit

pytestmark = pytest.mark.timeout(300)  # the first test waits for the models to be trained


@pytest.fixture(scope="module")
def run_pair(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two channels, trained for a moment on nuclei and their negatives."""
    from PIL import Image, ImageOps

    root, source = tmp_path_factory.mktemp("served_pair"), demo_data / "nuclei"
    for name in ("imagesTr", "labelsTr"):
        (root / "data" / name).mkdir(parents=True)
    for label in sorted((source / "labelsTr").iterdir())[:5]:
        shutil.copy(label, root / "data" / "labelsTr")
        image = source / "imagesTr" / f"{label.stem}_0000.png"
        shutil.copy(image, root / "data" / "imagesTr")
        ImageOps.invert(Image.open(image)).save(root / "data" / "imagesTr" / f"{label.stem}_0001.png")
    facts = read_json(source / "dataset.json")
    write_json(root / "data" / "dataset.json", {**facts, "channel_names": {"0": "as it is", "1": "inverted"}})
    changes = {"epochs": 1, "iterations_per_epoch": 2, "validation_iterations": 1, "batch_size": 2}
    pipeline.train(
        root / "data",
        root / "pair",
        changes={**changes, "network": "umamba_bot", "patch_size": (64, 64)},
        network_options={"base_features": 4},
        threads=1,
        tensorboard=False,
    )
    return root / "pair"


@pytest.fixture(scope="module")
def pair_site(start: Callable[..., Any], run_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a model of two channels."""
    root = tmp_path_factory.mktemp("pair_site")
    server = start(root / "data", options=("-m", str(run_pair), "--token-file", str(root / "token")))
    server.wait_ready()
    return server


@pytest.fixture
def pair(visit: Callable[..., Visit], pair_site: Any) -> Visit:
    """The page of that server, with the model chosen."""
    one = visit()
    one.page.wait_for_selector(".tile")
    one.expected = (f"request to {one.url}",)  # what the page of the other server asked for before
    one.url = pair_site.url
    one.page.goto(f"{pair_site.url}/#token={pair_site.token}")
    one.page.check("#model-pair")
    return one


def drag_in(page: Any, selector: str, *paths: Path) -> None:
    """Drags files of this computer onto an element, as the system does: the browser makes the events."""
    box = page.locator(selector).bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})
    session.detach()


def chosen(page: Any) -> list[str]:
    """Names of the files in the places, from the first channel on."""
    return [
        place.evaluate("(one) => one.selectedOptions[0].textContent")
        for place in page.locator(".slot select").all()
    ]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three files of different content."""
    from PIL import Image

    paths = [tmp_path / name for name in ("a_0000.png", "a_0001.png", "late.png")]
    for shade, path in enumerate(paths):
        Image.new("L", (80, 72), 60 * shade).save(path)
    return paths


def sent(page: Any, site: Any) -> list[str]:
    """Orders the case and returns the sums of what arrived, by channel."""
    page.click("#run:enabled")
    page.wait_for_selector("[data-job-state=done], .viewer[data-kind]")
    with site.client() as client:
        job = client.get(f"/api/v1/predictions/{page.url.rpartition('/')[2]}").json()
    return [one["sha256"] for one in job["inputs"]]


def sums(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_a_channel_is_dragged_onto_another(pair: Visit, pair_site: Any, images: list[Path]) -> None:
    page = pair.page
    page.set_input_files("#choose-files", images[:2])
    assert chosen(page) == ["a_0000.png", "a_0001.png"]
    page.drag_and_drop(".slot >> nth=0 >> .channel", ".slot >> nth=1 >> .channel")
    assert chosen(page) == ["a_0001.png", "a_0000.png"]
    assert sent(page, pair_site) == sums(images[1], images[0])


def test_a_file_is_dragged_onto_a_channel(pair: Visit, pair_site: Any, images: list[Path]) -> None:
    page = pair.page
    page.set_input_files("#choose-files", images[:1])
    assert chosen(page) == ["a_0000.png", "(missing)"]
    assert page.is_disabled("#run")
    notes = images[0].with_name("notes.docx")
    notes.write_text("x")
    drag_in(page, ".slot >> nth=1 >> .channel", notes)
    page.wait_for_selector(".problem >> text=notes.docx")
    drag_in(page, ".slot >> nth=1 >> .channel", images[2])
    page.wait_for_selector(".slot >> nth=1 >> text=late.png", state="attached")
    assert page.locator(".problem").count() == 0
    assert chosen(page) == ["a_0000.png", "late.png"]
    assert sent(page, pair_site) == sums(images[0], images[2])


def test_a_folder_is_dropped(pair: Visit, images: list[Path], tmp_path: Path) -> None:
    page = pair.page
    inner = tmp_path / "patients" / "first" / "deep"
    inner.mkdir(parents=True)
    for path in images[:2]:
        shutil.copy(path, inner)
        shutil.copy(path, tmp_path / "patients" / path.name.replace("a_", "b_"))
    (inner / ".hidden.png").write_bytes(images[0].read_bytes())
    (inner / "notes.txt").write_text("x")
    drag_in(page, ".drop", tmp_path / "patients")
    page.wait_for_selector(".slots >> nth=1")
    assert sorted(chosen(page)) == ["a_0000.png", "a_0001.png", "b_0000.png", "b_0001.png"]
    assert page.locator(".slots legend .name").all_inner_texts() == ["a", "b"]
    assert "notes.txt" in page.inner_text(".problem")
    assert page.inner_text("#run") == "Segment 2 cases"
