"""Names that hold code, of labels, channels, rules and files: text wherever they are shown."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scanseg.files import read_json, write_json

from .test_page import choose, id_of

CODE = "<img src=x onerror=alert(1)>"
RULES = f"""version: "1"
name: "{CODE} table"
rules:
  - code: N-CODE
    for: case
    when: case.spatial_dims > 1
    text: "{CODE} step"
    reason: "{CODE} reason"
    source: "{CODE} source"
    priority: 1
    review: true
"""


@pytest.fixture(scope="module")
def site(start: Callable[..., Any], run_3d: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a model whose owner wrote code into everything that has a name."""
    root = tmp_path_factory.mktemp("hostile")
    shutil.copytree(run_3d, root / "hostile", ignore=shutil.ignore_patterns("checkpoint", "validation"))
    config = read_json(root / "hostile" / "config.json")
    for label in config["labels"][1:]:
        label["name"] = f"{CODE} {label['value']}"
    config["channel_names"] = [f"{CODE} MR"]
    write_json(root / "hostile" / "config.json", config)
    (root / "hostile" / "rules.yaml").write_text(RULES)
    options = ("-m", str(root / "hostile"), "--token-file", str(root / "token"))
    server = start(root / "data", options=options)
    server.wait_ready()
    return server


def test_names_are_shown_and_not_run(visit: Callable[..., Any], site: Any, image_3d: Path) -> None:
    one = visit()
    page = one.page
    page.on("dialog", lambda dialog: one.faults.append(f"dialog {dialog.message}"))
    page.wait_for_selector("#run")
    choose(one, "hostile", f"{CODE}.nii.gz", image_3d.read_bytes())
    page.wait_for_selector(".viewer[data-kind]")
    page.wait_for_selector(f"text={CODE} 1")
    shown = page.inner_text("body")
    for text in (f"{CODE}.nii.gz", f"{CODE} 1", f"{CODE} step"):
        assert text in shown, text
    job = id_of(page)
    page.goto(f"{site.url}/#/history")
    page.wait_for_selector(".history tbody tr")
    assert CODE in page.inner_text(".history")
    assert page.locator("img[src=x]").count() == 0
    with site.client() as client:
        report = client.get(f"/api/v1/predictions/{job}/report.html")
    assert "<img src=x" not in report.text
    assert "&lt;img src=x" in report.text
