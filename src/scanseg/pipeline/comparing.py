"""The verb `compare`: runs against each other on the cases they were measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.errors import DataError, Error, UsageError
from scanseg.evaluation.bootstrap import RESAMPLES, SEED
from scanseg.evaluation.cases_file import metrics_in, read_cases
from scanseg.evaluation.compare import Judged, compare_scores
from scanseg.evaluation.pair import Row, checked_metrics
from scanseg.evaluation.summary import describe_metrics
from scanseg.files import write_bytes, write_json, write_text
from scanseg.reporting.compared import latex_page, markdown_page
from scanseg.reporting.costs import mean_costs, training_costs
from scanseg.reporting.differences import differences_figure
from scanseg.reporting.run_files import SCORE_FOLDERS, RunFiles, read_run

SCHEMA_VERSION = 1
METRICS = ("dice", "hd95")


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        document: What compare.json holds: the keys of `evaluation.compare.compare_scores`, and `metrics`
            (title, unit, direction), `runs` (per contender its network, members and costs), `notes`.
    """

    document: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return self.document

    def save(self, folder: Path, *, latex: bool = False) -> list[Path]:
        """Writes compare.json, compare.md, compare.png and, on request, compare.tex; returns their paths."""
        write_json(folder / "compare.json", self.document)
        write_text(folder / "compare.md", markdown_page(self.document))
        write_bytes(folder / "compare.png", differences_figure(self.document))
        names = ["compare.json", "compare.md", "compare.png"]
        if latex:
            write_text(folder / "compare.tex", latex_page(self.document))
            names.append("compare.tex")
        return [folder / name for name in names]


@dataclass(frozen=True)
class _Run:
    name: str
    files: RunFiles
    rows: list[Row]
    summary: Mapping[str, Any]

    @property
    def network(self) -> str:
        return str((self.files.config.get("network") or {}).get("name") or "")

    @property
    def seed(self) -> Any:
        return self.files.recipe.get("seed")


