"""Whole networks against each other: a training step, a forward pass, memory, parameters, operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.benchmarking.child import run_in_child
from scanseg.benchmarking.contest import Settings
from scanseg.benchmarking.document import CaseResult, Result, add_ratios
from scanseg.benchmarking.measure import Runner, interleave, using_threads
from scanseg.benchmarking.memory import peak_extra_bytes
from scanseg.benchmarking.peers import no_kernel
from scanseg.errors import TrainingError
from scanseg.kernels.backends import warm_up
from scanseg.losses import create_loss
from scanseg.networks import NETWORKS, create_network, describe_network
from scanseg.optim import create_optimizer, parameter_groups
from scanseg.progress import Eta, Progress, Report
from scanseg.training.step import train_step

FORWARD, STEP = "forward", "training step"
_CHILD_S = 600
_STEPS_BEFORE = 3
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class NetworkCase:
    """What the networks are built for and fed with.

    Attributes:
        patch_size: (z, y, x) or (y, x).
        batch_size: Patches of a training step and of a forward pass.
        in_channels: Of the image.
        out_channels: Classes, background included.
        base_features: Channels of the first stage; None leaves each network its own.
        same: `blocks` or `convolutions`: the others get as many per stage as the first network has, where
            they can. Empty: each keeps its own. A block is what each calls one.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    in_channels: int = 1
    out_channels: int = 2
    base_features: int | None = None
    same: str = ""

    def arguments(self) -> dict[str, Any]:
        """Returns the common arguments of `create_network`."""
        common = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        return {"spatial_dims": len(self.patch_size), "patch_size": self.patch_size, **common}


def run_networks(
    names: Sequence[str],
    case: NetworkCase,
    settings: Settings,
    *,
    baseline: str,
    finished: Callable[[CaseResult], None],
    report: Report,
) -> None:
    """Times networks in turns: a training step (with deep supervision where there is any), a forward pass.

    A training step is `scanseg.training.step.train_step` with Dice, cross-entropy and SGD on random data; a
    forward pass is that of a prediction, without gradients and with one output.

    Args:
        names: Registered networks.
        case: Sizes.
        settings: `case_s` is the time for all of them together.
        baseline: The network that the others are divided by.
        finished: Called with the result.
        report: Told about each network.

    Raises:
        UsageError: A network is unknown or does not fit the sizes.
        TrainingError: A training step is not finite.
    """
    options = {name: _options(name, names[0], case) for name in names}
    results = {name: _described(name, case, options[name], settings) for name in names}
    eta = Eta(len(names) + 1)
    report(Progress("bench", 0, len(names) + 1))
    for done, name in enumerate(names, start=1):
        results[name].peak_extra_bytes, results[name].skipped = _memory(name, case, options[name], settings)
        report(Progress("bench", done, len(names) + 1, eta(done), f"{name}: memory"))
    trials = {
        name: Trial.make(name, case, options[name], settings.seed)
        for name in names
        if not results[name].skipped
    }
    # The memory that a process keeps still grows in its first steps.
    with using_threads(settings.threads):
        for trial in [*trials.values()] * _STEPS_BEFORE:
            trial.step()
    runners: dict[str, Runner] = {}
    for name, trial in trials.items():
        runners[f"{name}|{FORWARD}"] = Runner(trial.forward, settings.threads)
        runners[f"{name}|{STEP}"] = Runner(trial.step, settings.threads)
    for key, timing in interleave(runners, budget_s=settings.case_s, seed=settings.seed).items():
        name, _, label = key.partition("|")
        results[name].timings[label] = timing
    add_ratios(list(results.values()), results[baseline])
    facts = asdict(case) | {"patch_size": list(case.patch_size), "options": options}
    patch = "x".join(map(str, case.patch_size))
    finished(
        CaseResult(
            name=f"patch {patch}, batch {case.batch_size}",
            sizes=facts,
            baseline=baseline,
            results=list(results.values()),
        )
    )
    report(Progress("bench", len(names) + 1, len(names) + 1, 0.0, "timed"))


