"""Whole trainings, tiny but real: what they leave, and that only the recipe and the data decide it."""

import contextlib
import json
import logging
import math
import os
import random
import signal
import threading
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from scanseg.errors import TrainingError, UsageError
from scanseg.files import sha256
from scanseg.losses import LOSSES
from scanseg.losses.dice_ce import DiceCE
from scanseg.optim import OPTIMIZERS
from scanseg.training.assemble import assemble
from scanseg.training.checkpoint import Checkpoints
from scanseg.training.loop import train_network
from scanseg.training.recipe import Recipe
from scanseg.training.run import load_network
from scanseg.training.samples import Samples

TIMES = {"seconds", "data_seconds", "elapsed_seconds", "peak_memory_bytes"}


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def facts(run) -> list[dict]:
    """The metrics without what depends on the clock."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines(run)]


def outcome(run) -> tuple:
    return sha256(run / "model.safetensors"), sha256(run / "best.safetensors"), facts(run)


@pytest.fixture(scope="module")
def reference(prepared, tmp_path_factory):
    """An undisturbed run and its progress."""
    run, seen = tmp_path_factory.mktemp("reference") / "run", []
    result = train_network(**prepared.arguments(run_folder=run, report=seen.append))
    return run, result, seen


def test_what_a_run_leaves(reference, prepared):
    run, result, _ = reference
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    files = {"config.json", "recipe.toml", "plan.json", "model.safetensors", "best.safetensors"}
    assert names == files | {"metrics.jsonl", "checkpoint"}
    assert [path.name for path in (run / "checkpoint").iterdir()] == ["finished.json"]
    assert Recipe.load(run / "recipe.toml") == prepared.recipe
    assert (result.epochs, result.stopped, result.skipped_steps) == (3, "finished", 0)
    assert result.best_epoch in (1, 2, 3)
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["timetable"]["epochs"] == 3
    assert config["split"]["validation"] == list(prepared.split.validation)


def test_metrics(reference):
    run, result, _ = reference
    records = lines(run)
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    rates = [0.01 * (1 - epoch / 3) ** 0.9 for epoch in range(3)]
    assert [record["learning_rate"] for record in records] == pytest.approx(rates)
    for record in records:
        labels = record["pseudo_dice_per_label"]
        assert record["pseudo_dice"] == pytest.approx(sum(labels.values()) / len(labels))
        assert record["peak_memory_bytes"] > 0
        assert record["skipped_steps"] == 0
        assert math.isfinite(record["train_loss"] + record["validation_loss"])
    best = [record for record in records if record["best"]][-1]
    assert (best["epoch"], best["ema_pseudo_dice"]) == (result.best_epoch, result.pseudo_dice)


def test_progress(reference):
    _, _, seen = reference
    assert {progress.stage for progress in seen} == {"train"}
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].total) == (12, 12)
    assert [progress.eta_s for progress in seen[:1]] == [None]
    assert all(progress.eta_s >= 0 for progress in seen[1:])
    assert "loss" in seen[-1].values


def test_training_learns(prepared, tmp_path):
    train_network(
        **prepared.arguments(
            run_folder=tmp_path, epochs=1, iterations_per_epoch=25, validation_iterations=0, augment=False
        )
    )
    first = train_network(**prepared.arguments(run_folder=tmp_path / "one", epochs=1, iterations_per_epoch=1))
    assert first.epochs == 1
    assert lines(tmp_path)[0]["train_loss"] < lines(tmp_path / "one")[0]["train_loss"]


def test_the_same_seed_gives_the_same_bits(reference, prepared, tmp_path):
    run, _, _ = reference
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (must not matter)
    train_network(**prepared.arguments(run_folder=tmp_path / "again"))
    torch.random.set_rng_state(state)
    assert outcome(tmp_path / "again") == outcome(run)
    train_network(**prepared.arguments(run_folder=tmp_path / "other", seed=1, epochs=1))
    assert facts(tmp_path / "other")[0] != facts(run)[0]


def test_samples_are_of_the_same_patches_and_change_nothing(reference, prepared, tmp_path):
    shown = []

    def show(epoch, samples):
        assert not (tmp_path / "metrics.jsonl").is_file() or len(lines(tmp_path)) == epoch - 1
        shown.append((epoch, samples))

    train_network(**prepared.arguments(run_folder=tmp_path, show=show))
    assert outcome(tmp_path) == outcome(reference[0])
    assert [epoch for epoch, _ in shown] == [1, 2, 3]
    first, *later = ([sample.truth.tolist() for sample in samples] for _, samples in shown)
    assert len(first) == 4
    assert later == [first, first]
    # The last ones are what the finished network says.
    network, _, _ = load_network(tmp_path)
    batches = assemble(prepared.task(), torch.device("cpu")).validation
    kept = Samples()
    with torch.no_grad():
        for number in range(prepared.recipe.validation_iterations):
            batch = batches.batch(number)
            kept.take(batch, network(batch.data))
    for ours, theirs in zip(shown[-1][1], kept.kept(), strict=True):
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.prediction, theirs.prediction)


def test_a_run_that_is_stopped_shows_each_epoch_alike(prepared, tmp_path):
    def train(run, report=None):
        shown = []
        more = {} if report is None else {"report": report}
        with contextlib.suppress(SystemExit):
            train_network(
                **prepared.arguments(run_folder=run, show=lambda *one: shown.append(one), epochs=2, **more)
            )
        return shown

    whole = train(tmp_path / "whole")
    parts = train(tmp_path / "parts", stop_at(6, signal.SIGTERM)) + train(tmp_path / "parts")
    assert [epoch for epoch, _ in parts] == [1, 2]
    for (_, ours), (_, theirs) in zip(parts, whole, strict=True):
        assert [one.prediction.tolist() for one in ours] == [one.prediction.tolist() for one in theirs]


def test_two_threads_are_repeatable(prepared, tmp_path):
    for name in ("one", "two"):
        options = {
            "network": "umamba_bot",
            "epochs": 1,
            "iterations_per_epoch": 2,
            "validation_iterations": 1,
        }
        train_network(**{**prepared.arguments(run_folder=tmp_path / name, **options), "threads": 2})
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


@pytest.mark.slow
def test_workers_change_nothing(reference, prepared, tmp_path):
    helpers = []
    arguments = prepared.arguments(run_folder=tmp_path, workers=2)
    train_network(**arguments, report=lambda progress: helpers.append(len(active_children())))
    assert helpers[0] == 2
    assert active_children() == []
    assert outcome(tmp_path) == outcome(reference[0])


def test_nothing_global_changes(prepared, tmp_path):
    def state():
        numbers = np.random.get_state()  # noqa: NPY002 (the global state is what is looked at)
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        rng = torch.random.get_rng_state().tolist()
        return random.getstate(), numbers[1].tolist(), rng, torch.get_num_threads(), handlers

    former = torch.get_num_threads()
    torch.set_num_threads(2)
    before = state()
    train_network(**prepared.arguments(run_folder=tmp_path, epochs=1))
    assert state() == before
    torch.set_num_threads(former)


def test_a_finished_run_is_not_trained_again(reference, prepared):
    run, result, _ = reference
    before = outcome(run)
    seen = []
    assert train_network(**prepared.arguments(run_folder=run, report=seen.append)) == result
    assert seen == []
    assert outcome(run) == before


def stop_at(step: int, number: signal.Signals, *, validating: bool = False):
    """Returns a report that sends a signal to this process once, when a step is reached."""
    sent = []

    def report(progress) -> None:
        ready = progress.done >= step and (not validating or "validating" in progress.message)
        if ready and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    return report


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize(("step", "validating"), [(1, False), (6, False), (4, True)])
def test_a_signal_saves_and_the_same_call_goes_on(
    reference, prepared, tmp_path, number, raised, step, validating
):
    report = stop_at(step, number, validating=validating)
    with pytest.raises(raised) as caught:
        train_network(**prepared.arguments(run_folder=tmp_path, report=report))
    if raised is SystemExit:
        assert caught.value.code == 143
    names = [path.name for path in (tmp_path / "checkpoint").iterdir()]
    assert f"step-{step:09d}.safetensors" in names
    seen = []
    result = train_network(**prepared.arguments(run_folder=tmp_path, report=seen.append))
    assert seen[0].done == (step if validating else step + 1)
    assert result.epochs == 3
    assert outcome(tmp_path) == outcome(reference[0])


def test_stopped_after_every_step(reference, prepared, tmp_path):
    for step in range(1, 12):
        with pytest.raises(SystemExit):
            train_network(**prepared.arguments(run_folder=tmp_path, report=stop_at(step, signal.SIGTERM)))
    train_network(**prepared.arguments(run_folder=tmp_path))
    assert outcome(tmp_path) == outcome(reference[0])


def interrupted(prepared, run, step: int = 6, **changes) -> None:
    with pytest.raises(SystemExit):
        train_network(**prepared.arguments(run_folder=run, report=stop_at(step, signal.SIGTERM), **changes))


def test_changed_settings_are_refused_and_named(prepared, tmp_path):
    interrupted(prepared, tmp_path, fold=0)
    with pytest.raises(UsageError, match="begun with other settings") as caught:
        train_network(**prepared.arguments(run_folder=tmp_path, learning_rate=0.02, epochs=4))
    assert "recipe.learning_rate: 0.01 -> 0.02" in str(caught.value)
    assert "recipe.epochs: 3 -> 4" in str(caught.value)
    fewer = type(prepared.split)(prepared.split.train[1:], prepared.split.validation)
    with pytest.raises(UsageError, match=r"split.train: \[.* -> "):
        train_network(**{**prepared.arguments(run_folder=tmp_path), "split": fewer})
    train_network(**prepared.arguments(run_folder=tmp_path))
    with pytest.raises(UsageError, match=r"recipe.seed: 0 -> 5"):
        train_network(**prepared.arguments(run_folder=tmp_path, seed=5))


def test_changed_data_are_refused(prepared, tmp_path):
    import shutil

    interrupted(prepared, tmp_path / "run")
    store = shutil.copytree(prepared.store, tmp_path / "store")
    arguments = {**prepared.arguments(run_folder=tmp_path / "run"), "store_folder": store}
    marker = store / f"{prepared.split.train[0]}.json"
    marker.write_text(marker.read_text().replace('"key": "', '"key": "0'))
    with pytest.raises(UsageError, match=r"data.sha256: .* -> "):
        train_network(**arguments)


def test_restart(reference, prepared, tmp_path):
    interrupted(prepared, tmp_path, learning_rate=0.5)
    train_network(**prepared.arguments(run_folder=tmp_path, restart=True))
    assert outcome(tmp_path) == outcome(reference[0])
    train_network(**prepared.arguments(run_folder=tmp_path, restart=True, epochs=1))
    assert len(lines(tmp_path)) == 1


def test_other_threads_go_on_with_a_warning(prepared, tmp_path, caplog):
    interrupted(prepared, tmp_path, step=11)
    with caplog.at_level(logging.WARNING):
        train_network(**{**prepared.arguments(run_folder=tmp_path), "threads": 2})
    assert "not be bit-identical" in caplog.text
    assert "threads: 1 -> 2" in caplog.text


def test_a_damaged_checkpoint_costs_only_time(reference, prepared, tmp_path, caplog):
    interrupted(prepared, tmp_path, step=6)
    newest = sorted((tmp_path / "checkpoint").glob("step-*"))[-1]
    content = bytearray(newest.read_bytes())
    content[-10] ^= 1
    newest.write_bytes(content)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "half a li')
    seen = []
    with caplog.at_level(logging.WARNING):
        train_network(**prepared.arguments(run_folder=tmp_path, report=seen.append))
    assert seen[0].done == 5
    assert "is damaged" in caplog.text
    assert outcome(tmp_path) == outcome(reference[0])


def test_two_processes_cannot_train_one_run(prepared, tmp_path):
    met = []

    def second(progress) -> None:
        if not met:
            with pytest.raises(TrainingError, match=rf"trained by process {os.getpid()} on ") as caught:
                train_network(**prepared.arguments(run_folder=tmp_path))
            met.append(caught.value.code)

    train_network(**prepared.arguments(run_folder=tmp_path, epochs=1, report=second))
    assert met == ["E-TRAIN-LOCKED"]


def test_training_in_a_thread(reference, prepared, tmp_path):
    errors = []

    def work() -> None:
        try:
            train_network(**prepared.arguments(run_folder=tmp_path))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert outcome(tmp_path) == outcome(reference[0])


class Faulty(DiceCE):
    """Dice and cross-entropy that go wrong in the training steps listed in `steps`; counts from 0."""

    def __init__(self, *, steps: list[int], where: str = "loss", **facts) -> None:
        super().__init__(**facts)
        self.steps, self.where, self.count = steps, where, -1

    def forward(self, logits, target):
        loss = super().forward(logits, target)
        if not torch.is_grad_enabled():
            return loss
        self.count += 1
        # Two levels of deep supervision, the coarser without weight: one call per step.
        if self.count in self.steps:
            if self.where == "loss":
                return loss * math.nan
            logits.register_hook(lambda gradient: gradient * math.inf)
        return loss


class Poison(torch.optim.SGD):
    """Puts NaN into a weight at the third step."""

    def step(self, closure=None):
        super().step(closure)
        self.made = getattr(self, "made", 0) + 1
        if self.made == 3:
            with torch.no_grad():
                self.param_groups[0]["params"][2].view(-1)[0] = math.nan


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setitem(LOSSES._entries, "faulty", Faulty)

    def poison(groups, *, learning_rate: float, weight_decay: float):
        return Poison(groups, learning_rate)

    monkeypatch.setitem(OPTIMIZERS._entries, "poison", poison)


@pytest.mark.faults
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_single_bad_steps_are_skipped_and_counted(prepared, tmp_path, faulty, where):
    options = {"steps": [1, 2, 5], "where": where}
    result = train_network(**prepared.arguments(run_folder=tmp_path, loss="faulty", loss_options=options))
    assert result.skipped_steps == 3
    assert [line["skipped_steps"] for line in lines(tmp_path)] == [2, 1, 0]
    assert all(math.isfinite(line["train_loss"]) for line in lines(tmp_path))
    load_network(tmp_path)


@pytest.mark.faults
def test_too_many_bad_steps_end_with_an_error(prepared, tmp_path, faulty):
    options = {"steps": list(range(5, 1000))}
    arguments = prepared.arguments(
        run_folder=tmp_path, loss="faulty", loss_options=options, nonfinite_limit=4
    )
    with pytest.raises(
        TrainingError, match=r"4 steps in a row, up to step 9, .* first in the loss"
    ) as caught:
        train_network(**arguments)
    assert caught.value.code == "E-TRAIN-NONFINITE"
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2]
    assert not (tmp_path / "model.safetensors").exists()
    network, _, _ = load_network(tmp_path, weights="best")
    assert all(bool(torch.isfinite(value).all()) for value in network.parameters())


@pytest.mark.faults
def test_bad_weights_are_never_saved(prepared, tmp_path, faulty):
    arguments = prepared.arguments(run_folder=tmp_path, optimizer="poison", iterations_per_epoch=3)
    with pytest.raises(TrainingError, match=r"After epoch 1 the weight .* is not finite"):
        train_network(**arguments)
    assert not list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("checkpoint/*"))
    with pytest.raises(TrainingError, match=r"first in the weight .* of the network"):
        train_network(**prepared.arguments(run_folder=tmp_path, optimizer="poison", iterations_per_epoch=99))


def test_early_stop(prepared, tmp_path):
    result = train_network(
        **prepared.arguments(
            run_folder=tmp_path, epochs=50, early_stop=2, learning_rate=1e-12, iterations_per_epoch=1
        )
    )
    assert result.stopped == "early_stop"
    assert result.epochs == result.best_epoch + 2 < 10
    assert (
        train_network(
            **prepared.arguments(
                run_folder=tmp_path, epochs=50, early_stop=2, learning_rate=1e-12, iterations_per_epoch=1
            )
        )
        == result
    )


def test_no_validation_cases(prepared, tmp_path):
    split = type(prepared.split)(prepared.split.train, ())
    arguments = prepared.arguments(run_folder=tmp_path, epochs=1)
    result = train_network(**{**arguments, "split": split})
    assert (result.best_epoch, result.pseudo_dice) == (None, None)
    assert lines(tmp_path)[0]["pseudo_dice"] is None
    assert sha256(tmp_path / "best.safetensors") == sha256(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="early_stop needs validation cases"):
        train_network(**{**prepared.arguments(run_folder=tmp_path / "b", early_stop=1), "split": split})


def test_minutes(prepared, tmp_path):
    arguments = prepared.arguments(run_folder=tmp_path, minutes=0.05, epochs=7)
    with pytest.raises(SystemExit):
        train_network(**{**arguments, "report": stop_at(1, signal.SIGTERM)})
    planned = Checkpoints(tmp_path / "checkpoint").newest()[1]["state"]["timetable"]
    result = train_network(**arguments)
    times = json.loads((tmp_path / "config.json").read_text())["training"]["timetable"]
    for name in ("iterations", "validation_iterations"):
        assert times[name] == planned[name]
    assert 1 <= times["iterations"] <= 4
    assert result.epochs == times["epochs"] == len(lines(tmp_path))
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates == sorted(rates, reverse=True)


def test_bf16(prepared, tmp_path):
    train_network(**prepared.arguments(run_folder=tmp_path, precision="bf16", epochs=1))
    network, _, _ = load_network(tmp_path)
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_two_dimensions(prepared_2d, tmp_path):
    train_network(**prepared_2d.arguments(run_folder=tmp_path, epochs=1))
    network, config, _ = load_network(tmp_path)
    assert config["network"]["spatial_dims"] == 2
    assert network(torch.zeros(1, 1, 24, 24)).shape == (1, 3, 24, 24)


def test_the_recipe_must_fit_the_plan(prepared, tmp_path):
    with pytest.raises(UsageError, match=r"batch_size is 3, but the plan was made with 2"):
        train_network(**prepared.arguments(run_folder=tmp_path, batch_size=3))
    with pytest.raises(UsageError, match=r"patch_size is \(8, 8, 8\), but the plan"):
        train_network(**prepared.arguments(run_folder=tmp_path, patch_size=(8, 8, 8)))
    with pytest.raises(UsageError, match=r"\(8, 8\) has 2 axes, .* 3d_fullres has 3.*--config"):
        train_network(**prepared.arguments(run_folder=tmp_path, patch_size=(8, 8)))
    train_network(**prepared.arguments(run_folder=tmp_path, batch_size=2, patch_size=(16, 16, 16), epochs=1))


def test_a_run_folder_that_cannot_be_written(prepared, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        train_network(**prepared.arguments(run_folder=tmp_path / "file" / "run"))


@pytest.mark.parametrize("network", ["nnunet_plain", "umamba_bot", "umamba_enc"])
def test_every_parameter_moves(prepared, network):
    recipe = prepared.recipe.changed(network=network, network_options={"base_features": 4})
    with torch.random.fork_rng():
        training = assemble(prepared.task(recipe), torch.device("cpu"))
        parameters = dict(training.network.named_parameters())
        grouped = [value for group in training.optimizer.param_groups for value in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, parameters.values()))
        before = {name: value.detach().clone() for name, value in parameters.items()}
        batch = training.train.batch(0)
        training.network.train()
        training.step(batch.data, batch.target, number=0, progress=0.0)
    still = {name for name, value in parameters.items() if torch.equal(before[name], value)}
    # The coarsest output of deep supervision has the weight 0, so its layer learns nothing.
    assert still == {name for name, value in parameters.items() if value.grad is None}
    (head,) = {name.rpartition(".")[0] for name in still}
    assert training.network.get_submodule(head).out_channels == prepared.plan.out_channels


def test_tensorboard(prepared, tmp_path):
    train_network(**prepared.arguments(run_folder=tmp_path, epochs=1, tensorboard=True))
    assert list((tmp_path / "tensorboard").glob("events.*"))
