"""The training loop, from top to bottom."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from scanseg.data.splits import Split
from scanseg.devices import resolve_device
from scanseg.errors import TrainingError, UsageError
from scanseg.files import sha256, write_json
from scanseg.nnunet.batches import Batch, iterate
from scanseg.nnunet.plan import Plan
from scanseg.progress import Progress, Report, silent
from scanseg.training.assemble import Training, assemble, borrowed_torch, measure_pace
from scanseg.training.checkpoint import Checkpoints, restore
from scanseg.training.events import MetricsLog, Stopwatch, peak_memory_bytes
from scanseg.training.identity import differences, require_same, run_environment, run_identity
from scanseg.training.interrupts import Interrupts
from scanseg.training.lock import exclusive
from scanseg.training.recipe import Recipe
from scanseg.training.run import WEIGHTS, make_config
from scanseg.training.state import TrainingState
from scanseg.training.step import blame, to_device
from scanseg.training.timetable import Timetable
from scanseg.training.validation import PatchScores, validate_patches
from scanseg.training.weights import first_nonfinite_name, save_tensors, weights_of

_FOREVER = 2**40
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        best_epoch: The epoch whose weights are in best.safetensors, counted from 1; None without validation.
        pseudo_dice: Its moving average of the pseudo Dice.
        epochs: Finished epochs.
        seconds: Time spent in training, over all sessions.
        stopped: `finished` or `early_stop`.
        skipped_steps: Steps skipped because of NaN or infinity.
    """

    best_epoch: int | None
    pseudo_dice: float | None
    epochs: int
    seconds: float
    stopped: str
    skipped_steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Session:
    """One call of `train_network`: the training, where it writes, and whom it tells."""

    training: Training
    folder: Path
    labels: tuple[str, ...]
    checkpoints: Checkpoints
    identity: Mapping[str, Any]
    environment: Mapping[str, Any]
    log: MetricsLog
    interrupts: Interrupts
    report: Report
    stopwatch: Stopwatch

    @property
    def recipe(self) -> Recipe:
        return self.training.recipe


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
) -> TrainingResult:
    """Trains a network on preprocessed cases and leaves its weights in the run folder.

    The same call continues a run that was stopped or killed, and ends with the same weights bit by bit, on
    the same machine with the same versions and threads. Ctrl-C, SIGTERM and SIGUSR1 are noticed after the
    step at hand, which is saved. The number of workers changes nothing. Nothing global is changed: random
    states, threads and signal handlers are given back.

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

    Returns:
        The result; at once, if the run has finished already.

    Raises:
        UsageError: The recipe does not fit the plan, or the run was begun with other settings.
        TrainingError: Another process trains this run, too many steps in a row were not finite, or a batch
            could not be made.
        KeyboardInterrupt: SIGINT came; the state is saved.
        SystemExit: Another signal came; the state is saved. The code is 128 + its number.
    """
    target = resolve_device(device) if isinstance(device, str) else device
    configuration = plan.configuration(configuration_name)
    if recipe.early_stop is not None and not split.validation:
        raise UsageError(
            "early_stop needs validation cases, and this split has none.",
            code="E-RECIPE-EARLY-STOP",
            hint="Train for a number of epochs or minutes.",
        )
    identity = run_identity(
        plan=plan, configuration=configuration, recipe=recipe, split=split, store_folder=store_folder
    )
    folder = Path(run_folder)
    with exclusive(folder), borrowed_torch(threads) as count, Interrupts() as interrupts:
        checkpoints = Checkpoints(folder / "checkpoint")
        if restart:
            _erase(folder, checkpoints)
        if (finished := checkpoints.finished()) is not None:
            require_same(finished["identity"], identity, run_folder=folder)
            return _result(TrainingState.model_validate(finished["state"]))
        saved = checkpoints.newest()
        if saved is not None:
            require_same(saved[1]["identity"], identity, run_folder=folder)
        training = assemble(
            plan=plan,
            configuration=configuration,
            recipe=recipe,
            split=split,
            store_folder=store_folder,
            device=target,
        )
        session = _Session(
            training=training,
            folder=folder,
            labels=tuple(label.name for label in plan.labels[1:]),
            checkpoints=checkpoints,
            identity=identity,
            environment=run_environment(device=target, threads=count),
            log=MetricsLog(folder, tensorboard=tensorboard),
            interrupts=interrupts,
            report=report,
            stopwatch=Stopwatch(),
        )
        config = make_config(plan=plan, configuration=configuration, recipe=recipe, split=split, fold=fold)
        plan.save(folder / "plan.json")
        recipe.save(folder / "recipe.toml")
        write_json(folder / "config.json", config)
        state = _begin(session) if saved is None else _continue(session, *saved)
        _train(session, state, workers)
        return _finish(session, state, config)


