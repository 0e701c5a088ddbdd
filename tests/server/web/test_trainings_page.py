"""The page of trainings: a run that grows is watched and stopped; tests/server has a real training."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import shown_runs

pytestmark = pytest.mark.timeout(400)
# How many points the curve has.
POINTS = "document.querySelector('#chart-loss [data-line=first]')?.getAttribute('d')?.split('L').length ?? 0"
# Locks, writes and stops as a training does; its epochs take a moment.
TRAINER = """
import json, sys, time
from pathlib import Path
from PIL import Image
from scanseg.training.interrupts import Interrupts
from scanseg.training.lock import exclusive
run = Path(sys.argv[1])
with exclusive(run), Interrupts() as interrupts:
    for epoch in range(1, 5001):
        loss, dice = 1 / epoch, 1 - 1 / (epoch + 1)
        record = {"epoch": epoch, "step": 5 * epoch, "train_loss": loss, "validation_loss": 2 * loss,
            "learning_rate": 0.01, "pseudo_dice": dice, "ema_pseudo_dice": dice, "best": True,
            "pseudo_dice_per_label": {"a": dice, "b": None}, "seconds": 0.5, "elapsed_seconds": 0.5 * epoch,
            "peak_memory_bytes": 1800 * 10**6, "total_memory_bytes": 24 * 10**9, "memory_kind": "process"}
        picture = run / "samples.tmp"
        Image.new("RGB", (1160, 10 + epoch)).save(picture, "PNG")
        picture.replace(run / "samples.png")
        with open(run / "metrics.jsonl", "a") as stream:
            stream.write(json.dumps(record) + chr(10))
        time.sleep(0.5)
        if interrupts.requested is not None:
            interrupts.leave()
"""
RECIPE = 'network = "ud_mamba"\nepochs = 40\niterations_per_epoch = 5\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    broken = folder / "<b>broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")
    (broken / "recipe.toml").write_text(RECIPE)
    (broken / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 0.5}\n{"epo\n{"epoch": 3}\n')
    return folder


@pytest.fixture(scope="module")
def site(watch: Callable[..., Any], runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server without models, in place of the one with two."""
    return watch(tmp_path_factory.mktemp("trainings"), runs, "--allow-training")


def until(page: Any, script: str, argument: object = None, limit_s: float = 90) -> None:
    """Waits for a script to be true; the policy of the page forbids playwright's own way, which uses eval."""
    for _ in range(int(limit_s / 0.1)):
        if page.evaluate(script, argument):
            return
        page.wait_for_timeout(100)
    raise AssertionError(script)


def tab_to(page: Any, selector: str) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("(what) => document.activeElement.matches(what)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


@pytest.fixture(scope="module")
def training(runs: Path) -> Iterator[subprocess.Popen]:
    run = runs / "tiny"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "recipe.toml").write_text(RECIPE.replace("40", "5000"))
    process = subprocess.Popen([sys.executable, "-c", TRAINER, str(run)], stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait(10)


def test_the_curve_moves_and_the_training_is_stopped(visit, site, training, runs: Path) -> None:
    one = visit(scheme="dark")
    page = one.page
    # A server without models opens with the trainings and has no other link.
    page.click(".trainings a >> text=tiny")
    assert page.locator("#nav a").all_inner_texts() == ["Training"]
    assert page.title() == "Training - scanseg"
    until(page, f"{POINTS} >= 2")
    before = page.evaluate(POINTS)
    until(page, f"{POINTS} > {before} + 1")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 24)"
    stroke = "getComputedStyle(document.querySelector('#chart-loss .line-first')).stroke"
    assert page.evaluate(stroke) == "rgb(108, 195, 207)"
    facts = page.inner_text(".training")
    for text in ("Running", "of 5000", "Epochs left", "Estimated end", "Learning rate"):
        assert text in facts, text
    assert "1.8 GB at most, of 24 GB" in facts
    check_samples(page)
    # Each chart says in words what it draws, under its title.
    for chart in ("loss", "dice", "rate"):
        said = page.evaluate(
            "(id) => document.querySelector(`${id} svg`).getAttribute('aria-labelledby').split(' ')"
            ".map((part) => document.getElementById(part).textContent).join(' ')",
            f"#chart-{chart}",
        )
        assert "epochs, lowest" in said
    # The table holds what the file holds; the keyboard chooses an epoch and stops the training.
    tab_to(page, "#epoch")
    page.keyboard.press("Home")
    assert page.get_attribute("#epoch", "aria-valuetext").startswith("Epoch 1:")
    assert page.inner_text(".readout").split()[:2] == ["Epoch", "1"]
    tab_to(page, ".epochs summary")
    page.keyboard.press("Enter")
    page.wait_for_selector(".epochs tbody tr >> nth=1")
    page.click("#stop")
    page.keyboard.press("Enter")  # "Let it run" has the focus.
    page.wait_for_selector("dialog", state="detached")
    assert training.poll() is None
    page.click("#stop")
    page.click("dialog .danger")
    page.wait_for_selector("[data-training=stopped]", timeout=90_000)
    training.wait(30)
    lock = json.loads((runs / "tiny" / ".lock").read_text())
    assert lock["how"] == "stopped"
    assert page.is_hidden("#stop")
    count = len((runs / "tiny" / "metrics.jsonl").read_text().splitlines())
    until(page, "(n) => document.querySelectorAll('.epochs tbody tr').length === Math.min(n, 500)", count)
    assert page.evaluate(POINTS) == count
    page.click("text=All trainings")
    page.wait_for_selector(".trainings tr:has-text('tiny') [data-training=stopped]")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((one) =>"
        " !(one.textContent.trim() || one.ariaLabel || one.labels?.length || one.title)).length"
    )
    assert unnamed == 0


