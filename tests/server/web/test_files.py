"""The files of the page: small, whole, and with nothing that the server's policy forbids."""

import hashlib
import re
from pathlib import Path

import pytest

from scanseg.server.app import _PAGE_TYPES, WEB

OWN = sorted(path for path in WEB.iterdir() if path.is_file())
CODE = [path for path in OWN if path.suffix == ".js"]
TEXTS = set(re.findall(r"^  (\w+):", (WEB / "texts.js").read_text(), re.M))
# Keys that are put together from a word and a value that the server sends.
BUILT = {
    "theme": ["auto", "light", "dark"],
    "state": ["waiting", "queued", "running", "done", "failed", "cancelled"],
    "stage": ["read", "predict", "measure", "write"],
    "model": ["loading", "ready", "restarting"],
    "window": ["auto", "full", "soft_tissue", "bone", "lung", "brain"],
    "layout": ["all", "axial", "coronal", "sagittal", "plane", "volume"],
    "verdict": ["accept", "reject", "unsure"],
    "do": ["accept", "reject", "unsure"],
    "information": ["disease_label", "aetiology", "follow_up"],
    "snippet": ["cli", "curl", "python"],
    "option": [
        f"{name}{end}"
        for name in ("tta", "step_size", "probabilities", "uncertainty", "nan_fill", "spacing")
        for end in ("", "_text")
    ],
    "where": ["present", "missed", "invented", "both_empty"],
    "empty": ["worst", "not_applicable", "formula"],
    "preset": [f"{name}{end}" for name in ("fast", "balanced", "best") for end in ("", "_text")],
}
HEADS = ("label", "size", "pieces", "largest", "score", "uncertaintyShort", "cohort")


def test_everything_is_small() -> None:
    total = sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file())
    assert total < 3_000_000


def test_the_viewer_is_the_one_that_was_built() -> None:
    known, name = (WEB / "vendor" / "niivue.sha256").read_text().splitlines()[0].split()
    assert hashlib.sha256((WEB / "vendor" / name).read_bytes()).hexdigest() == known
    licence = (WEB / "vendor" / "niivue.LICENSE.txt").read_text()
    for part in ("BSD 2-Clause", "gl-matrix", "fflate", "nifti-reader-js", "zarrita", "MIT"):
        assert part in licence


def test_the_viewer_asks_for_nothing_that_the_policy_forbids() -> None:
    text = (WEB / "vendor" / "niivue.js").read_text()
    for forbidden in (r"\beval\(", r"new Function", r"new Worker", r"WebAssembly", r"\bimport\("):
        assert not re.search(forbidden, text), forbidden


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_own_files_are_served_and_name_no_other_address(path: Path) -> None:
    assert path.suffix in _PAGE_TYPES
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)


def test_the_document_holds_no_code_and_no_style() -> None:
    text = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    assert "Research software. Not a medical device." in text
    for address in re.findall(r'(?:src|href)="(/web/[^"]+)"', text):
        assert (WEB / address.removeprefix("/web/")).is_file()


def test_every_import_exists() -> None:
    for path in CODE:
        for name in re.findall(r'(?:from|import\()\s*"([^"]+)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_every_text_exists_and_is_used() -> None:
    built = {f"{word}_{value}" for word, values in BUILT.items() for value in values}
    built |= {f"{head}_title" for head in HEADS}
    assert built <= TEXTS
    code = {path.name: path.read_text() for path in CODE if path.name != "texts.js"}
    asked = {key for text in code.values() for key in re.findall(r'\bt\("(\w+)"', text)}
    assert asked <= TEXTS
    words = {
        word for text in code.values() for word in re.findall(r"\"(\w+)\"|\b(\w+)\b", text) for word in word
    }
    assert {key for key in TEXTS if key not in built and key not in words} == set()


def _luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _themes() -> list[dict[str, str]]:
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", (WEB / "style.css").read_text())
    return [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in blocks]


def test_texts_stand_out_in_every_theme() -> None:
    light, dark, automatic = _themes()
    assert dark == automatic
    pairs = [
        ("text", "surface"), ("text", "back"), ("quiet", "surface"), ("quiet", "back"), ("quiet", "sunk"),
        ("accent", "surface"), ("accent", "accent-soft"), ("accent-text", "accent"), ("bad", "bad-soft"),
        ("bad", "surface"), ("warn", "warn-soft"), ("good", "surface"), ("text", "bad-soft"),
    ]  # fmt: skip
    for theme in (light, dark):
        for front, back in pairs:
            bright, dim = sorted((_luminance(theme[front]), _luminance(theme[back])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (front, back)
        for edge in ("strong-line", "focus"):
            bright, dim = sorted((_luminance(theme[edge]), _luminance(theme["surface"])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 3, edge