def _begin(session: _Session) -> TrainingState:
    """Returns the state before the first step; with a time budget, after measuring the pace."""
    session.log.keep(0)
    budget = session.recipe.minutes
    if budget is None:
        return TrainingState(timetable=Timetable.of_recipe(session.recipe))
    session.report(Progress("train", 0, 1, None, "measuring the speed"))
    started_s = time.perf_counter()
    pace = measure_pace(session.training, seconds=0.03 * 60 * budget)
    spent_s = time.perf_counter() - started_s
    timetable = Timetable.of_budget(session.recipe, pace, seconds=max(60 * budget - spent_s, 0))
    return TrainingState(timetable=timetable, elapsed_s=spent_s)


def _continue(session: _Session, tensors: Mapping[str, Any], facts: Mapping[str, Any]) -> TrainingState:
    training = session.training
    state = restore(
        tensors, facts, network=training.network, loss=training.loss, optimizer=training.optimizer
    )
    session.log.keep(state.epoch)
    changed = differences(facts["environment"], session.environment)
    if changed:
        _log.warning("The result will not be bit-identical to an undisturbed run: %s", "; ".join(changed))
    return state


def _train(session: _Session, state: TrainingState, workers: int) -> None:
    """Trains from `state` to the end: epochs of steps, a validation after each, a checkpoint after that."""
    pinned = session.training.device.type == "cuda"
    batches = iterate(session.training.train, state.step, _FOREVER, workers, pin_memory=pinned)
    # Closed at the end in any case, for it may own worker processes.
    with closing(cast(Generator[Batch], batches)) as feed:
        while not state.stopped:
            if state.epoch >= state.timetable.epochs:
                state.stopped = "finished"
                break
            waited_s = _train_epoch(session, state, feed)
            scores = _validate_epoch(session, state)
            record = epoch_record(session, state, scores, waited_s)
            is_best = state.finish_epoch(scores.mean_dice)
            record |= {"ema_pseudo_dice": state.ema, "best": is_best}
            _save_epoch(session, state, record)
    session.log.close()


def _train_epoch(session: _Session, state: TrainingState, feed: Iterator[Batch]) -> float:
    """Makes the steps of the epoch that are left and returns the seconds spent waiting for batches."""
    training, waiting_s = session.training, 0.0
    training.network.train()
    while state.step_in_epoch < state.timetable.iterations:
        started_s = time.perf_counter()
        batch = next(feed)
        waiting_s += time.perf_counter() - started_s
        data, target = to_device(batch.data, batch.target, training.device)
        result = training.step(
            data, target, number=state.step, progress=_progress(session, state, state.step)
        )
        state.step_in_epoch += 1
        if result.made:
            state.losses.append(result.loss)
            state.skipped_in_row = 0
        else:
            state.note_skipped()
            if state.skipped_in_row >= session.recipe.nonfinite_limit:
                raise _nonfinite(session, state, data, target)
        session.stopwatch.note("step", _spend(state, started_s))
        _tell(session, state)
        _leave_if_asked(session, state)
    return waiting_s


def _validate_epoch(session: _Session, state: TrainingState) -> PatchScores:
    training = session.training

    def batches() -> Iterator[Batch]:
        if training.validation is None:
            return
        for number in range(state.timetable.validation_iterations):
            started_s = time.perf_counter()
            yield training.validation.batch(number)
            session.stopwatch.note("validation", _spend(state, started_s))
            _tell(session, state, validated=number + 1)
            _leave_if_asked(session, state)

    return validate_patches(
        training.network,
        training.loss,
        batches(),
        device=training.device,
        precision=session.recipe.precision,
    )


def epoch_record(
    session: _Session, state: TrainingState, scores: PatchScores, waited_s: float
) -> dict[str, Any]:
    """Returns the line of metrics.jsonl for the epoch at hand, NaN as None; the caller adds what it decides.

    Fields: epoch (from 1), step, learning_rate (of its last step), train_loss, validation_loss, pseudo_dice
    (mean over the foreground classes), pseudo_dice_per_label, ema_pseudo_dice, best, seconds, data_seconds
    (waiting for batches), elapsed_seconds (over all sessions), skipped_steps, peak_memory_bytes.
    """
    train_loss = sum(state.losses) / len(state.losses) if state.losses else math.nan
    dice = scores.dice or (math.nan,) * len(session.labels)
    return {
        "epoch": state.epoch + 1,
        "step": state.step,
        "learning_rate": session.training.schedule(_progress(session, state, state.step - 1)),
        "train_loss": _finite(train_loss),
        "validation_loss": _finite(scores.loss),
        "pseudo_dice": _finite(scores.mean_dice),
        "pseudo_dice_per_label": {
            name: _finite(value) for name, value in zip(session.labels, dice, strict=True)
        },
        "seconds": round(state.epoch_s, 3),
        "data_seconds": round(waited_s, 3),
        "elapsed_seconds": round(state.elapsed_s, 3),
        "skipped_steps": state.skipped_in_epoch,
        "peak_memory_bytes": peak_memory_bytes(session.training.device.type),
    }


