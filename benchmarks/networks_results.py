"""Trains the registered networks with one small budget each and writes docs/networks/results.md.

Run: make results, or python benchmarks/networks_results.py --help

Every run is an ordinary `scanseg train`; finished ones are skipped and stopped ones continued, so the same
command can be given until all are done. The page shows what is finished. Trainings go side by side; how long
a step takes is measured after them, in short trainings that have the machine for themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results_page import results_page

from scanseg.progress import Eta

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "networks"
TOO_LATE = "not begun: the time limit came first"
BASELINE = "nnunet_plain"
STEPS_PER_EPOCH = 50
# Epochs and steps of the trainings that are timed; the first epoch does not count.
PACE_EPOCHS, PACE_STEPS = 3, 8
# What is trained with three seeds: the networks of the four papers, and the baseline.
SEVERAL_SEEDS = ("umamba_bot", "umamba_enc", "uu_mamba", "ud_mamba", "mamba_hunet", "nnunet_plain")
# One reduced width per family, so that two processor cores can train all of them; options that a network does
# not have are left out.
FAMILIES: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1", "nnunet_plain"), {"base_features": 16}),
    (("nnunet_resenc",), {"base_features": 8}),
    (
        ("mamba_unet", "ud_mamba", "vm_unet", "mamba_hunet", "swin_umamba_d", "swin_unet"),
        {"base_features": 32},
    ),
    (("swin_umamba", "nnformer"), {"base_features": 24}),
    (
        ("unet", "unetpp", "att_unet", "hunet_light", "segresnet", "transunet", "h2former"),
        {"base_features": 16},
    ),
    (("unetr",), {"base_features": 8, "hidden_size": 192, "mlp_dim": 768, "num_heads": 6}),
    (("swin_unetr",), {"base_features": 12}),
)
WIDTHS = {name: options for names, options in FAMILIES for name in names}


@dataclass(frozen=True)
class Task:
    """A dataset and the patch that every network gets, so that all follow one plan."""

    key: str
    dataset: str
    configuration: str
    patch_size: tuple[int, ...]
    batch_size: int


TASKS = (
    Task("2d", "NucleiMicroscopy_BBBC038", "2d", (128, 128), 2),
    Task("3d", "HippocampusMR_MSD", "3d_fullres", (32, 64, 32), 2),
)


@dataclass(frozen=True)
class Contender:
    """A row of the table: a network, what its recipe has beside the common one, and its seeds."""

    name: str
    network: str
    options: dict[str, Any]
    seeds: tuple[int, ...]
    changes: dict[str, Any] = field(default_factory=dict)


def contenders(spatial_dims: int, *, seeds: int = 3, names: Sequence[str] = ()) -> list[Contender]:
    """Returns the rows of the table for images or volumes, the baseline first.

    Args:
        spatial_dims: 2 or 3.
        seeds: Seeds of those in SEVERAL_SEEDS; the others have one.
        names: Only these; all by default.

    Raises:
        UsageError: A name is neither a network nor `uu_mamba`.
    """
    from scanseg.networks import NETWORKS
    from scanseg.training.recipe import Recipe

    found = []
    for name in dict.fromkeys((BASELINE, *sorted((*NETWORKS, "uu_mamba")))):
        network = "umamba_enc" if name == "uu_mamba" else name
        entry = NETWORKS[network]
        if spatial_dims not in entry.spatial_dims or (names and name not in names):
            continue
        wanted = {**WIDTHS.get(network, {}), "pad_to_fit": True}
        options = {key: value for key, value in wanted.items() if key in entry.options}
        changes: dict[str, Any] = {}
        if name == "uu_mamba":
            preset = Recipe.load("uu_mamba")
            changes = {key: getattr(preset, key) for key in ("loss", "loss_options", "sam_rho")}
        if name == "ud_mamba" and "auxiliary_loss" in Recipe.model_fields:
            changes = {"auxiliary_loss": "cosine_consistency", "auxiliary_weight": 0.3}
        count = seeds if name in SEVERAL_SEEDS else 1
        found.append(Contender(name, network, options, tuple(range(count)), changes))
    for name in set(names) - {"uu_mamba"}:
        NETWORKS[name]
    return found


def make_recipe(task: Task, contender: Contender, *, seed: int, steps: int) -> Any:
    """Returns the recipe of a run: `quick` with so many steps, and what the contender has of its own."""
    from scanseg.training.recipe import Recipe

    per_epoch = min(steps, STEPS_PER_EPOCH)
    return Recipe.load("quick").changed(
        network=contender.network,
        network_options=contender.options,
        epochs=max(1, steps // per_epoch),
        iterations_per_epoch=per_epoch,
        validation_iterations=4,
        patch_size=task.patch_size,
        batch_size=task.batch_size,
        seed=seed,
        **contender.changes,
    )


@dataclass(frozen=True)
class Job:
    """One training: where it lies and the command that makes or continues it."""

    task: Task
    contender: Contender
    seed: int
    run: Path
    command: tuple[str, ...]

    @property
    def key(self) -> str:
        """What it is called in messages and on the page."""
        return f"{self.task.key} {self.contender.name} seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether it was trained and measured."""
        return (self.run / "validation" / "summary.json").is_file() and (self.run / "report.html").is_file()

    @property
    def pace(self) -> Path:
        """The run of the short training that is timed; one for all seeds."""
        return self.run.parent / "pace" / self.contender.name

    @property
    def timed(self) -> bool:
        """Whether its steps were timed."""
        metrics = self.pace / "metrics.jsonl"
        return metrics.is_file() and len(metrics.read_text().splitlines()) == PACE_EPOCHS


