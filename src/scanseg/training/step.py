"""One training step, and who is to blame when it is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from scanseg.kernels.convolution import FastConvolutions
from scanseg.optim import SAM
from scanseg.training.auxiliary import Auxiliary, Logits, forward_with_aux
from scanseg.training.weights import first_nonfinite_name

Target = Tensor | list[Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Attributes:
        loss: Of the logits, at the weights before the step.
        gradient_norm: Norm of the gradient that was followed.
        made: False if the step was skipped because a loss or a gradient was not finite.
        auxiliary: The auxiliary loss there, without its factor; None without one.
    """

    loss: float
    gradient_norm: float
    made: bool
    auxiliary: float | None = None


@dataclass(frozen=True)
class _Pass:
    """A forward pass and what it came to.

    Attributes:
        logits: Of the network.
        loss: Of the logits.
        auxiliary: The auxiliary loss; None without one.
        total: What is descended.
    """

    logits: Logits
    loss: Tensor
    auxiliary: Tensor | None
    total: Tensor

    def result(self, total: float) -> StepResult:
        """Returns the result of a step that is not made yet; a `total` that is not finite is its loss."""
        if self.auxiliary is None:
            return StepResult(total, math.nan, made=False)
        loss = self.loss.item() if math.isfinite(total) else total
        return StepResult(loss, math.nan, made=False, auxiliary=self.auxiliary.item())


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Returns the context for a forward pass: bf16 where it is safe and asked for, else fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def to_device(data: Tensor, target: Target, device: torch.device) -> tuple[Tensor, Target]:
    """Returns data and target on the device."""
    if isinstance(target, Tensor):
        return data.to(device, non_blocking=True), target.to(device, non_blocking=True)
    return data.to(device, non_blocking=True), [level.to(device, non_blocking=True) for level in target]


def train_step(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: Optimizer,
    data: Tensor,
    target: Target,
    *,
    precision: str = "fp32",
    clip_norm: float = 12.0,
    sam: SAM | None = None,
    auxiliary: Auxiliary | None = None,
) -> StepResult:
    """Makes one step of gradient descent, or none if a loss or a gradient is not finite.

    A step that is not made leaves weights, what the loss learns and the optimiser's state as they were.

    Args:
        network: Returns logits, or a list of them from fine to coarse. If it is a `DistributedDataParallel`,
            every process makes the step, or none.
        loss_function: Takes what the network returns, and `target`.
        optimizer: Over the parameters of both, its learning rate set.
        data: (B, C, *spatial), on the network's device.
        target: Class indices (B, 1, *spatial), or a list of them.
        precision: `fp32` or `bf16`.
        clip_norm: The network's gradient is scaled down to this norm; 0 does not clip. Parameters of the loss
            are not part of it, nor is the first pass of SAM.
        sam: Take the gradient where SAM climbs to; None takes it at the weights.
        auxiliary: Added to the loss, in both passes of SAM; the network needs `forward_with_aux` then.

    Source:
        nnU-Net 2.8.1, nnUNetTrainer.train_step; the checks for finite values are ours.
    """

    def backward() -> StepResult:
        """Returns what a pass came to, and leaves its gradients if its losses are finite."""
        optimizer.zero_grad(set_to_none=True)
        found = _forward(network, loss_function, data, target, precision, auxiliary)
        total = _agreed(network, found.total.item())
        if math.isfinite(total):
            found.total.backward()  # type: ignore[no-untyped-call]
        return found.result(total)

    place: AbstractContextManager[None] = nullcontext()
    result: StepResult | None = None
    if sam is not None:
        with _first_pass(network, data.device):
            result = backward()
        norm = _agreed(network, sam.norm(network))
        if not (math.isfinite(result.loss) and math.isfinite(norm)):
            return replace(result, gradient_norm=norm)
        place = sam.climbed(network, norm)
    with place:
        followed = backward()
    if not math.isfinite(followed.loss):
        return followed
    _average_gradients(network, loss_function)
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf).item()
    learned = [p.grad for p in loss_function.parameters() if p.grad is not None]
    made = math.isfinite(norm) and all(bool(torch.isfinite(gradient).all()) for gradient in learned)
    if made:
        optimizer.step()
    return replace(result or followed, gradient_norm=norm, made=made)


