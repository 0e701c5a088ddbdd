"""The verb `train`: check, plan, prepare, train, predict the held-out cases, measure, report."""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scanseg.data.case_label import is_segmentation, read_case_label
from scanseg.data.image import read_geometry, write_label_map
from scanseg.data.splits import Split, make_all_split, make_splits
from scanseg.devices import resolve_device, usable_cores
from scanseg.errors import UsageError
from scanseg.evaluation.evaluate import evaluate_pairs
from scanseg.evaluation.pairing import Pair
from scanseg.files import read_json, write_json
from scanseg.inference.cases import ImageCase, mask_suffix
from scanseg.inference.cohort import predict_cohort
from scanseg.inference.predict import Model
from scanseg.nnunet.plan import Plan, make_plan
from scanseg.nnunet.preprocess import preprocess_dataset
from scanseg.optional import is_installed
from scanseg.pipeline.predicting import require_writable
from scanseg.pipeline.workspace import Workspace, open_workspace
from scanseg.progress import Progress, Report, silent
from scanseg.reporting.figures import comparison, progress_figure
from scanseg.reporting.report import write_report
from scanseg.reporting.samples import samples_figure
from scanseg.training.loop import train_network
from scanseg.training.recipe import PLANNED, Recipe
from scanseg.training.samples import Show
from scanseg.types import Case, Label, PatchSample

CURVES_EVERY_S = 20


@dataclass
class TrainOutcome:
    """What training left behind.

    Attributes:
        run: The run folder.
        folds: One entry a fold: epochs, pseudo Dice, seconds, why it stopped.
        summary: Scores of the held-out cases, as in validation/summary.json; None without validation.
        seconds: Wall time of the whole verb.
    """

    run: Path
    folds: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return {
            "run": str(self.run),
            "folds": self.folds,
            "summary": self.summary,
            "seconds": round(self.seconds, 1),
        }


def train(
    data: Path | str,
    run: Path | str,
    *,
    recipe: Recipe | Path | str = "nnunet",
    changes: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    configuration: str | None = None,
    fold: int | str = 0,
    memory_gb: float | None = None,
    restart: bool = False,
    validate: bool = True,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    layout: str = "auto",
    allow_geometry_mismatch: bool = False,
    workspace: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    workers: int = 0,
    tensorboard: bool | None = None,
    report: Report = silent,
) -> TrainOutcome:
    """Trains a network on a dataset, from its files to a run folder with a report.

    The same call continues a run that was stopped.

    Args:
        data: Dataset folder, CSV file or dataset.json.
        run: Folder to make or to continue.
        recipe: A preset's name, a TOML file, or a `Recipe`.
        changes: Fields of the recipe to replace, for example `{"network": "umamba_enc", "epochs": 50}`.
        network_options: Added to the recipe's network options, for example `{"base_features": 16}`.
        configuration: `2d` or `3d_fullres`; the plan's default otherwise.
        fold: 0 to 4, `cv` for all folds one after another, `all` to train on every case.
        memory_gb: GiB a step may use; batch and patch shrink to it.
        restart: Erase the run and begin again.
        validate: Predict and measure the held-out cases at the end.
        images: As in `check`; so are `labels`, `layout` and `allow_geometry_mismatch`.
        workspace: Folder for prepared images; `.scanseg` beside the run by default.
        device: As in `resolve_device`.
        threads: Processor threads; all usable cores by default.
        workers: Processes that prepare batches.
        tensorboard: Also write TensorBoard's event files; if it is installed, unless told otherwise.
        report: Told about every stage.

    Raises:
        UsageError: An argument is wrong, or the run was made with other settings.
        DatasetError: The data are refused; all findings are listed.
        TrainingError: Training cannot go on.
    """
    started_s = time.perf_counter()
    folder = Path(run)
    chosen = _recipe(recipe, changes or {}, network_options or {})
    resolve_device(device)
    _require_run_folder(folder, restart=restart)
    require_writable(folder)
    work = open_workspace(
        Path(data), Path(workspace) if workspace else folder.absolute().parent / ".scanseg",
        images=images, labels=labels, layout=layout, allow_geometry_mismatch=allow_geometry_mismatch,
        report=report,
    )  # fmt: skip
    plan = make_plan(
        work.dataset, work.fingerprint, orientation=work.orientation, network=chosen.network,
        memory_gb=memory_gb, overrides=_plan_overrides(chosen),
    )  # fmt: skip
    if configuration is None and chosen.patch_size is not None and len(chosen.patch_size) == 2:
        configuration = "2d"
    name = plan.configuration(configuration).name
    splits = choose_splits(work.dataset.cases, fold)
    _note_command(folder, fold)
    store = work.store(plan, name)
    preprocess_dataset(work.dataset, plan, name, store, report=report)
    outcome = TrainOutcome(folder)
    logged = is_installed("tensorboard") if tensorboard is None else tensorboard
    for number, split in splits.items():
        part = folder if len(splits) == 1 else folder / f"fold_{number}"
        _write_facts(part, work, fold=number)
        result = train_network(
            plan=plan, configuration_name=name, store_folder=store, split=split, recipe=chosen,
            run_folder=part, device=resolve_device(device), threads=threads, workers=workers, fold=number,
            tensorboard=logged, report=_drawing_curves(report, part), show=_drawing_samples(part, plan, name),
        )  # fmt: skip
        outcome.folds.append({"fold": number, **result.as_dict()})
        if validate and number != "all":
            outcome.summary = _validate(part, work, split, device, threads, report)
        _write_machine(part, started_s, device, threads)
        write_report(part)
    if len(splits) > 1:
        outcome.summary = _gather_folds(folder, work, list(splits), validate, report)
        write_report(folder)
    outcome.seconds = time.perf_counter() - started_s
    return outcome


