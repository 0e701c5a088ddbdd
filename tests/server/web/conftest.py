"""A real browser on the page of a real server."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scanseg import pipeline

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]  # fmt: skip
NO_WEBGL = ["--disable-3d-apis"]
# The policy of the server must never be met; a violation is told to the console as an error of its own.
WATCH = """document.addEventListener("securitypolicyviolation", (event) =>
    console.error("policy", event.violatedDirective, event.blockedURI))"""


def shown_runs() -> list[Path]:
    """Run folders whose pictures are wanted, from SCANSEG_PAGE_IMAGES, as `RUN_3D:RUN_2D`; mostly none."""
    return [Path(part) for part in os.environ.get("SCANSEG_PAGE_IMAGES", "").split(":") if part]


@pytest.fixture(scope="session")
def run_3d(run_3d: Path) -> Path:
    """The run that the server shows."""
    return shown_runs()[0] if shown_runs() else run_3d


@pytest.fixture(scope="session")
def run_2d(demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """U-Mamba (Bot), trained for a moment on the images of nuclei."""
    if shown_runs():
        return shown_runs()[1]
    root = tmp_path_factory.mktemp("served_2d")
    for name in ("imagesTr", "labelsTr"):
        (root / "data" / name).mkdir(parents=True)
    for label in sorted((demo_data / "nuclei" / "labelsTr").iterdir())[:5]:
        shutil.copy(label, root / "data" / "labelsTr")
        shutil.copy(demo_data / "nuclei" / "imagesTr" / f"{label.stem}_0000.png", root / "data" / "imagesTr")
    shutil.copy(demo_data / "nuclei" / "dataset.json", root / "data")
    pipeline.train(
        root / "data",
        root / "nuclei",
        changes={
            "epochs": 1, "iterations_per_epoch": 2, "validation_iterations": 1, "batch_size": 2,
            "network": "umamba_bot", "patch_size": (64, 64),
        },
        network_options={"base_features": 4},
        threads=1,
        tensorboard=False,
    )  # fmt: skip
    return root / "nuclei"


@pytest.fixture(scope="session")
def site(start: Callable[..., Any], run_2d: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with a token, a model for volumes and one for planes."""
    root = tmp_path_factory.mktemp("site")
    server = start(root / "data", options=("-m", str(run_2d), "--token-file", str(root / "token")))
    server.wait_ready()
    return server


# Not for the session: Playwright keeps an event loop running, and no other test could then run its own.
@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Any]]:
    """Starts browsers; skips where there is none."""
    library = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with library.sync_playwright() as player:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        own = Path(player.chromium.executable_path)
        if path is None and not own.is_file():
            pytest.skip("needs chromium, on the PATH or by `playwright install chromium`")
        browsers: dict[bool, Any] = {}

        def begin(webgl: bool) -> Any:
            if webgl not in browsers:
                browsers[webgl] = player.chromium.launch(
                    executable_path=path, args=ARGUMENTS if webgl else [*ARGUMENTS[:7], *NO_WEBGL]
                )
            return browsers[webgl]

        yield begin
        for browser in browsers.values():
            browser.close()


@dataclass
class Visit:
    """A page that was opened, and what it did that it must not do.

    Attributes:
        faults: Errors on the console, exceptions, requests to elsewhere.
        expected: Parts of messages that a test provokes.
    """

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()

    def told(self) -> list[str]:
        return [fault for fault in self.faults if not any(part in fault for part in self.expected)]


@pytest.fixture
def visit(launch: Callable[..., Any], site: Any) -> Iterator[Callable[..., Visit]]:
    """Opens the page with the token; fails the test if the page misbehaves."""
    visits: list[Visit] = []

    def begin(*, webgl: bool = False, width: int = 1280, height: int = 800, scheme: str = "light") -> Visit:
        context = launch(webgl).new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        context.add_init_script(WATCH)
        page = context.new_page()
        page.set_default_timeout(60_000)
        one = Visit(page, site.url)
        visits.append(one)
        page.on("pageerror", lambda error: one.faults.append(f"exception {error}"))
        page.on("console", lambda told: told.type == "error" and one.faults.append(told.text))
        page.on("request", lambda request: _check_address(one, request.url))
        page.goto(f"{site.url}/#token={site.token}")
        return one

    yield begin
    for one in visits:
        one.page.context.close()
    assert [one.told() for one in visits] == [[] for _ in visits]


def _check_address(one: Visit, address: str) -> None:
    own = (f"{one.url}/", f"blob:{one.url}", "data:")
    if not address.startswith(own):
        one.faults.append(f"request to {address}")