def _forward(
    network: nn.Module,
    loss_function: nn.Module,
    data: Tensor,
    target: Target,
    precision: str,
    auxiliary: Auxiliary | None,
) -> _Pass:
    with mixed_precision(data.device, precision), FastConvolutions():
        logits, aux = (network(data), {}) if auxiliary is None else forward_with_aux(network, data)
    loss = loss_function(logits, target)
    if auxiliary is None:
        return _Pass(logits, loss, None, loss)
    term = auxiliary.loss(aux)
    return _Pass(logits, loss, term, loss + auxiliary.weight * term)


@contextmanager
def _first_pass(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Context for the first pass: the second draws the same random numbers, and only it shares gradients."""
    alone = network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), alone:
        yield


def _agreed(network: nn.Module, value: float) -> float:
    """Returns `value`; NaN if it, or that of another process that trains the network, is not finite.

    A process that left a step alone would leave the others waiting for its gradients.
    """
    if not isinstance(network, DistributedDataParallel):
        return value
    is_finite = torch.tensor(float(math.isfinite(value)), device=next(network.parameters()).device)
    torch.distributed.all_reduce(is_finite, torch.distributed.ReduceOp.MIN, group=network.process_group)
    return value if is_finite.item() else math.nan


def _average_gradients(network: nn.Module, loss_function: nn.Module) -> None:
    """Does for what the loss learns what `DistributedDataParallel` does for the network."""
    if not isinstance(network, DistributedDataParallel):
        return
    for parameter in loss_function.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad, group=network.process_group)
            parameter.grad /= torch.distributed.get_world_size(network.process_group)


def blame(
    network: nn.Module,
    loss_function: nn.Module,
    data: Tensor,
    target: Target,
    *,
    precision: str,
    sam: SAM | None = None,
    auxiliary: Auxiliary | None = None,
) -> str:
    """Returns in words where NaN or infinity appears first: input, weights, a layer, a loss or a gradient.

    Runs the step again with hooks, with SAM both passes; weights stay as they are, gradients are cleared.
    """
    if not bool(torch.isfinite(data).all()):
        return "the images of the batch"
    for owner, module in (("network", network), ("loss", loss_function)):
        if (name := first_nonfinite_name(dict(module.named_parameters()))) is not None:
            return f"the weight {name} of the {owner}"
    judged = (network, loss_function, data, target, precision, auxiliary)
    try:
        where = _first_nonfinite(*judged)
        if where is None and sam is not None:
            with sam.climbed(network, sam.norm(network)):
                where = _first_nonfinite(*judged)
            where = where and f"{where}, at the weights that SAM climbs to"
    finally:
        _clear_gradients(network, loss_function)
    return where or "nowhere when the step is repeated"


def _first_nonfinite(
    network: nn.Module,
    loss_function: nn.Module,
    data: Tensor,
    target: Target,
    precision: str,
    auxiliary: Auxiliary | None,
) -> str | None:
    """Returns where a pass goes wrong first, None if it does not; leaves its gradients."""
    _clear_gradients(network, loss_function)
    found: list[str] = []
    layers = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(_watch(name, found)) for name, module in layers]
    try:
        tried = _forward(network, loss_function, data, target, precision, auxiliary)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"the output of the layer {found[0]}"
    outputs = [tried.logits] if isinstance(tried.logits, Tensor) else list(tried.logits)
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        return "the output of the network"
    if not math.isfinite(tried.loss.item()):
        return "the loss; the network's output is finite"
    if not math.isfinite(tried.total.item()):
        return "the auxiliary loss; the network's output is finite"
    tried.total.backward()  # type: ignore[no-untyped-call]
    # Backward runs from the last layer to the first, so the last parameter with a bad gradient was hit first.
    bad = [name for name, p in _gradients(network, loss_function).items() if first_nonfinite_name({name: p})]
    return f"the gradient of {bad[-1]}" if bad else None


def _clear_gradients(network: nn.Module, loss_function: nn.Module) -> None:
    network.zero_grad(set_to_none=True)
    loss_function.zero_grad(set_to_none=True)


def _gradients(network: nn.Module, loss_function: nn.Module) -> Mapping[str, Tensor]:
    named = [*network.named_parameters(), *((f"loss.{n}", p) for n, p in loss_function.named_parameters())]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def _watch(name: str, found: list[str]) -> Callable[[nn.Module, Sequence[object], object], None]:
    def hook(module: nn.Module, inputs: Sequence[object], output: object) -> None:
        outputs = output if isinstance(output, list | tuple) else [output]
        if any(isinstance(value, Tensor) and not bool(torch.isfinite(value).all()) for value in outputs):
            found.append(name)

    return hook