def _drawing_curves(report: Report, run: Path) -> Report:
    """Returns a reporter that also keeps progress.png up to date, a few times a minute at most."""
    metrics, drawn = run / "metrics.jsonl", {"size": 0, "time_s": 0.0}

    def tell(progress: Progress) -> None:
        report(progress)
        now_s = time.monotonic()
        if progress.stage != "train" or now_s - drawn["time_s"] < CURVES_EVERY_S or not metrics.is_file():
            return
        size = metrics.stat().st_size
        if size > drawn["size"]:
            progress_figure(metrics, run / "progress.png")
        drawn.update(size=size, time_s=now_s)

    return tell


def _drawing_samples(run: Path, plan: Plan, configuration: str) -> Show:
    """Returns what keeps samples.png up to date: patches of the validation after the newest epoch."""
    spacing = plan.configuration(configuration).spacing[-2:]

    def show(epoch: int, samples: Sequence[PatchSample]) -> None:
        samples_figure(
            samples, plan.labels, run / "samples.png", spacing=spacing, title=f"after epoch {epoch}"
        )

    return show


def _recipe(recipe: Recipe | Path | str, changes: Mapping[str, Any], options: Mapping[str, Any]) -> Recipe:
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    merged = dict(changes)
    if options:
        merged["network_options"] = {**chosen.network_options, **options}
    return chosen.changed(**merged)


def _plan_overrides(recipe: Recipe) -> dict[str, Any]:
    found = {name: getattr(recipe, name) for name in PLANNED}
    return {key: value for key, value in found.items() if value is not None}


def choose_splits(cases: Sequence[Case], fold: int | str) -> dict[int | str, Split]:
    """Returns the folds to train, by number, or by the name `all`.

    Raises:
        UsageError: There is no such fold.
    """
    if str(fold) == "all":
        return {"all": make_all_split(cases)}
    splits = make_splits(cases)
    if str(fold) == "cv":
        return dict(enumerate(splits))
    if not str(fold).isdigit() or int(fold) >= len(splits):
        raise UsageError(
            f"There is no fold {fold!r}; these {len(cases)} cases make {len(splits)} folds.",
            code="E-FOLD-UNKNOWN",
            hint=f"Use 0 to {len(splits) - 1}, cv or all.",
        )
    return {int(fold): splits[int(fold)]}