def jobs(
    tasks: Sequence[Task],
    *,
    data: Path,
    output: Path,
    steps: int,
    seeds: int,
    names: Sequence[str],
    threads: int,
) -> Iterator[Job]:
    """Yields every training, first seeds first, and writes its recipe."""
    rows = {task.key: contenders(len(task.patch_size), seeds=seeds, names=names) for task in tasks}
    for seed in range(max((len(c.seeds) for of in rows.values() for c in of), default=0)):
        for task in tasks:
            for contender in rows[task.key]:
                if seed not in contender.seeds:
                    continue
                folder = output / f"{task.key}_{steps}_steps"
                name = f"{contender.name}_{seed}"
                recipe = folder / "recipes" / f"{name}.toml"
                make_recipe(task, contender, seed=seed, steps=steps).save(recipe)
                command = train_command(task, data, output, recipe, folder / name, threads=threads)
                yield Job(task, contender, seed, folder / name, command)


def train_command(
    task: Task, data: Path, output: Path, recipe: Path, run: Path, *, threads: int
) -> tuple[str, ...]:
    """Returns the command that makes or continues a run."""
    command = [sys.executable, "-m", "scanseg", "train", str(data / task.dataset)]
    command += ["-o", str(run), "--recipe", str(recipe), "--fold", "0", "--quiet"]
    command += ["--config", task.configuration, "--workspace", str(output / "workspace")]
    return (*command, "--no-tensorboard", "--threads", str(threads))


def time_steps(job: Job, *, data: Path, output: Path, threads: int) -> str:
    """Trains a few steps of a contender for their time alone and returns why that failed, empty if not."""
    shutil.rmtree(job.pace, ignore_errors=True)
    recipe = job.run.parent / "recipes" / f"{job.contender.name}_pace.toml"
    short = {"epochs": PACE_EPOCHS, "iterations_per_epoch": PACE_STEPS, "validation_iterations": 1}
    make_recipe(job.task, job.contender, seed=0, steps=PACE_STEPS).changed(**short).save(recipe)
    command = train_command(job.task, data, output, recipe, job.pace, threads=threads)
    return finish((*command, "--no-validate"), limit_s=3600.0)