def check_samples(page: Any) -> None:
    """The picture comes with the epochs, from memory as the policy wants it, and says what it shows."""
    height = "document.querySelector('img.samples').naturalHeight"
    until(page, f"{height} > 10")
    before = page.evaluate(height)
    until(page, f"{height} > {before}")
    assert page.get_attribute("img.samples", "src").startswith("blob:")
    assert page.get_attribute("img.samples", "alt").startswith("Up to four patches, the reference")
    assert page.inner_text("section:has(img.samples) h2") == "Samples"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_damaged_run_on_a_phone(visit, runs: Path) -> None:
    one = visit(width=390, height=844)
    one.expected = ("status of 404",)
    page = one.page
    page.wait_for_selector("h1")
    page.goto(f"{one.url}/#/trainings/all")
    page.click(".trainings a >> text=<b>broken")
    page.wait_for_selector(".problem >> text=E-WATCH-METRICS")
    assert page.inner_text("h1") == "<b>broken"
    assert page.inner_text("[data-training]") == "Not begun"
    assert page.locator("#chart-loss circle").count() == 1
    assert "No finished epoch yet" in page.inner_text("#chart-dice")
    assert page.is_hidden("section:has(img.samples)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    (runs / "<b>broken" / "run.json").unlink()
    page.wait_for_selector(".problem >> text=E-WATCH-GONE")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.13, 0.87, [0.2, 0.4, 0.6, 0.8]),
        (1, 7, [2, 4, 6]),
        (-900, 100, [-500, 0]),
        (1e-6, 3e-6, [1e-6, 1.5e-6, 2e-6, 2.5e-6, 3e-6]),
    ],
)
def test_ticks_are_round(visit, low, high, expected) -> None:
    script = "async ([low, high]) => (await import('/web/curves.js')).ticks(low, high, 4)"
    found = visit().page.evaluate(script, [low, high])
    assert found == pytest.approx(expected, abs=1e-12)


def test_missing_values_are_gaps(visit) -> None:
    script = "async (points) => (await import('/web/curves.js')).pathOf(points)"
    points = [[0, 1], [1, 2], [2, None], [3, 4.25]]
    assert visit().page.evaluate(script, points) == "M0.0 1.0L1.0 2.0M3.0 4.3"


@pytest.mark.skipif(not shown_runs(), reason="writes a picture only where SCANSEG_PAGE_IMAGES names runs")
def test_a_picture_for_the_documents(launch, watch: Callable[..., Any], tmp_path: Path) -> None:
    server = watch(tmp_path, shown_runs()[0])
    page = launch(False).new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"{server.url}/#token={server.token}")
    page.wait_for_selector("#chart-loss [data-line=first]")
    page.screenshot(path=Path(__file__).parents[3] / "docs" / "images" / "serve-training.png")