def _require_run_folder(folder: Path, *, restart: bool) -> None:
    """Makes sure that `folder` is new, empty or an earlier run, and erases an earlier run if asked to."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "run.json").is_file()):
        raise UsageError(
            f"{folder} exists and is not a run, so nothing is written to it.",
            code="E-RUN-FOREIGN",
            hint="Choose a new folder with -o.",
        )
    if restart:
        shutil.rmtree(folder)


def _write_facts(run: Path, work: Workspace, *, fold: int | str) -> None:
    work.dataset.to_json(run / "dataset.json")
    write_json(run / "check.json", work.check)
    write_json(run / "fingerprint.json", work.fingerprint)
    _note_command(run, fold)


def _note_command(run: Path, fold: int | str) -> None:
    if not (run / "run.json").is_file():
        write_json(run / "run.json", {"schema_version": 1, "fold": fold, "command": command_line()})


def command_line() -> str:
    """Returns the command that started this process, as it would be typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _write_machine(run: Path, started_s: float, device: str, threads: int | None) -> None:
    import importlib.metadata as metadata

    names = ("scanseg", "torch", "nnunetv2", "numba", "numpy", "nibabel")
    facts = dict(read_json(run / "run.json"))
    facts.update(
        versions={"python": platform.python_version(), **{name: metadata.version(name) for name in names}},
        platform=platform.platform(),
        device=str(resolve_device(device)),
        threads=threads or usable_cores(),
        seconds=round(time.perf_counter() - started_s, 1),
    )
    write_json(run / "run.json", facts)


def _validate(
    run: Path, work: Workspace, split: Split, device: str, threads: int | None, report: Report
) -> dict[str, Any]:
    by_id = {case.case_id: case for case in work.dataset.cases}
    cases = [by_id[case_id] for case_id in split.validation]
    return measure_cases(
        Model(run, device=device, threads=threads), cases, run / "validation", stage="validate", report=report
    )


def measure_cases(
    model: Model, cases: Sequence[Case], folder: Path, *, stage: str, report: Report
) -> dict[str, Any]:
    """Predicts labelled cases into a folder and writes cases.csv, summary.json and a picture of each.

    Returns:
        The content of summary.json.
    """
    jobs = [
        ImageCase(case.case_id, case.images, f"{case.case_id}{mask_suffix(case.images[0])}") for case in cases
    ]
    result = predict_cohort(model, jobs, folder, preview=False, stage=stage, report=report)
    masks = {
        job.case_id: folder / job.mask_name for job in jobs if job.case_id not in failed_ids(result.failures)
    }
    cases = [_with_file(case, model.labels, folder / "references") for case in cases]
    evaluation = evaluate_pairs(
        _pairs(cases, masks), labels=model.labels, groups=_groups(cases), report=report
    )
    evaluation.save(folder)
    for case, job in zip(cases, jobs, strict=True):
        if case.label is not None and (folder / job.mask_name).is_file():
            comparison(
                case.images,
                folder / job.mask_name,
                case.label,
                model.labels,
                folder / "previews" / f"{case.case_id}.png",
            )
    return evaluation.summary


def _with_file(case: Case, labels: Sequence[Label], folder: Path) -> Case:
    """Returns the case with its DICOM segmentation as a label map, which evaluation and figures read."""
    if case.label is None or not is_segmentation(case.label):
        return case
    geometry, _ = read_geometry(case.images[0])
    path = folder / f"{case.case_id}.nii.gz"
    write_label_map(path, read_case_label(case.label, labels, geometry).array, geometry)
    return replace(case, label=path)


def failed_ids(failures: Sequence[Any]) -> set[str]:
    """Returns the case ids of findings."""
    return {finding.case_id for finding in failures}


def _pairs(cases: Sequence[Case], masks: Mapping[str, Path]) -> list[Pair]:
    return [
        Pair(case.case_id, case.label, masks.get(case.case_id)) for case in cases if case.label is not None
    ]


def _groups(cases: Sequence[Case]) -> dict[str, str] | None:
    return {case.case_id: case.group for case in cases if case.group} or None


def _gather_folds(
    run: Path, work: Workspace, folds: Sequence[int | str], validate: bool, report: Report
) -> dict[str, Any] | None:
    write_json(run / "run.json", {"schema_version": 1, "folds": list(folds), "command": command_line()})
    if not validate:
        return None
    masks: dict[str, Path] = {}
    for fold in folds:
        part = run / f"fold_{fold}"
        validation = read_json(part / "config.json")["split"]["validation"]
        stats = read_json(part / "validation" / "stats.json")["cases"]
        masks.update(
            {
                case_id: part / "validation" / stats[case_id]["mask"]
                for case_id in validation
                if case_id in stats
            }
        )
    cases = work.dataset.cases
    evaluation = evaluate_pairs(
        _pairs(cases, masks), labels=work.dataset.labels, groups=_groups(cases), report=report
    )
    evaluation.save(run / "validation")
    return evaluation.summary
