"""What the report says, as plain texts and tables; the template only lays it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scanseg.reporting.curves import duration
from scanseg.reporting.phrases import comma, short_number, spread_text, times, unit_power, value_text
from scanseg.reporting.run_files import RunFiles, Scores
from scanseg.reporting.tables import interval_text, metric_title, number_text

_MOST_ROWS = 400
_FEW = 10
_PLAN_FIELDS = {
    "spatial_dims": "dimensions of a patch",
    "spacing": "spacing after resampling",
    "median_shape": "median size after resampling",
    "patch_size": "patch size",
    "batch_size": "batch size",
    "normalization": "normalisation",
    "use_mask_for_norm": "normalise within the non-zero part",
    "strides": "down-sampling per stage",
    "kernel_sizes": "kernel sizes per stage",
    "features_per_stage": "channels per stage",
    "batch_dice": "Dice over the batch",
    "memory_bytes": "memory of a training step (estimate)",
}
_HEADLINE = ("dice", "nsd", "hd95")


@dataclass
class Table:
    """A table of texts.

    Attributes:
        columns: Titles.
        rows: Cells.
        numeric: From this column on cells are numbers, aligned right.
        caption: What it shows.
        left_out: How many further rows there are.
        keyed: Whether the first cell of a row names it.
    """

    columns: Sequence[str]
    rows: list[Sequence[str]]
    numeric: int = 99
    caption: str = ""
    left_out: int = 0
    keyed: bool = True


@dataclass
class Card:
    """A headline number."""

    title: str
    value: str
    note: str = ""


@dataclass
class Section:
    """Facts of one section; empty parts are not shown."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[tuple[str, Table]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def title_of(run: RunFiles) -> str:
    """Returns the name of the dataset, or of the folder."""
    return str(run.dataset.get("name") or run.config.get("dataset_name") or run.folder.resolve().name)


def subtitle_of(run: RunFiles) -> str:
    """Returns network, configuration and fold in one line."""
    network = run.config.get("network") or {}
    parts = [network.get("name") or run.recipe.get("network"), run.config.get("configuration")]
    if len(run.parts) > 1:
        parts.append(f"cross-validation of {len(run.parts)} folds")
    elif run.config.get("fold") is not None:
        parts.append("all cases" if run.config["fold"] == "all" else f"fold {run.config['fold']}")
    return ", ".join(str(part) for part in parts if part)


def headline_cards(run: RunFiles) -> list[Card]:
    """Returns the numbers a reader wants first."""
    cards = []
    for scores in run.scores[:1]:
        facts, means = scores.summary.get("metrics") or {}, scores.summary.get("mean") or {}
        names = [name for name in _HEADLINE if name in means] or list(means)[:3]
        for name in names:
            values = means[name]
            interval = ""
            if values.get("ci_low") is not None:
                low, high = (number_text(values[key], facts.get(name, {})) for key in ("ci_low", "ci_high"))
                interval = f"95 % interval {low} to {high}"
            title = f"mean {metric_title(facts.get(name, {}), name)}"
            cards.append(Card(title, number_text(values.get("mean"), facts.get(name, {})), interval))
        states = _states(scores)
        failed = states["missed"] + states["invented"] + states["no_prediction"]
        note = "missed, invented or not predicted; counted with the worst value" if failed else ""
        cards.append(Card("failed structures", f"{failed} of {sum(states.values())}", note))
        cards.append(Card("cases measured", str(scores.summary.get("n_cases", "")), scores.title))
    training = run.config.get("training") or {}
    seconds = training.get("seconds") or run.run.get("seconds")
    if seconds:
        epochs = training.get("epochs")
        cards.append(Card("training", duration(float(seconds)), f"{epochs} epochs" if epochs else ""))
    return cards