def finish(command: Sequence[str], *, limit_s: float) -> str:
    """Runs a training for so many seconds at most and returns why it is not finished, empty if it is."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        # The state is saved after the step at hand; the same command continues it.
        process.send_signal(signal.SIGINT)
        process.communicate()
        return "stopped by the time limit"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return "" if process.returncode == 0 else (" ".join(lines[:20]) or f"exit code {process.returncode}")


def summarise(
    task: Task, todo: Sequence[Job], failures: Mapping[str, str], *, steps: int
) -> dict[str, Any] | None:
    """Returns the document of a dataset from its finished runs; None with fewer than two contenders."""
    import scanseg
    from scanseg.benchmarking.machine import machine_facts
    from scanseg.reporting.costs import training_costs
    from scanseg.reporting.run_files import read_run

    done = [job for job in todo if job.task == task and job.finished]
    if len({job.contender.name for job in done}) < 2:
        return None
    names = [job.contender.name for job in done]
    comparison = scanseg.compare(
        [job.run for job in done],
        names=names,
        group=True,
        metrics=("dice", "hd95"),
        baseline=BASELINE if BASELINE in names else None,
    )
    paces = {job.contender.name: training_costs(read_run(job.pace)) for job in done if job.timed}
    for name, facts in comparison.document["runs"].items():
        facts["costs"]["seconds_per_step"] = paces[name]["seconds_per_step"] if name in paces else None
    machine = json.loads((done[0].run / "run.json").read_text())
    facts = machine_facts()
    comparison.save(done[0].run.parent / "compared")
    return {
        "dataset": task.dataset,
        "configuration": task.configuration,
        "patch_size": task.patch_size,
        "batch_size": task.batch_size,
        "steps": steps,
        "machine": {
            **{key: machine.get(key) for key in ("device", "threads", "versions")},
            **{key: facts[key] for key in ("processor", "usable cores", "system")},
        },
        "pace_threads": next((cost["threads"] for cost in paces.values()), None),
        "options": {job.contender.name: job.contender.options for job in done},
        "changes": {job.contender.name: sorted(job.contender.changes) for job in done},
        "planned": {job.contender.name: len(job.contender.seeds) for job in todo if job.task == task},
        "failures": {key: text for key, text in failures.items() if key.startswith(f"{task.key} ")},
        "comparison": comparison.document,
    }


def write_pages(documents: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Writes results.md, and per dataset the document and the picture that it is made from."""
    from scanseg.files import write_bytes, write_json, write_text
    from scanseg.reporting.differences import differences_figure

    for key, document in documents.items():
        write_json(folder / f"results_{key}.json", document)
        write_bytes(folder / f"results_{key}.png", differences_figure(document["comparison"]))
    write_text(folder / "results.md", results_page(documents))


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains what is missing and writes the pages; returns 1 if something could not be trained."""
    chosen = _parse(arguments)
    started_s = time.monotonic()
    names = [name for name in (chosen.networks or "").split(",") if name]
    tasks = [task for task in TASKS if task.key in chosen.tasks.split(",")]
    settings = {"data": chosen.data, "output": chosen.output, "steps": chosen.steps, "seeds": chosen.seeds}
    todo = list(jobs(tasks, names=names, threads=chosen.threads, **settings))
    for number, job in enumerate(todo, start=1):
        _say(f"[{number}/{len(todo)}] {job.key}: {'finished' if job.finished else 'to do'}")
        if chosen.dry_run:
            _say(f"    {shlex.join(job.command[1:])}")
    if chosen.dry_run:
        return 0
    end_s = started_s + 60 * chosen.minutes_limit

    def train(job: Job) -> str:
        left_s = end_s - time.monotonic()
        return finish(job.command, limit_s=left_s) if left_s > 0 else TOO_LATE

    def pace(job: Job) -> str:
        if time.monotonic() > end_s:
            return TOO_LATE
        return time_steps(job, data=chosen.data, output=chosen.output, threads=chosen.pace_threads)

    failures = _each("trained", train, [job for job in todo if not job.finished], chosen.side_by_side)
    one_each = {(job.task.key, job.contender.name): job for job in reversed(todo) if job.finished}
    failures |= _each("timed", pace, [job for job in one_each.values() if not job.timed], 1)
    found = {task.key: summarise(task, todo, failures, steps=chosen.steps) for task in tasks}
    documents = {key: document for key, document in found.items() if document is not None}
    if documents:
        write_pages(documents, chosen.pages)
        _say(f"Written: {chosen.pages / 'results.md'}")
    return bool(failures)


def _each(what: str, work: Callable[[Job], str], todo: Sequence[Job], at_once: int) -> dict[str, str]:
    """Does the work for every job, so many at once, and returns the reasons of what failed."""
    eta, failures = Eta(len(todo)), {}
    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(work, job): job for job in todo}
        for done, future in enumerate(as_completed(running), start=1):
            job, reason = running[future], future.result()
            left = f"{eta(done) / 60:.0f} min left" if done < len(todo) else "all"
            _say(f"[{done}/{len(todo)}] {what}: {job.key}{': ' if reason else ''}{reason} ({left})")
            if reason:
                unfinished = f"{job.task.key} {job.contender.name}, time of a step"
                failures[job.key if what == "trained" else unfinished] = reason
    return failures


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    data = os.environ.get("SCANSEG_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path(data), help="folder of the datasets (SCANSEG_TEST_DATA)"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results_runs", help="folder of the runs")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of results.md")
    parser.add_argument("--tasks", default="2d,3d", help="2d, 3d, or both joined by a comma")
    parser.add_argument("--networks", help="only these, joined by commas")
    parser.add_argument("--seeds", type=int, default=3, help="of the networks of the papers and the baseline")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each run")
    parser.add_argument(
        "--minutes-limit", type=float, default=24 * 60, help="begin nothing after so many minutes"
    )
    cores = os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a training")
    parser.add_argument("--side-by-side", type=int, default=cores, help="trainings at once")
    parser.add_argument("--pace-threads", type=int, default=cores, help="threads of the timed trainings")
    parser.add_argument("--dry-run", action="store_true", help="train nothing; print what would be trained")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
