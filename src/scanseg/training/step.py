"""One training step, and who is to blame when it is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scanseg.kernels.convolution import FastConvolutions
from scanseg.training.weights import first_nonfinite_name

Target = Tensor | list[Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step came to. `made` is False if it was skipped because `loss` or a gradient was not finite."""

    loss: float
    gradient_norm: float
    made: bool


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
) -> StepResult:
    """Makes one step of gradient descent, or none if loss or gradients are not finite.

    Args:
        network: Returns logits, or a list of them from fine to coarse.
        loss_function: Takes what the network returns, and `target`.
        optimizer: Over the parameters of both, its learning rate set.
        data: (B, C, *spatial), on the network's device.
        target: Class indices (B, 1, *spatial), or a list of them.
        precision: `fp32` or `bf16`.
        clip_norm: The network's gradient is scaled down to this norm; 0 does not clip. Parameters of the loss
            are not part of it.

    Source:
        nnU-Net 2.8.1, nnUNetTrainer.train_step; the check for finite values is ours.
    """
    optimizer.zero_grad(set_to_none=True)
    with mixed_precision(data.device, precision), FastConvolutions():
        logits = network(data)
    loss = loss_function(logits, target)
    value = loss.item()
    if not math.isfinite(value):
        return StepResult(value, math.nan, made=False)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf).item()
    learned = [p.grad for p in loss_function.parameters() if p.grad is not None]
    made = math.isfinite(norm) and all(bool(torch.isfinite(gradient).all()) for gradient in learned)
    if made:
        optimizer.step()
    return StepResult(value, norm, made)


def blame(
    network: nn.Module,
    loss_function: nn.Module,
    data: Tensor,
    target: Target,
    *,
    precision: str,
) -> str:
    """Returns in words where NaN or infinity appears first: input, weights, a layer, the loss or a gradient.

    Runs the step again with hooks; weights stay as they are, gradients are cleared.
    """
    if not bool(torch.isfinite(data).all()):
        return "the images of the batch"
    for owner, module in (("network", network), ("loss", loss_function)):
        if (name := first_nonfinite_name(dict(module.named_parameters()))) is not None:
            return f"the weight {name} of the {owner}"
    found: list[str] = []
    layers = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    handles = [module.register_forward_hook(_watch(name, found)) for name, module in layers]
    try:
        with mixed_precision(data.device, precision):
            logits = network(data)
        loss = loss_function(logits, target)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"the output of the layer {found[0]}"
    outputs = [logits] if isinstance(logits, Tensor) else list(logits)
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        return "the output of the network"
    if not math.isfinite(loss.item()):
        return "the loss; the network's output is finite"
    loss.backward()
    # Backward runs from the last layer to the first, so the last parameter with a bad gradient was hit first.
    bad = [name for name, p in _gradients(network, loss_function).items() if first_nonfinite_name({name: p})]
    network.zero_grad(set_to_none=True)
    loss_function.zero_grad(set_to_none=True)
    return f"the gradient of {bad[-1]}" if bad else "nowhere when the step is repeated"


def _gradients(network: nn.Module, loss_function: nn.Module) -> Mapping[str, Tensor]:
    named = [*network.named_parameters(), *((f"loss.{n}", p) for n, p in loss_function.named_parameters())]
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def _watch(name: str, found: list[str]) -> Callable[[nn.Module, Sequence[object], object], None]:
    def hook(module: nn.Module, inputs: Sequence[object], output: object) -> None:
        outputs = output if isinstance(output, list | tuple) else [output]
        if any(isinstance(value, Tensor) and not bool(torch.isfinite(value).all()) for value in outputs):
            found.append(name)

    return hook
