"""Puts together what a training step needs: network, loss, optimiser, schedule and batches."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scanseg.devices import usable_cores
from scanseg.nnunet.batches import Batches
from scanseg.optim import Schedule
from scanseg.training.abilities import require_abilities
from scanseg.training.recipe import Recipe
from scanseg.training.run import build_network, describe_network
from scanseg.training.step import StepResult, to_device, train_step
from scanseg.training.task import Task
from scanseg.training.timetable import Pace
from scanseg.training.validation import validate_patches

MEASURED_STEPS = 8


@dataclass(frozen=True)
class Training:
    """The parts of a training.

    Attributes:
        recipe: What was chosen.
        device: Where network and loss are.
        network: With deep supervision on, if it has it and the recipe wants it.
        loss: Takes the network's output.
        optimizer: Over the parameters of both.
        schedule: From progress to learning rate.
        train: Training batches.
        validation: Validation batches, the same ones in every epoch; None without validation cases.
    """

    recipe: Recipe
    device: torch.device
    network: nn.Module
    loss: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    train: Batches
    validation: Batches | None

    def step(
        self, data: Tensor, target: Tensor | list[Tensor], *, number: int, progress: float
    ) -> StepResult:
        """Makes the training step `number`, a pure function of weights, batch, number and progress."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(progress)
        torch.manual_seed(derived_seed(self.recipe.seed, "step", number))
        return train_step(
            self.network,
            self.loss,
            self.optimizer,
            data,
            target,
            precision=self.recipe.precision,
            clip_norm=self.recipe.clip_norm,
            sam=self.recipe.create_sam(),
            auxiliary=self.recipe.create_auxiliary(),
        )


def assemble(task: Task, device: torch.device) -> Training:
    """Returns a training before its first step. The weights are drawn from the recipe's seed.

    Changes the global random state; callers keep it with `borrowed_torch`.

    Raises:
        UsageError: The recipe does not fit the plan or the network.
    """
    task.check()
    plan, configuration, recipe = task.plan, task.configuration, task.recipe
    torch.manual_seed(derived_seed(recipe.seed, "weights", 0))
    network = build_network(describe_network(task)).to(device)
    require_abilities(recipe, network)
    loss = recipe.create_loss(batch_dice=configuration.batch_dice).to(device)
    scales = output_scales(network, (plan.in_channels, *configuration.patch_size), device)

    def batches(case_ids: tuple[str, ...], *, train: bool) -> Batches:
        return Batches(
            task.store_folder,
            case_ids,
            plan,
            configuration,
            seed=recipe.seed,
            train=train,
            deep_supervision_scales=scales,
            oversample_foreground=recipe.oversample_foreground,
            augment=recipe.augment,
            mirror=recipe.mirror,
        )

    return Training(
        recipe=recipe,
        device=device,
        network=network,
        loss=loss,
        optimizer=recipe.create_optimizer(network, loss),
        schedule=recipe.create_schedule(),
        train=batches(task.split.train, train=True),
        validation=batches(task.split.validation, train=False) if task.split.validation else None,
    )


@torch.no_grad()
def output_scales(
    network: nn.Module, shape: tuple[int, ...], device: torch.device
) -> list[list[float]] | None:
    """Returns the size of each output relative to the input, fine to coarse; None for a single output.

    Args:
        network: Called once with zeros.
        shape: (C, *spatial) of the input.
        device: Where the network is.
    """
    outputs = network.eval()(torch.zeros(1, *shape, device=device))
    if isinstance(outputs, Tensor):
        return None
    return [
        [size / full for size, full in zip(output.shape[2:], shape[1:], strict=True)] for output in outputs
    ]


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """Returns a seed for one use of randomness, unrelated to those of other purposes, numbers and seeds."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def borrowed_torch(threads: int | None) -> Iterator[int]:
    """Sets the number of torch threads and gives it back afterwards, with the global random state.

    Yields:
        The number of threads; all usable cores if None is asked for.
    """
    count = threads or usable_cores()
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield count
    finally:
        torch.set_num_threads(former)


def measure_pace(training: Training, *, seconds: float) -> Pace:
    """Returns the pace of a training on this machine, measured on copies of its parts that are thrown away.

    The first step is not counted, for kernels are compiled in it. At most eight steps are measured, or as
    many as fit in `seconds`, at least one.
    """
    network, loss = deepcopy(training.network), deepcopy(training.loss)
    trial = Training(
        recipe=training.recipe,
        device=training.device,
        network=network,
        loss=loss,
        optimizer=training.recipe.create_optimizer(network, loss),
        schedule=training.schedule,
        train=training.train,
        validation=training.validation,
    )
    started_s, durations = time.perf_counter(), []
    network.train()
    for number in range(MEASURED_STEPS + 1):
        step_s = time.perf_counter()
        batch = training.train.batch(number)
        trial.step(*to_device(batch.data, batch.target, training.device), number=number, progress=0.0)
        durations.append(time.perf_counter() - step_s)
        if number >= 1 and time.perf_counter() - started_s > seconds:
            break
    validation_s = 0.0
    if training.validation is not None:
        step_s = time.perf_counter()
        batches = [training.validation.batch(0)]
        validate_patches(network, loss, batches, device=training.device, precision=training.recipe.precision)
        validation_s = time.perf_counter() - step_s
    counted = sorted(durations[1:])
    return Pace(counted[len(counted) // 2], validation_s)
