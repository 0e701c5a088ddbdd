"""Drawings of networks: well-formed, the same twice, sizes at equal heights, arrows where maps pass."""

from typing import Any
from xml.etree import ElementTree

import pytest

from scanseg.reporting.architecture import architecture_svg

SVG = "{http://www.w3.org/2000/svg}"


def _stage(name: str, size: int, *, mamba: str = "", features: int = 8) -> dict[str, Any]:
    return {"name": name, "size": [size, size], "features": features, "blocks": 2, "mamba": mamba}


STAGES = [
    _stage("stem", 32),
    _stage("encoder 0", 32, mamba="patch"),
    _stage("encoder 1", 16, mamba="channel"),
    _stage("decoder 0", 32),
]
FLOW = [[0, 1], [1, 2], [1, 3], [2, 3]]


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_stage_has_a_box_with_its_sizes() -> None:
    texts = _texts(architecture_svg("a network", STAGES, FLOW))
    for stage in STAGES:
        assert stage["name"] in texts
    assert texts.count("8 channels, 32 × 32") == 3
    assert "Mamba, tokens are channels" in texts
    assert "Mamba, tokens are channels" not in _texts(architecture_svg("a", STAGES[:2], []))


def test_arrows_are_solid_between_neighbours_and_dashed_else() -> None:
    root = ElementTree.fromstring(architecture_svg("a network", STAGES, FLOW))
    paths = [element for element in root.iter(f"{SVG}path") if element.get("marker-end")]
    assert len(paths) == len(FLOW)
    assert [bool(path.get("stroke-dasharray")) for path in paths] == [False, False, True, False]


def test_equal_sizes_lie_at_equal_heights_and_the_encoder_goes_down() -> None:
    root = ElementTree.fromstring(architecture_svg("a network", STAGES, FLOW))
    boxes = [e for e in root.iter(f"{SVG}rect") if e.get("rx") == "5"]
    x, y = ([float(box.get(key) or "nan") for box in boxes] for key in "xy")
    assert y[0] < y[1] < y[2]
    assert y[3] == y[1]
    assert x[0] == x[1] == x[2] < x[3]
    height = float(root.get("height") or "nan")
    assert all(0 < top < height - 46 for top in y)


def test_the_same_bytes_twice_and_names_are_no_markup() -> None:
    stages = [_stage('<b>&"', 8)]
    svg = architecture_svg("a < b & c", stages, [])
    assert svg == architecture_svg("a < b & c", stages, [])
    assert _texts(svg)[:2] == ["a < b & c", '<b>&"']


@pytest.mark.parametrize("names", [["one", "two", "three"], ["transformer", "up 0", "up 1"]])
def test_without_the_usual_names_what_follows_the_smallest_map_goes_up(names: list[str]) -> None:
    stages = [_stage(name, size) for name, size in zip(names, (8, 4, 8), strict=True)]
    root = ElementTree.fromstring(architecture_svg("a", stages, [[0, 1], [1, 2], [0, 2]]))
    x = [float(e.get("x") or "nan") for e in root.iter(f"{SVG}rect") if e.get("rx") == "5"]
    assert x[0] == x[1] < x[2]


def test_nested_decoders_lie_beside_each_other() -> None:
    names = ["encoder 0", "encoder 1", "encoder 2", "node 0.1", "node 1.1", "node 0.2", "head"]
    stages = [_stage(name, size) for name, size in zip(names, (32, 16, 8, 32, 16, 32, 32), strict=True)]
    root = ElementTree.fromstring(architecture_svg("nested", stages, [[0, 3], [1, 3], [3, 5], [5, 6]]))
    x = [float(e.get("x") or "nan") for e in root.iter(f"{SVG}rect") if e.get("rx") == "5"]
    assert x[0] == x[1] == x[2] < x[3] == x[4] < x[5] == x[6]
    assert float(root.get("width") or "nan") > x[6] + 200
