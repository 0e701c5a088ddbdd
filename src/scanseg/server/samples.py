"""Images that ship with the package, for a first try."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from scanseg.errors import Error
from scanseg.files import read_json
from scanseg.server.models import ServedModel

_FOLDERS = {3: "hippocampus", 2: "nuclei"}


@dataclass(frozen=True)
class Sample:
    """An image and where it comes from."""

    id: str
    path: Path
    licence: str
    citation: str


def samples_for(model: ServedModel) -> list[Sample]:
    """Returns the demonstration images with the dimensions and channels of a model; maybe none."""
    folder = Path(str(files("scanseg") / "demo_data" / _FOLDERS[model.spatial_dims]))
    try:
        facts = read_json(folder / "dataset.json")
    except Error:
        return []
    if len(facts.get("channel_names", {})) != len(model.channels):
        return []
    return [
        Sample(path.name.partition("_0000")[0], path, str(facts["licence"]), str(facts["citation"]))
        for path in sorted((folder / "imagesTs").iterdir())
        if "_0000." in path.name
    ]
