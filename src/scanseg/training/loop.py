"""The training loop, from top to bottom."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from scanseg.data.splits import Split
from scanseg.devices import resolve_device
from scanseg.errors import TrainingError
from scanseg.files import write_json
from scanseg.nnunet.batches import Batch, iterate
from scanseg.nnunet.plan import Plan
from scanseg.progress import Progress, Report, silent
from scanseg.training.assemble import assemble, borrowed_torch, measure_pace
from scanseg.training.checkpoint import Checkpoints, restore
from scanseg.training.encoder import freeze_encoder, load_pretrained
from scanseg.training.events import MetricsLog
from scanseg.training.identity import differences, require_same, run_environment, run_identity
from scanseg.training.interrupts import Interrupts
from scanseg.training.lock import exclusive
from scanseg.training.recipe import Recipe
from scanseg.training.run import WEIGHTS, make_config
from scanseg.training.samples import Show
from scanseg.training.session import Session
from scanseg.training.state import TrainingResult, TrainingState
from scanseg.training.step import to_device
from scanseg.training.task import Task
from scanseg.training.timetable import Timetable
from scanseg.training.validation import PatchScores, validate_patches

_FOREVER = 2**40
_log = logging.getLogger(__name__)


def train_network(
    *,
    plan: Plan,
    configuration_name: str | None,
    store_folder: Path,
    split: Split,
    recipe: Recipe,
    run_folder: Path,
    device: torch.device | str = "auto",
    threads: int | None = None,
    workers: int = 0,
    fold: int | str | None = None,
    restart: bool = False,
    tensorboard: bool = False,
    report: Report = silent,
    show: Show | None = None,
) -> TrainingResult:
    """Trains a network on preprocessed cases and leaves its weights in the run folder.

    The same call continues a run that was stopped or killed, and ends with the same weights bit by bit, on
    the same processor with the same versions and threads (GPUs may add up in another order). Ctrl-C, SIGTERM
    and SIGUSR1 are noticed after the step at hand, which is saved. The number of workers changes nothing.
    Nothing global is changed: random states, threads and signal handlers are given back.

    metrics.jsonl has a line per epoch: epoch (from 1), step, learning_rate (of its last step), train_loss,
    validation_loss, pseudo_dice (mean over the foreground classes), pseudo_dice_per_label, ema_pseudo_dice,
    best, seconds, data_seconds (waiting for batches), elapsed_seconds (over all sessions), skipped_steps,
    peak_memory_bytes, total_memory_bytes and memory_kind (see `memory_used`). train_loss and validation_loss
    are those of the logits. Where there are such things: auxiliary_loss (mean over the training steps,
    without its factor), sigma_NAME for each component of an uncertainty-aware loss, alpha_NAME for each scan
    of UD-Mamba (sequential_down, skip_down, sequential_up, skip_up: its weight, the mean over the blocks that
    use it). What is not a number is null.

    Args:
        plan: The plan the cases were preprocessed with.
        configuration_name: One of its configurations, None for its default.
        store_folder: Where `preprocess_dataset` wrote.
        split: Cases to train on and to validate on.
        recipe: Everything else.
        run_folder: Gets config.json recipe.toml plan.json model.safetensors best.safetensors metrics.jsonl,
            and checkpoint/ until training has finished.
        device: As in `resolve_device`.
        threads: Processor threads; all usable cores by default.
        workers: Extra processes that prepare batches.
        fold: Noted in config.json.
        restart: Forget what the run folder holds of an earlier training.
        tensorboard: Also write TensorBoard's event files.
        report: Told after each step, with an estimate of the time left.
        show: Called with each epoch's number and a few patches of its validation, the same ones every time,
            before the epoch's line is in metrics.jsonl; nothing else depends on it.

    Returns:
        The result; at once, if the run has finished already.

    Raises:
        UsageError: The recipe does not fit the plan, the run was begun with other settings, or pretrained
            weights cannot be used.
        TrainingError: Another process trains this run, too many steps in a row were not finite, a batch could
            not be made, or a file not be written.
        KeyboardInterrupt: SIGINT came; the state is saved.
        SystemExit: Another signal came; the state is saved. The code is 128 + its number.
    """
    target = resolve_device(device) if isinstance(device, str) else device
    task = Task(plan, plan.configuration(configuration_name), Path(store_folder), split, recipe, fold)
    task.check()
    identity, folder = run_identity(task), Path(run_folder)
    with (
        exclusive(folder),
        _named_write_errors(folder),
        borrowed_torch(threads) as count,
        Interrupts() as interrupts,
    ):
        _sweep(folder)
        checkpoints = Checkpoints(folder / "checkpoint")
        if restart:
            _erase(folder, checkpoints)
        if (finished := checkpoints.finished()) is not None:
            require_same(finished["identity"], identity, run_folder=folder)
            return TrainingState.model_validate(finished["state"]).result()
        saved = checkpoints.newest()
        if saved is not None:
            require_same(saved[1]["identity"], identity, run_folder=folder)
        session = Session(
            training=assemble(task, target),
            folder=folder,
            labels=tuple(label.name for label in plan.labels[1:]),
            checkpoints=checkpoints,
            identity=identity,
            environment=run_environment(device=target, threads=count),
            log=MetricsLog(folder, tensorboard=tensorboard),
            interrupts=interrupts,
            report=report,
            show=show,
        )
        config = _describe(task, folder)
        state = _begin(session) if saved is None else _continue(session, *saved)
        config["pretrained_sha256"] = state.pretrained_sha256
        write_json(folder / "config.json", config)
        _train(session, state, workers)
        return session.finish(state, config)


def _describe(task: Task, folder: Path) -> dict[str, Any]:
    """Writes plan.json, recipe.toml and config.json, and returns the content of the last."""
    task.plan.save(folder / "plan.json")
    task.recipe.save(folder / "recipe.toml")
    config = make_config(task)
    write_json(folder / "config.json", config)
    return config


def _begin(session: Session) -> TrainingState:
    """Returns the state before the first step; reads pretrained weights and, for a time budget, the pace."""
    session.log.keep(0)
    recipe = session.recipe
    digest = load_pretrained(session.training.network, recipe)
    if recipe.freeze_encoder_epochs and digest is None:
        _log.warning("The encoder is frozen for %d epochs at random weights.", recipe.freeze_encoder_epochs)
    budget = recipe.minutes
    if budget is None:
        return TrainingState(timetable=Timetable.of_recipe(recipe), pretrained_sha256=digest)
    session.report(Progress("train", 0, 1, None, "measuring the speed"))
    started_s = time.perf_counter()
    pace = measure_pace(session.training, seconds=0.03 * 60 * budget)
    spent_s = time.perf_counter() - started_s
    timetable = Timetable.of_budget(recipe, pace, seconds=max(60 * budget - spent_s, 0))
    return TrainingState(timetable=timetable, elapsed_s=spent_s, pretrained_sha256=digest)


def _continue(session: Session, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> TrainingState:
    training = session.training
    state = restore(
        tensors, facts, network=training.network, loss=training.loss, optimizer=training.optimizer
    )
    session.log.keep(state.epoch)
    changed = differences(facts["environment"], session.environment)
    if changed:
        _log.warning("The result will not be bit-identical to an undisturbed run: %s", "; ".join(changed))
    return state


def _train(session: Session, state: TrainingState, workers: int) -> None:
    """Trains from `state` to the end: epochs of steps, each with a validation and a checkpoint after it."""
    training = session.training
    batches = iterate(
        training.train, state.step, _FOREVER, workers, pin_memory=training.device.type == "cuda"
    )
    # Closed at the end in any case, for it may own worker processes.
    with closing(cast(Generator[Batch], batches)) as feed:
        while not state.stopped:
            if state.epoch >= state.timetable.epochs:
                state.stopped = "finished"
                break
            waited_s = _train_epoch(session, state, feed)
            scores = _validate_epoch(session, state)
            session.end_epoch(state, scores, waited_s=waited_s)
    session.log.close()


def _train_epoch(session: Session, state: TrainingState, feed: Iterator[Batch]) -> float:
    """Makes the steps of the epoch that are left and returns the seconds spent waiting for batches."""
    training, waited_s = session.training, 0.0
    training.network.train()
    if session.recipe.freeze_encoder_epochs:
        freeze_encoder(training.network, state.epoch < session.recipe.freeze_encoder_epochs)
    while state.step_in_epoch < state.timetable.iterations:
        started_s = time.perf_counter()
        batch = next(feed)
        waited_s += time.perf_counter() - started_s
        data, target = to_device(batch.data, batch.target, training.device)
        progress = state.timetable.progress(state.step, per=session.recipe.schedule_per)
        result = training.step(data, target, number=state.step, progress=progress)
        state.step_in_epoch += 1
        if result.made:
            state.note_made(result.loss, result.auxiliary)
        else:
            session.skip(state, data, target)
        session.spend(state, "step", started_s)
        session.tell(state)
        session.leave_if_asked(state)
    return waited_s


def _validate_epoch(session: Session, state: TrainingState) -> PatchScores:
    training = session.training

    def batches() -> Iterator[Batch]:
        if training.validation is None:
            return
        for number in range(state.timetable.validation_iterations):
            started_s = time.perf_counter()
            yield training.validation.batch(number)
            session.spend(state, "validation", started_s)
            session.tell(state, validated=number + 1)
            session.leave_if_asked(state)

    return validate_patches(
        training.network,
        training.loss,
        batches(),
        device=training.device,
        precision=session.recipe.precision,
    )


@contextmanager
def _named_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"A file of the run {folder} cannot be read or written: {error.strerror or error}.",
            code="E-RUN-FILE",
            hint="Free some space or mend the permissions, and run the same command again; it continues.",
        ) from error


def _sweep(folder: Path) -> None:
    """Removes what writes left that were killed; safetensors names its own files so, too."""
    for path in (*folder.glob(".tmp*"), *(folder / "checkpoint").glob(".tmp*")):
        path.unlink()


def _erase(folder: Path, checkpoints: Checkpoints) -> None:
    checkpoints.wipe()
    for name in (*WEIGHTS.values(), "config.json", "recipe.toml", "plan.json", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