def results_section(scores: Scores) -> Section:
    """Returns the scores per label with intervals, and how to read them."""
    summary = scores.summary
    facts = summary.get("metrics") or {}
    columns = ["label", "cases", "n/a", "failed", *(metric_title(facts[n], n) for n in facts)]
    rows = []
    for entry in summary.get("labels") or []:
        rows.append(_score_row(entry.get("name", ""), entry.get("metrics") or {}, facts))
    if len(rows) != 1:
        rows.append(_score_row("mean over labels", summary.get("mean") or {}, facts))
    section = Section(tables=[Table(columns, rows, numeric=1)])
    bootstrap = summary.get("bootstrap") or {}
    if bootstrap:
        section.texts.append(
            f"Mean with {100 * bootstrap.get('confidence', 0.95):.0f} % percentile bootstrap interval: "
            f"{bootstrap.get('resamples', 0):,} resamples of {bootstrap.get('n_units')} "
            f"{bootstrap.get('resampled')}, seed {bootstrap.get('seed')}."
        )
        if bootstrap.get("n_units", 99) < _FEW:
            section.texts.append(
                f"From fewer than {_FEW} {bootstrap.get('resampled')} an interval is a rough guide and tends "
                "to be too narrow."
            )
    if "nsd" in facts and summary.get("nsd_tolerance_mm") is not None:
        section.texts.append(
            f"NSD at a tolerance of {summary['nsd_tolerance_mm']:g} {summary.get('unit', 'mm')}."
        )
    section.texts.append(
        "A structure in neither mask is not applicable (n/a) and counts nowhere. A missed or invented "
        "structure, or a missing prediction, counts as failed and gets the worst value: 0 for overlaps, the "
        "diagonal of the image for distances."
    )
    meaning = [
        (metric_title(f, n), f.get("summary", ""), f"{f.get('better', '')} is better")
        for n, f in facts.items()
    ]
    section.folded.append(("What the scores mean", Table(["score", "meaning", ""], [*meaning])))
    return section