@dataclass(frozen=True)
class Trial:
    """A network with all that one training step needs."""

    network: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    data: Tensor
    target: Tensor | list[Tensor]

    @classmethod
    def make(cls, name: str, case: NetworkCase, options: dict[str, Any], seed: int) -> Trial:
        """Returns a fresh network and random data, a pure function of the arguments."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = create_network(name, **case.arguments(), deep_supervision=True, **options)
            data = torch.randn(case.batch_size, case.in_channels, *case.patch_size)
            with torch.no_grad():
                outputs = network.eval()(data[:1])
            several = not isinstance(outputs, Tensor)
            labels = [
                torch.randint(case.out_channels, (case.batch_size, 1, *output.shape[2:]))
                for output in (outputs if several else [outputs])
            ]
        loss = create_loss("dice_ce")
        groups = parameter_groups(network, loss, weight_decay=3e-5)
        # So small a rate keeps many steps on the same random labels finite.
        optimizer = create_optimizer("sgd", groups, learning_rate=1e-4)
        return cls(network, loss, optimizer, data, labels if several else labels[0])

    def step(self) -> None:
        """Makes one training step.

        Raises:
            TrainingError: Loss or gradients are not finite.
        """
        _set_deep_supervision(self.network.train(), on=True)
        made = train_step(self.network, self.loss, self.optimizer, self.data, self.target).made
        if not made:
            raise TrainingError(
                "A training step of the benchmark was not finite.",
                code="E-BENCH-LOSS",
                hint="Try another --seed, and report it if it happens again.",
            )

    def forward(self) -> None:
        """Makes one forward pass as a prediction does."""
        _set_deep_supervision(self.network.eval(), on=False)
        with torch.inference_mode():
            self.network(self.data)


def probe(
    *, name: str, case: dict[str, Any], options: dict[str, Any], threads: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yields `{peak_bytes}` of the first training step, weights not counted; runs in a child process."""
    if not no_kernel():
        warm_up()
    with using_threads(threads):
        fields = case | {"patch_size": tuple(case["patch_size"])}
        trial = Trial.make(name, NetworkCase(**fields), options, seed)
        yield {"peak_bytes": peak_extra_bytes(trial.step)}


def _set_deep_supervision(network: nn.Module, *, on: bool) -> None:
    if hasattr(network, "deep_supervision"):
        network.deep_supervision = on  # type: ignore[assignment]


def _options(name: str, first: str, case: NetworkCase) -> dict[str, Any]:
    options: dict[str, Any] = {} if case.base_features is None else {"base_features": case.base_features}
    if not case.same or name == first:
        return options
    if case.same == "convolutions":
        return options | _blocks_for(name, case, options, _convolutions(first, case, options))
    rows = describe_network(first, **case.arguments(), **options)["stages"]
    for half in _halves(name):
        options[f"n_blocks_{half}"] = [row["blocks"] for row in rows if row["name"].startswith(half)]
    return options


def _halves(name: str) -> list[str]:
    return [half for half in ("encoder", "decoder") if f"n_blocks_{half}" in NETWORKS[name].options]


def _convolutions(name: str, case: NetworkCase, options: dict[str, Any]) -> dict[str, list[int]]:
    """Returns how many convolutions wider than 1 each stage of encoder (with the stem) and decoder has."""
    with torch.device("meta"):
        network = create_network(name, **case.arguments(), **options)
    counts: dict[str, list[int]] = {"stem": [], "encoder": [], "decoder": []}
    for row in network.stage_table:  # type: ignore[union-attr]
        parts = [network.get_submodule(module) for module in row.modules]
        layers = [layer for part in parts for layer in part.modules()]
        wide = [layer for layer in layers if isinstance(layer, _CONVOLUTIONS) and max(layer.kernel_size) > 1]
        counts[row.name.split()[0]].append(len(wide))
    counts["encoder"][0] += sum(counts.pop("stem"))
    return counts


def _blocks_for(
    name: str, case: NetworkCase, options: dict[str, Any], wanted: dict[str, list[int]]
) -> dict[str, list[int]]:
    """Returns the options with which each stage has as many convolutions as wanted, or one fewer."""
    halves = _halves(name)
    one, two = (
        _convolutions(name, case, options | {f"n_blocks_{half}": blocks for half in halves})
        for blocks in (1, 2)
    )
    return {
        f"n_blocks_{half}": [
            max(1, 1 + (want - least) // (more - least))
            for want, least, more in zip(wanted[half], one[half], two[half], strict=True)
        ]
        for half in halves
    }


def _described(name: str, case: NetworkCase, options: dict[str, Any], settings: Settings) -> Result:
    facts = describe_network(name, **case.arguments(), **options)
    return Result(
        contender=name,
        summary=NETWORKS[name].summary,
        threads=settings.threads,
        facts={"parameters": facts["parameters"], "macs": case.batch_size * facts["macs"]["total"]},
    )


def _memory(
    name: str, case: NetworkCase, options: dict[str, Any], settings: Settings
) -> tuple[int | None, str]:
    """Returns the peak of a training step, and why there is none."""
    request = {
        "name": name,
        "case": asdict(case),
        "options": options,
        "threads": settings.threads,
        "seed": settings.seed,
    }
    answers = list(run_in_child("network", request, timeout_s=_CHILD_S))
    if "failed" in answers[-1]:
        return None, f"fails in a process of its own: {answers[-1]['failed']}"
    return answers[0]["peak_bytes"], ""