def _save_epoch(session: _Session, state: TrainingState, record: dict[str, Any]) -> None:
    """Writes what a finished epoch leaves, the checkpoint last: before it, nothing of the epoch counts."""
    started_s = time.perf_counter()
    weights = weights_of(session.training.network)
    if (name := first_nonfinite_name(weights)) is not None:
        raise TrainingError(
            f"After epoch {state.epoch} the weight {name} is not finite. Nothing of this epoch was saved.",
            code="E-TRAIN-NONFINITE",
            hint="Begin again with a lower learning rate.",
        )
    if record["best"]:
        save_tensors(session.folder / WEIGHTS["best"], weights, {"epoch": state.epoch})
    patience = session.recipe.early_stop
    if patience is not None and state.epoch - (state.best_epoch or 0) >= patience:
        state.stopped = "early_stop"
    if session.recipe.minutes is not None and (pace := session.stopwatch.pace()) is not None:
        epoch_s = pace.epoch_s(state.timetable.iterations, state.timetable.validation_iterations)
        left_s = 60 * session.recipe.minutes - state.elapsed_s
        state.timetable = state.timetable.adjusted(state.epoch, seconds_left=left_s, epoch_s=epoch_s)
    session.log.write(record)
    _save(session, state)
    session.stopwatch.note("save", time.perf_counter() - started_s)


def _finish(session: _Session, state: TrainingState, config: dict[str, Any]) -> TrainingResult:
    """Writes the final weights and the config that vouches for them, then drops the checkpoints."""
    weights, result = weights_of(session.training.network), _result(state)
    for kind, name in WEIGHTS.items():
        if kind == "final" or state.best_epoch is None:
            save_tensors(session.folder / name, weights, {"epoch": state.epoch})
    config["weights_sha256"] = sha256(session.folder / WEIGHTS["final"])
    config["best_weights_sha256"] = sha256(session.folder / WEIGHTS["best"])
    config["training"] = {**result.as_dict(), "timetable": asdict(state.timetable)}
    write_json(session.folder / "config.json", config)
    session.checkpoints.mark_finished(state, session.identity)
    return result


def _result(state: TrainingState) -> TrainingResult:
    return TrainingResult(
        best_epoch=state.best_epoch,
        pseudo_dice=state.best_ema,
        epochs=state.epoch,
        seconds=round(state.elapsed_s, 1),
        stopped=state.stopped,
        skipped_steps=state.skipped,
    )


def _save(session: _Session, state: TrainingState) -> None:
    training = session.training
    session.checkpoints.save(
        training.network, training.loss, training.optimizer, state, session.identity, session.environment
    )


def _leave_if_asked(session: _Session, state: TrainingState) -> None:
    if session.interrupts.requested is not None:
        _save(session, state)
        session.interrupts.leave()


def _nonfinite(session: _Session, state: TrainingState, data: Any, target: Any) -> TrainingError:
    training = session.training
    where = blame(training.network, training.loss, data, target, precision=session.recipe.precision)
    return TrainingError(
        f"{state.skipped_in_row} steps in a row, up to step {state.step}, were not finite; "
        f"NaN or infinity appears first in {where}.",
        code="E-TRAIN-NONFINITE",
        hint="Try a lower learning rate, or precision fp32. The last checkpoint is intact.",
    )


def _tell(session: _Session, state: TrainingState, *, validated: int = 0) -> None:
    times = state.timetable
    eta_s, pace = None, session.stopwatch.pace()
    if pace is not None:
        steps = times.epochs * times.iterations - state.step
        epochs = times.epochs - state.epoch
        validations = epochs * times.validation_iterations - validated
        eta_s = steps * pace.step_s + max(validations, 0) * pace.validation_s + epochs * pace.overhead_s
    values = {"loss": state.losses[-1]} if state.losses else {}
    if state.ema is not None:
        values["dice"] = state.ema
    total = times.epochs * times.iterations
    message = f"epoch {state.epoch + 1}/{times.epochs}{', validating' if validated else ''}"
    session.report(Progress("train", state.step, total, eta_s, message, values))


def _progress(session: _Session, state: TrainingState, step: int) -> float:
    return state.timetable.progress(step, per=session.recipe.schedule_per)


def _spend(state: TrainingState, started_s: float) -> float:
    seconds = time.perf_counter() - started_s
    state.epoch_s += seconds
    state.elapsed_s += seconds
    return seconds


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _erase(folder: Path, checkpoints: Checkpoints) -> None:
    checkpoints.wipe()
    for name in (*WEIGHTS.values(), "config.json", "recipe.toml", "plan.json", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