def compare(
    runs: Sequence[Path | str],
    *,
    metrics: Sequence[str] = METRICS,
    baseline: str | None = None,
    names: Sequence[str] | None = None,
    group: bool = False,
    common: bool = False,
    part: str = "validation",
    output: Path | str | None = None,
    latex: bool = False,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compares runs on the same cases: means, paired differences with intervals and tests, ranks, costs.

    Args:
        runs: Run folders with measured cases, or folders that `scanseg evaluate` wrote.
        metrics: Names of metrics.
        baseline: Name of the contender that the others are compared with; the first by default.
        names: One per run, instead of the names of the folders.
        group: Runs that differ in the seed only (or have the same name in `names`) count as one contender:
            the mean over its runs is taken for each case, and the spread between them is reported.
        common: Compare the cases and labels that all have, instead of refusing runs that differ.
        part: `validation`, or `unseen` where a run has test cases.
        output: Folder for compare.json, compare.md and compare.png; nothing is written without it.
        latex: Also write compare.tex.
        resamples: Of the bootstrap; so is `seed`.

    Raises:
        UsageError: An argument is wrong, or fewer than two contenders are left.
        DataError: Scores are missing or damaged, or were measured on different cases or references.

    Example:
        >>> comparison = compare(["runs/a", "runs/b"], metrics=["dice"])  # doctest: +SKIP
        >>> comparison.document["mean"]["dice"]["b"]["difference"]["ci_low"]  # doctest: +SKIP
    """
    chosen = checked_metrics(metrics)
    loaded = _load(runs, names, part)
    _check_measures(loaded, chosen)
    members = _members(loaded, group=group, named=names is not None)
    judged = [
        Judged(name, tuple(run.name for run in of_name), tuple(run.rows for run in of_name))
        for name, of_name in members.items()
    ]
    document = {
        "schema_version": SCHEMA_VERSION,
        "part": part,
        "metrics": describe_metrics(chosen, str(loaded[0].summary.get("unit") or "mm")),
        **compare_scores(judged, chosen, baseline=baseline, common=common, resamples=resamples, seed=seed),
        "runs": {name: _facts(of_name) for name, of_name in members.items()},
    }
    document["notes"] = _notes(document, members)
    comparison = Comparison(document)
    if output is not None:
        comparison.save(Path(output), latex=latex)
    return comparison


def _load(runs: Sequence[Path | str], names: Sequence[str] | None, part: str) -> list[_Run]:
    folders = [Path(run) for run in runs]
    if names is not None and len(names) != len(folders):
        raise UsageError(
            f"There are {len(folders)} runs, but {len(names)} names.",
            code="E-COMPARE-NAMES",
            hint="Give one name for each run, joined by commas; the same name for runs of one contender.",
        )
    if part not in SCORE_FOLDERS:
        raise UsageError(
            f"Unknown part {part!r}.", code="E-COMPARE-PART", hint=f"Use {' or '.join(SCORE_FOLDERS)}."
        )
    given = list(names) if names is not None else _names(folders)
    return [_load_run(folder, name, part) for folder, name in zip(folders, given, strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the names of the folders, with the folder above where several have the same."""
    names = [folder.resolve().name for folder in folders]
    return [
        name if names.count(name) == 1 else "/".join(folder.resolve().parts[-2:])
        for name, folder in zip(names, folders, strict=True)
    ]


def _load_run(folder: Path, name: str, part: str) -> _Run:
    for place in (folder / part, folder):
        if (place / "cases.csv").is_file():
            files = read_run(folder)
            summaries = [scores.summary for scores in files.scores if scores.folder == place]
            return _Run(name, files, read_cases(place / "cases.csv"), summaries[0] if summaries else {})
    raise DataError(
        f"{folder} holds no measured cases: neither {part}/cases.csv nor cases.csv.",
        code="E-COMPARE-SCORES",
        hint="Train with validation, or give the folder that `scanseg evaluate` wrote.",
    )


def _check_measures(runs: Sequence[_Run], metrics: Sequence[str]) -> None:
    """Refuses runs that lack a metric or measured it in another way."""
    for run in runs:
        missing = [name for name in metrics if name not in run.rows[0]]
        if missing:
            raise DataError(
                f"{run.name} has no {', '.join(missing)} in its cases.csv.",
                code="E-COMPARE-METRIC",
                hint=f"It has {', '.join(metrics_in(run.rows))}.",
            )
    options = {"unit": metrics, "nsd_tolerance_mm": [name for name in metrics if name == "nsd"]}
    for option, concerned in options.items():
        found = {run.summary[option]: run.name for run in runs if run.summary.get(option) is not None}
        if concerned and len(found) > 1:
            texts = ", ".join(f"{value} in {name}" for value, name in found.items())
            raise DataError(
                f"The runs were measured with different {option.replace('_', ' ')}: {texts}.",
                code="E-COMPARE-MEASURES",
                hint="Measure them again in the same way with `scanseg evaluate`.",
            )


def _members(runs: Sequence[_Run], *, group: bool, named: bool) -> dict[str, list[_Run]]:
    """Returns the runs of each contender."""
    if not group:
        if len({run.name for run in runs}) < len(runs):
            twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
            raise UsageError(
                f"Several runs have the name {twice[0]!r}.",
                code="E-COMPARE-NAMES",
                hint="Name them with --names, or count runs of one name as one contender with --group.",
            )
        return {run.name: [run] for run in runs}
    if named:
        return {run.name: [other for other in runs if other.name == run.name] for run in runs}
    found: dict[str, list[_Run]] = {}
    for run in runs:
        found.setdefault(_identity(run), []).append(run)
    return _group_names(list(found.values()))


def _identity(run: _Run) -> str:
    """Returns what two runs that differ in the seed only have in common."""
    recipe = {key: value for key, value in run.files.recipe.items() if key != "seed"}
    if not recipe:
        return run.network or run.name
    return repr(sorted(recipe.items())) + str(run.files.config.get("configuration"))


def _group_names(groups: Sequence[list[_Run]]) -> dict[str, list[_Run]]:
    """Returns the groups by network, with the recipe's fields that differ where a network has several."""
    networks = [group[0].network or group[0].name for group in groups]
    named: dict[str, list[_Run]] = {}
    for network, group in zip(networks, groups, strict=True):
        rivals = [
            other[0].files.recipe for other, name in zip(groups, networks, strict=True) if name == network
        ]
        own = group[0].files.recipe
        differing = [
            f"{key}={_short(value)}"
            for key, value in own.items()
            if key != "seed" and any(recipe.get(key) != value for recipe in rivals)
        ]
        name = f"{network} ({', '.join(differing)})" if differing else network
        named[name if name not in named else group[0].name] = group
    return named


def _short(value: Any) -> str:
    text = ",".join(f"{key}={part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _facts(runs: Sequence[_Run]) -> dict[str, Any]:
    members = []
    for run in runs:
        costs = {**training_costs(run.files), "parameters": _parameters(run.files.config)}
        members.append({"name": run.name, "seed": run.seed, "fold": run.files.config.get("fold"), **costs})
    return {"network": runs[0].network, "members": members, "costs": mean_costs(members)}


def _parameters(config: Mapping[str, Any]) -> int | None:
    """Returns the number of parameters of the network that a config.json describes, None if it cannot."""
    if not isinstance(config.get("network"), dict):
        return None
    import torch

    from scanseg.networks import count_parameters
    from scanseg.training.run import build_network

    try:
        with torch.device("meta"):
            return count_parameters(build_network(config["network"]))
    except (Error, TypeError, KeyError, ValueError):
        return None


def _notes(document: Mapping[str, Any], members: Mapping[str, Sequence[_Run]]) -> list[str]:
    """Returns what weakens the comparison: cases left out or trained on, different machines, equal seeds."""
    notes = []
    for name, cases in document["left_out"].items():
        if cases:
            notes.append(f"{len(cases)} cases of {name} were left out, because not all contenders have them.")
    compared = set(document["cases"])
    for name, runs in members.items():
        for run in runs:
            # In a cross-validation each case is predicted by the fold that was not trained on it.
            split = {} if len(run.files.parts) > 1 else run.files.config.get("split") or {}
            trained = compared & set(split.get("train") or [])
            if trained:
                notes.append(f"{run.name} was trained on {len(trained)} of the compared cases.")
        seeds = Counter(run.seed for run in runs if run.seed is not None)
        if any(count > 1 for count in seeds.values()):
            notes.append(f"Runs of {name} have the same seed: their spread says little.")
    facts = [member for entry in document["runs"].values() for member in entry["members"]]
    machines = {tuple(member[key] for key in ("device", "threads", "platform")) for member in facts}
    if len(machines) > 1:
        notes.append("The runs are of different machines or thread counts: do not compare their times.")
    steps = {member["steps"] for member in facts if member["steps"] is not None}
    if len(steps) > 1:
        notes.append("The runs have different numbers of steps.")
    return notes
