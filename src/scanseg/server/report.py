"""The report of one prediction: an HTML file that needs nothing else and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from scanseg.files import write_text
from scanseg.server.models import NOTICE

_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"


def write_case_report(document: dict[str, Any], folder: Path) -> Path:
    """Writes report.html from the result document and preview.png of the same folder.

    It names the prediction by its id only. Every text is escaped; scripts and requests are forbidden.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("scanseg.server", "templates"), PackageLoader("scanseg.reporting", "templates")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    picture = base64.b64encode((folder / "preview.png").read_bytes()).decode()
    text = environment.get_template("case.html").render(
        document=document,
        columns=_columns(document),
        rows=_rows(document),
        picture=f"data:image/png;base64,{picture}",
        notice=NOTICE,
        style=Markup(style),
        policy=f"{_POLICY}; style-src 'sha256-{digest}'",
    )
    path = folder / "report.html"
    write_text(path, text)
    return path


def _columns(document: dict[str, Any]) -> list[str]:
    unit = next((_size(label)[1] for label in document["labels"]), "")
    return ["Label", f"Size ({unit})", "Pieces", "Largest", "At the edge", "Score", "Training range"]


def _size(label: dict[str, Any]) -> tuple[float, str]:
    for key, unit in (("volume_ml", "ml"), ("area_mm2", "mm²"), ("area_px", "px")):
        if key in label:
            return float(label[key]), unit
    return float(label["voxels"]), "voxels"


def _interval(label: dict[str, Any]) -> str:
    found = label["interval"]
    return "" if found is None else f" ({found['low']:.3g} to {found['high']:.3g})"


def _rows(document: dict[str, Any]) -> list[list[str]]:
    rows = []
    for label in document["labels"]:
        largest = next((label[key] for key in label if key.startswith("largest_")), 0)
        training, score = label["training"], label["score"]
        known = "not available" if training is None else f"{training['low']:.3g} to {training['high']:.3g}"
        rows.append(
            [
                str(label["name"]),
                f"{_size(label)[0]:.3g}{_interval(label)}",
                str(label["components"]),
                f"{largest:.3g}",
                "yes" if label["touches_border"] else "no",
                "" if score is None else f"{score:.2f}",
                known,
            ]
        )
    return rows
