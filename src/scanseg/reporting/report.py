"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from scanseg.errors import DataError
from scanseg.files import write_text
from scanseg.reporting import sections
from scanseg.reporting.curves import learned_figure, progress_figure, scores_figure
from scanseg.reporting.run_files import RunFiles, Scores, find_picture, read_run
from scanseg.types import Label

_POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
_PANELS = ("dice", "nsd", "hd95")
_LEARNED = {
    "alpha": "Learned weights of the scans (alpha), mean over the blocks",
    "sigma": "Learned weights of the losses (sigma); a loss counts 1 / (2 sigma²)",
}


@dataclass
class Picture:
    """A picture in the report.

    Attributes:
        source: `data:` URI; empty where the picture is missing.
        caption: Below it.
        text: Stands for it where it cannot be seen.
    """

    source: str
    caption: str
    text: str


@dataclass
class Block:
    """A section of the page: heading, facts and tables, pictures."""

    key: str
    heading: str
    section: sections.Section
    pictures: list[Picture] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        parts = self.section
        return not (parts.facts or parts.tables or parts.folded or parts.texts or self.pictures)


def write_report(run_folder: Path) -> Path:
    """Writes report.html of a run folder from the files in it, and progress.png where there are metrics.

    The page is one file without scripts, links or anything from elsewhere, and forbids them to itself by a
    content security policy; every text from the files is escaped. Missing and damaged files are named in it.

    Args:
        run_folder: See `run_files.read_run`. Pictures of cases are taken from `previews/CASE.png` or a colour
            `CASE.png` in `unseen/` and `validation/`.

    Returns:
        The path of report.html.
    """
    run = read_run(Path(run_folder))
    path = run.folder / "report.html"
    write_text(path, _render(run))
    return path


def _render(run: RunFiles) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("scanseg.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        title=_guarded(run, "title", lambda: sections.title_of(run), "Run"),
        subtitle=_guarded(run, "subtitle", lambda: sections.subtitle_of(run), ""),
        cards=_guarded(run, "headline numbers", lambda: sections.headline_cards(run), []),
        blocks=[block for block in _blocks(run) if not block.is_empty],
        command=str(run.run.get("command") or ""),
        style=Markup(style),
        policy=f"{_POLICY}; style-src 'sha256-{digest}'",
    )


def _blocks(run: RunFiles) -> list[Block]:
    build = partial(_block, run)
    results = []
    for scores in run.scores:
        results.append(
            build("results", f"Scores: {scores.title.lower()}", partial(sections.results_section, scores))
        )
        results[-1].pictures = _guarded(run, "score figure", partial(_score_picture, scores), [])
        examples = build("examples", "Examples", sections.Section)
        examples.pictures = _guarded(run, "examples", partial(_examples, run, scores), [])
        results.append(examples)
    cases = [build("cases", "Every case", partial(sections.cases_section, scores)) for scores in run.scores]
    data = build("data", "Data", partial(sections.data_section, run))
    plan = build("plan", "Plan, and why", partial(sections.plan_section, run))
    recipe = build("recipe", "Recipe", partial(sections.recipe_section, run))
    training = build("training", "Training", sections.Section)
    training.pictures = _training_pictures(run)
    repeat = build("repeat", "Repeat it", partial(sections.repeat_section, run))
    # Last, because building the others may add notes.
    attention = build("attention", "Failures and gaps", partial(sections.attention_section, run))
    return [*results, attention, *cases, training, data, plan, recipe, repeat]


def _block(run: RunFiles, key: str, heading: str, build: Callable[[], sections.Section]) -> Block:
    return Block(key, heading, _guarded(run, heading.lower(), build, sections.Section()))


def _guarded(run: RunFiles, what: str, build: Callable[[], Any], instead: Any) -> Any:
    """Returns what `build` makes; files with unexpected content become a note and `instead`."""
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        run.notes.append(f"The {what} cannot be shown: a file holds something unexpected ({error!r}).")
        return instead


def _score_picture(scores: Scores) -> list[Picture]:
    summary = scores.summary
    facts = {name: summary["metrics"][name] for name in _PANELS if name in summary["metrics"]}
    labels = [Label(int(entry["value"]), str(entry["name"])) for entry in summary["labels"]]
    if not facts or not scores.rows or not labels:
        return []
    caption = "One point per case; boxes span the quartiles. Filled points failed and lie at the edge."
    source = _data_uri(scores_figure(scores.rows, facts, labels))
    return [Picture(source, caption, "Scores of all cases as points, by label")]


def _examples(run: RunFiles, scores: Scores) -> list[Picture]:
    pictures = []
    for which, case_id, score in sections.example_cases(scores):
        caption = f"{which.capitalize()} case: {case_id}, {score}"
        path = find_picture(run, scores, case_id)
        source = "" if path is None else _data_uri(path.read_bytes())
        pictures.append(Picture(source, caption, f"Reference, prediction and differences of {case_id}"))
    return pictures


def _training_pictures(run: RunFiles) -> list[Picture]:
    pictures = []
    for name, metrics in run.metrics.items():
        try:
            source = _data_uri(progress_figure(metrics).read_bytes())
        except DataError as error:
            run.notes.append(error.message)
            continue
        pictures.append(
            Picture(source, name, f"Loss, pseudo Dice and learning rate over epochs {name}".strip())
        )
        for kind, caption in _LEARNED.items():
            png = learned_figure(metrics, kind)
            if png is not None:
                pictures.append(
                    Picture(_data_uri(png), f"{caption} {name}".strip(), f"{caption} over epochs")
                )
    return pictures


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
