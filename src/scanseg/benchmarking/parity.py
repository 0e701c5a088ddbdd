"""A time counts only if the result is right: outputs and gradients against the float64 reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from scanseg.benchmarking.cases import Case, Inputs

Function = Callable[..., Tensor]

# Largest difference from float64, relative to the largest value of the tensor. Inputs are rounded to the
# dtype before the reference sees them.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}

# How many states are updated in a few seconds by the float64 reference, and by contenders whose backward pass
# is quadratic in the length. Longer cases are compared on fewer steps.
_MOST_UPDATES, _MOST_UPDATES_IF_SLOW = 24_000_000, 2_000_000
_FEWEST_STEPS, _MOST_STEPS, _MOST_STEPS_IF_SLOW = 16, 2048, 128


class Parity(BaseModel):
    """How far a result is from the one it is compared with.

    Attributes:
        agrees: Every tensor is finite and within the tolerance.
        worst: Largest difference, relative to the largest value of its tensor; None if not finite.
        tensor: Where it is: `output` or `gradient of NAME`.
        tolerance: What `worst` may be.
        length: Steps compared; fewer than are timed where the reference would take too long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agrees: bool
    worst: float | None
    tensor: str
    tolerance: float
    length: int

    def sentence(self) -> str:
        """Returns what is wrong, in words."""
        far = "not finite" if self.worst is None else f"off by {self.worst:.1e} of its largest value"
        return f"wrong: {self.tensor} is {far} ({self.tolerance:.0e} accepted, {self.length} steps)"


def parity_length(case: Case, *, slow: bool = False) -> int:
    """Returns how many steps of a case are compared with the float64 reference; fewer for slow contenders."""
    affordable = (_MOST_UPDATES_IF_SLOW if slow else _MOST_UPDATES) // case.work
    most = min(affordable, _MOST_STEPS_IF_SLOW if slow else _MOST_STEPS)
    return min(case.length, max(_FEWEST_STEPS, most))


def evaluate(function: Function, inputs: Inputs, *, backward: bool) -> dict[str, Tensor]:
    """Returns `output` and, with `backward`, `gradient of NAME` for every tensor of floats."""
    if not backward:
        with torch.no_grad():
            return {"output": function(**inputs.tensors)}
    leaves = inputs.leaves()
    names = [name for name, tensor in leaves.items() if tensor.requires_grad]
    y = function(**leaves)
    gradients = torch.autograd.grad(y, [leaves[name] for name in names], inputs.dy.to(y.dtype))
    named = {f"gradient of {name}": value for name, value in zip(names, gradients, strict=True)}
    return {"output": y.detach(), **named}


def compare(
    values: Mapping[str, Tensor], truth: Mapping[str, Tensor], *, tolerance: float, length: int
) -> Parity:
    """Returns the worst tensor of `values`; a missing one, or one of another shape, disagrees."""
    errors = {name: _difference(values.get(name), expected) for name, expected in truth.items()}
    worst = max(errors, key=lambda name: errors[name])
    return Parity(
        agrees=errors[worst] <= tolerance,
        worst=errors[worst] if errors[worst] < float("inf") else None,
        tensor=worst,
        tolerance=tolerance,
        length=length,
    )


def _difference(value: Tensor | None, expected: Tensor) -> float:
    """Returns the largest difference relative to the largest expected value; infinite if not comparable."""
    if value is None or value.shape != expected.shape or not bool(value.isfinite().all()):
        return float("inf")
    scale = expected.abs().max().item() or 1.0
    wide = torch.promote_types(value.dtype, expected.dtype)
    return (value.to(wide) - expected.to(wide)).abs().max().item() / scale


def first_line(error: Exception) -> str:
    """Returns kind and first line of an error, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]