def example_cases(scores: Scores) -> list[tuple[str, str, str]]:
    """Returns (which, case, its score) of the best, the median and the worst case."""
    facts, cases = scores.summary.get("metrics") or {}, scores.summary.get("cases") or {}
    name = next((n for n in ("dice", *facts) if n in facts), None)
    if name is None:
        return []
    known = {c: v[name] for c, v in cases.items() if isinstance(v, Mapping) and v.get(name) is not None}
    sign = -1 if facts[name].get("better") == "lower" else 1
    order = sorted(known, key=lambda case: (sign * known[case], case))
    chosen = {"worst": 0, "median": len(order) // 2, "best": len(order) - 1} if order else {}
    found: dict[str, str] = {}
    for which in ("best", "median", "worst"):
        if which in chosen:
            found.setdefault(order[chosen[which]], which)
    title = metric_title(facts[name], name)
    return [
        (which, case, f"{title} {number_text(known[case], facts[name])}") for case, which in found.items()
    ]


def attention_section(run: RunFiles) -> Section:
    """Returns everything that failed or needs a look."""
    section = Section()
    rows: list[Sequence[str]] = []
    for scores in run.scores:
        for failure in scores.failures:
            rows.append((failure.get("case", failure.get("case_id", "")), "", "failed", _joined(failure)))
        for row in scores.rows:
            if row.get("state") in ("missed", "invented", "no_prediction"):
                rows.append((row.get("case_id", ""), row.get("name", ""), _STATE_TEXTS[row["state"]], ""))
        for finding in scores.summary.get("findings") or []:
            if finding.get("code") != "E-EVALUATE-MISSING":
                rows.append(
                    (finding.get("case_id", ""), "", finding.get("level", ""), finding.get("text", ""))
                )
    if rows:
        table = Table(
            ["case", "label", "what", "detail"], rows[:_MOST_ROWS], left_out=max(0, len(rows) - _MOST_ROWS)
        )
        section.tables.append(table)
    elif run.scores:
        section.texts.append("No structure was missed or invented, and every case has a prediction.")
    section.texts += [str(warning) for warning in run.plan.get("warnings") or []]
    section.texts += run.notes
    return section


def cases_section(scores: Scores) -> Section:
    """Returns the scores of every case and label."""
    facts = scores.summary.get("metrics") or {}
    columns = ["case", "label", "state", *(metric_title(facts[name], name) for name in facts)]
    rows = [
        (
            row.get("case_id", ""),
            row.get("name", ""),
            row.get("state", "").replace("_", " "),
            *(number_text(row.get(name), facts[name]) for name in facts),
        )
        for row in scores.rows[:_MOST_ROWS]
    ]
    left_out = max(0, len(scores.rows) - _MOST_ROWS)
    table = Table(columns, [*rows], numeric=3, left_out=left_out)
    title = f"{scores.title}: {len(scores.rows)} rows"
    return Section(folded=[(title, table)]) if rows else Section(texts=["cases.csv holds no case."])


def data_section(run: RunFiles) -> Section:
    """Returns what was trained on: sizes, labels, findings, licence."""
    statistics = run.check.get("statistics") or {}
    section = Section()
    split = run.config.get("split") or {}
    facts = {
        "cases": statistics.get("cases") or run.dataset.get("numTraining"),
        "trained on": len(split["train"]) if split.get("train") else None,
        "test cases": statistics.get("test_cases"),
        "patients (groups)": statistics.get("groups"),
        "channels": comma(_names(run)),
        "modality": run.dataset.get("modality"),
        "size (z, y, x)": spread_text(statistics.get("shape")),
        "spacing (z, y, x)": spread_text(statistics.get("spacing"), statistics.get("spacing_unit", "")),
        "orientations": comma(f"{k} ({n})" for k, n in (statistics.get("orientations") or {}).items()),
        "licence": run.dataset.get("licence"),
        "citation": run.dataset.get("citation"),
    }
    section.facts = [(name, str(value)) for name, value in facts.items() if value not in (None, "", 0)]
    if statistics.get("labels"):
        section.tables.append(_labels_table(statistics["labels"], statistics.get("size_unit", "")))
    if run.check.get("findings"):
        section.folded.append(_findings_table(run.check["findings"]))
    elif run.check:
        section.texts.append("The check found nothing to complain about.")
    section.folded += _case_tables(run)
    return section


def _labels_table(labels: Sequence[Mapping[str, Any]], unit: str) -> Table:
    median = f"median size ({unit_power(unit)})" if unit else "median size"
    rows = [
        (
            entry.get("name", ""),
            str(entry.get("value", "")),
            str(entry.get("cases", "")),
            short_number(entry.get("median_size")),
        )
        for entry in labels
    ]
    return Table(["label", "value", "cases with it", median], [*rows], numeric=1)


def _findings_table(findings: Sequence[Mapping[str, Any]]) -> tuple[str, Table]:
    """Returns a title with their number by level, and the first of them."""
    levels = Counter(finding.get("level") for finding in findings)
    title = "Findings of the check: " + ", ".join(f"{n} {level}" for level, n in levels.items())
    shown = [
        (f.get("level", ""), f.get("case_id", ""), f.get("text", ""), f.get("code", ""))
        for f in findings[:_MOST_ROWS]
    ]
    left_out = max(0, len(findings) - _MOST_ROWS)
    return title, Table(["level", "case", "finding", "code"], [*shown], left_out=left_out, keyed=False)


def plan_section(run: RunFiles) -> Section:
    """Returns the values of the plan in use, each with the rule that made it."""
    name = run.config.get("configuration") or run.plan.get("default_configuration") or ""
    configuration = (run.plan.get("configurations") or {}).get(name) or {}
    reasons = run.plan.get("reasons") or {}
    general = [
        ("configuration", "default_configuration", name),
        ("orientation", "orientation", run.plan.get("orientation")),
    ]
    rows = [(title, value_text(key, value), reasons.get(key, "")) for title, key, value in general if value]
    for key, title in _PLAN_FIELDS.items():
        if key in configuration:
            rows.append(
                (
                    title,
                    value_text(key, configuration[key]),
                    reasons.get(f"{name}.{key}", reasons.get(key, "")),
                )
            )
    return Section(tables=[Table(["what", "value", "why"], [*rows])]) if configuration else Section()


def recipe_section(run: RunFiles) -> Section:
    """Returns the recipe as it was used."""
    rows = [(key.replace("_", " "), value_text(key, value)) for key, value in run.recipe.items()]
    return Section(tables=[Table(["what", "value"], [*rows])]) if rows else Section()


def repeat_section(run: RunFiles) -> Section:
    """Returns what is needed to repeat the run: machine, versions, seed, hashes."""
    network, versions = run.config.get("network") or {}, run.run.get("versions") or {}
    facts = {
        "seed": run.recipe.get("seed"),
        "device": run.run.get("device"),
        "threads": run.run.get("threads"),
        "platform": run.run.get("platform"),
        "wall time": duration(float(run.run["seconds"])) if run.run.get("seconds") else None,
        "versions": comma(f"{name} {number}" for name, number in versions.items()),
        "written by": f"scanseg {run.config['scanseg_version']}" if "scanseg_version" in run.config else None,
        "network options": value_text("", network.get("options")) if network.get("options") else None,
        "SHA-256 of the weights": run.config.get("weights_sha256"),
    }
    return Section(facts=[(name, str(value)) for name, value in facts.items() if value not in (None, "")])


_STATE_TEXTS = {
    "missed": "missed: in the reference, not in the prediction",
    "invented": "invented: in the prediction, not in the reference",
    "no_prediction": "no prediction",
}


def _score_row(title: str, values: Mapping[str, Any], facts: Mapping[str, Any]) -> Sequence[str]:
    first: Mapping[str, Any] = next(iter(values.values()), {})
    counts = (
        first.get("n", 0),
        first.get("n_not_applicable", 0),
        first.get("n_missed", 0) + first.get("n_invented", 0),
    )
    return (title, *(str(n) for n in counts), *(_two_lines(values.get(n) or {}, facts[n]) for n in facts))


def _two_lines(values: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    return interval_text(values, facts).replace(" (", "\n").replace(")", "")


def _states(scores: Scores) -> Counter[str]:
    states: Counter[str] = Counter({"missed": 0, "invented": 0, "no_prediction": 0})
    for entry in scores.summary.get("labels") or []:
        states.update({k: int(n) for k, n in (entry.get("states") or {}).items() if k != "both_empty"})
    return states


def _case_tables(run: RunFiles) -> list[tuple[str, Table]]:
    cases = run.check.get("cases") or []
    if not cases:
        return []
    held_out = set((run.config.get("split") or {}).get("validation") or [])
    trained = set((run.config.get("split") or {}).get("train") or [])
    rows = []
    for case in cases[:_MOST_ROWS]:
        name = case.get("case_id", "")
        part = case.get("part", "")
        if name in trained or name in held_out:
            part = "validation" if name not in trained else "training"
        shape, spacing = times(case.get("shape")), times(case.get("spacing"))
        rows.append(
            (name, part, str(case.get("group") or ""), shape, f"{spacing} {case.get('unit', '')}".strip())
        )
    columns = ["case", "part", "group", "size (z, y, x)", "spacing (z, y, x)"]
    return [(f"All {len(cases)} cases", Table(columns, [*rows], left_out=max(0, len(cases) - _MOST_ROWS)))]


def _names(run: RunFiles) -> list[str]:
    names = run.config.get("channel_names") or run.dataset.get("channel_names") or []
    return [str(name) for name in (names.values() if isinstance(names, Mapping) else names)]


def _joined(failure: Mapping[str, str]) -> str:
    return " ".join(value for key, value in failure.items() if key not in ("case", "case_id") and value)
