"""Checkpoints: exact, whole or absent, whatever happens while they are written."""

import errno
import logging
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from scanseg.errors import ModelError, TrainingError
from scanseg.optim import OPTIMIZERS, create_optimizer, parameter_groups
from scanseg.training.checkpoint import Checkpoints, restore
from scanseg.training.state import TrainingState
from scanseg.training.timetable import Timetable


class LearningLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sigma = nn.Parameter(torch.ones(2))

    def forward(self, output):
        return output.square().mean() * self.sigma.square().sum()


class Parts:
    """Network, loss and optimiser; `step` moves them by a fixed rule."""

    def __init__(self, optimizer: str = "sgd") -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))
        self.loss = LearningLoss()
        groups = parameter_groups(self.network, self.loss, weight_decay=1e-5)
        self.optimizer = create_optimizer(optimizer, groups, learning_rate=0.01)
        self.state = TrainingState(timetable=Timetable(epochs=9, iterations=2, validation_iterations=1))

    def step(self, number: int) -> None:
        self.optimizer.zero_grad()
        data = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(number))
        self.loss(self.network(data)).backward()
        self.optimizer.step()
        self.state.step_in_epoch += 1

    def save(self, folder: Path) -> None:
        Checkpoints(folder).save(
            self.network, self.loss, self.optimizer, self.state, {"recipe": 1}, {"threads": 1}
        )

    def load(self, folder: Path) -> None:
        found = Checkpoints(folder).newest()
        assert found is not None
        self.state = restore(*found, network=self.network, loss=self.loss, optimizer=self.optimizer)

    def tensors(self) -> list[torch.Tensor]:
        return [*self.network.state_dict().values(), *self.loss.state_dict().values()]


def assert_equal(one: Parts, other: Parts) -> None:
    assert one.state == other.state
    assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_exactly(name, tmp_path):
    undisturbed, stopped, continued = Parts(name), Parts(name), Parts(name)
    for number in range(6):
        undisturbed.step(number)
    for number in range(3):
        stopped.step(number)
    stopped.save(tmp_path)
    continued.load(tmp_path)
    for number in range(3, 6):
        continued.step(number)
    assert_equal(continued, undisturbed)


def test_a_checkpoint_before_the_first_step(tmp_path):
    fresh, other = Parts(), Parts()
    fresh.save(tmp_path)
    other.step(1)
    other.load(tmp_path)
    assert_equal(fresh, other)


def test_two_are_kept(tmp_path):
    parts = Parts()
    assert Checkpoints(tmp_path).newest() is None
    for number in range(4):
        parts.step(number)
        parts.save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000000003.safetensors", "step-000000004.safetensors"]


def test_a_damaged_one_is_passed_over(tmp_path, caplog):
    parts, before = Parts(), Parts()
    for number in range(2):
        parts.step(number)
        parts.save(tmp_path)
    before.step(0)
    newest = tmp_path / "step-000000002.safetensors"
    whole, generator = newest.read_bytes(), random.Random(1)
    for place in generator.sample(range(len(whole)), 60):
        broken = bytearray(whole)
        broken[place] ^= 1 << generator.randrange(8)
        newest.write_bytes(broken)
        found = Parts()
        with caplog.at_level(logging.WARNING):
            found.load(tmp_path)
        if newest.exists():
            # A changed blank in the header, for example: the content is what it was.
            assert_equal(found, parts)
        else:
            assert_equal(found, before)
            assert "is damaged" in caplog.text


def test_all_damaged(tmp_path):
    parts = Parts()
    for number in range(2):
        parts.step(number)
        parts.save(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingError, match="All checkpoints"):
        Checkpoints(tmp_path).newest()
    assert len(list(tmp_path.iterdir())) == 2


def test_other_networks_and_versions_are_refused(tmp_path):
    parts = Parts()
    parts.save(tmp_path)
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    tensors, facts = found
    other = Parts()
    other.network[0] = nn.Conv2d(1, 3, 3)
    with pytest.raises(ModelError, match=r"0.weight: expected \[3, 1, 3, 3\]"):
        restore(tensors, facts, network=other.network, loss=other.loss, optimizer=other.optimizer)
    for change in ({"schema_version": 2}, {"state": {**facts["state"], "new": 1}}):
        with pytest.raises(TrainingError, match="another version"):
            restore(
                tensors, facts | change, network=parts.network, loss=parts.loss, optimizer=parts.optimizer
            )


def test_a_finished_run_is_remembered_without_tensors(tmp_path):
    parts, checkpoints = Parts(), Checkpoints(tmp_path)
    parts.save(tmp_path)
    assert checkpoints.finished() is None
    checkpoints.mark_finished(parts.state, {"recipe": 1})
    assert checkpoints.finished()["identity"] == {"recipe": 1}
    assert checkpoints.newest() is None


@pytest.mark.faults
def test_every_moment_of_a_write(tmp_path, file_steps):
    """Before every file operation of a save, the folder holds the old or the new state, never another."""
    parts = Parts()
    for number in range(2):
        parts.step(number)
        parts.save(tmp_path / "run")
    old = Parts()
    old.load(tmp_path / "run")
    parts.step(2)
    states = []

    def look(operation: str) -> None:
        copy = tmp_path / f"copy{len(states)}"
        shutil.copytree(tmp_path / "run", copy)
        found = Parts()
        found.load(copy)
        states.append((operation, found.state.step))
        assert_equal(found, parts if found.state.step == 3 else old)

    with file_steps(look):
        parts.save(tmp_path / "run")
    steps = [step for _, step in states]
    assert steps == sorted(steps)
    assert {2, 3} == set(steps)
    order = [operation for operation, _ in states]
    renamed = order.index("replace")
    assert "fsync" in order[:renamed]
    assert "fsync" in order[renamed:]
    assert steps[renamed] == 2
    assert steps[renamed + 1] == 3


class FullDisk:
    """Fails the file operation with this number; removing a file needs no space."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def __call__(self, operation: str) -> None:
        self.seen += 1
        if self.seen == self.number and operation != "unlink":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.faults
def test_a_full_disk_at_every_moment(tmp_path, file_steps):
    parts = Parts()
    parts.step(0)
    parts.save(tmp_path)
    old = Parts()
    old.load(tmp_path)
    parts.step(1)
    for number in range(1, 100):
        disk = FullDisk(number)
        try:
            with file_steps(disk):
                parts.save(tmp_path)
        except OSError:
            found = Parts()
            found.load(tmp_path)
            assert_equal(found, parts if found.state.step == 2 else old)
            assert not list(tmp_path.glob(".tmp*"))
        if disk.seen < number:
            break
    assert number > 5
