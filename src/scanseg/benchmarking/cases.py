"""What is timed: problems of named sizes, and their random inputs.

Glossary: u input, delta step size before bias and softplus, A decay rates, B input projection, C output
projection, D skip, z gate, dy the gradient that the output receives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from scanseg.registry import Registry
from scanseg.scans.orders import cross_scan

# Tensors with a length; the others are parameters and stay float32.
SEQUENCES = ("u", "delta", "B", "C", "z")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call, by name, and the gradient of its output."""

    tensors: Mapping[str, Tensor]
    dy: Tensor

    def prepared(self, dtype: str, layout: str = "first") -> Inputs:
        """Returns the same values rounded to a dtype and laid out in memory.

        Args:
            dtype: `float32`, `bfloat16` or `float64`; parameters are float32 unless it is `float64`.
            layout: `first`: (batch, channel, length) in memory; `last`: (batch, length, channel). Shapes
                stay.
        """

        def prepare(name: str, tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            is_sequence = name in SEQUENCES
            kind = DTYPES[dtype] if is_sequence or dtype == "float64" else torch.float32
            value = tensor.to(kind)
            return value.mT.contiguous().mT if layout == "last" and is_sequence else value

        tensors = {name: prepare(name, tensor) for name, tensor in self.tensors.items()}
        return Inputs(tensors, prepare("u", self.dy))

    def leaves(self) -> dict[str, Tensor]:
        """Returns the tensors, those of floats as leaves that require gradients."""
        return {
            name: tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor
            for name, tensor in self.tensors.items()
        }


class Case(Protocol):
    """A problem of a certain size."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def work(self) -> int:
        """States that one step updates, over batch, channels and directions."""
        ...

    @property
    def backward(self) -> bool:
        """Whether gradients are timed too."""
        ...

    def shortened(self, length: int) -> Self:
        """Returns the problem with at most `length` steps."""
        ...

    def inputs(self, seed: int) -> Inputs:
        """Returns float32 inputs, channel-first: a pure function of the case and the seed."""
        ...


def sizes(case: Case) -> dict[str, Any]:
    """Returns the fields of a case without its name and summary, as plain JSON values."""
    facts = asdict(case)  # type: ignore[call-overload]
    return {key: value for key, value in facts.items() if key not in ("name", "summary")}


@dataclass(frozen=True)
class ScanCase:
    """A selective scan with bias, softplus and skip.

    Attributes:
        name: For the command line.
        summary: Where such a scan occurs.
        batch, dim, length, state, groups: Sizes, named as in `scanseg.kernels.selective_scan`.
        gate: Whether there is a z.
        backward: Whether gradients are timed too.
    """

    name: str
    summary: str
    batch: int
    dim: int
    length: int
    state: int
    groups: int = 1
    gate: bool = False
    backward: bool = True

    @property
    def work(self) -> int:
        """States that one step updates."""
        return self.batch * self.dim * self.state

    def shortened(self, length: int) -> ScanCase:
        """Returns the scan with at most `length` steps."""
        return replace(self, length=min(length, self.length))

    def inputs(self, seed: int) -> Inputs:
        """Returns inputs like those of a network: rates of 1 to `state`, step sizes around 0.05 to 1."""
        tensors, normal = _tokens(self.batch, self.dim, self.length, seed), _normal(seed + 1)
        projection = (self.batch, self.groups, self.state, self.length)
        tensors |= {"B": normal(*projection), "C": normal(*projection)}
        tensors |= _parameters(self.dim, self.state, normal)
        if self.gate:
            tensors["z"] = normal(self.batch, self.dim, self.length)
        return Inputs(tensors, normal(self.batch, self.dim, self.length))


@dataclass(frozen=True)
class OrderedCase:
    """Several scans of the same map, each in its own order, summed.

    Attributes:
        order: `cross`: VMamba's four directions, one table for the batch; `sorted`: four permutations of each
            image by random scores, as UD-Mamba sorts by uncertainty (there and back, twice).
    """

    name: str
    summary: str
    batch: int
    dim: int
    height: int
    width: int
    state: int
    order: str
    backward: bool = True

    @property
    def length(self) -> int:
        """Tokens of a map."""
        return self.height * self.width

    @property
    def work(self) -> int:
        """States that one step updates, over the four directions."""
        return 4 * self.batch * self.dim * self.state

    def shortened(self, length: int) -> OrderedCase:
        """Returns the case with as many whole rows as fit into `length`, at least one."""
        return replace(self, height=min(self.height, max(1, length // self.width)))

    def inputs(self, seed: int) -> Inputs:
        """Returns inputs like those of a network, and `order` (4, length) or (batch, 4, length)."""
        tensors, normal = _tokens(self.batch, self.dim, self.length, seed), _normal(seed + 1)
        tensors["delta"] = normal(self.batch, 4 * self.dim, self.length) - 1
        projection = (self.batch, 4, self.state, self.length)
        tensors |= {"B": normal(*projection), "C": normal(*projection)}
        tensors |= _parameters(4 * self.dim, self.state, normal)
        dy = normal(self.batch, self.dim, self.length)
        if self.order == "cross":
            tensors["order"] = cross_scan(self.height, self.width)
        else:
            there = normal(self.batch, 2, self.length).argsort(-1)
            tensors["order"] = torch.cat([there, there.flip(-1)], 1)
        return Inputs(tensors, dy)


def _normal(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return normal


def _tokens(batch: int, dim: int, length: int, seed: int) -> dict[str, Tensor]:
    normal = _normal(seed)
    return {"u": normal(batch, dim, length), "delta": normal(batch, dim, length) - 1}


def _parameters(dim: int, state: int, normal: Any) -> dict[str, Tensor]:
    return {
        "A": -torch.arange(1, state + 1) * (0.2 * normal(dim, state)).exp(),
        "D": normal(dim),
        "delta_bias": 0.1 * normal(dim),
    }


SCANS: Registry[ScanCase] = Registry("shape")
for _case in (
    ScanCase("stage_8x8", "2D stage of 8x8, four directions", 8, 3072, 64, 16, 4),
    ScanCase("stage_16x16", "2D stage of 16x16, four directions", 4, 3072, 256, 16, 4),
    ScanCase("stage_32x32", "2D stage of 32x32, four directions", 2, 1536, 1024, 16, 4),
    ScanCase("stage_64x64", "2D stage of 64x64, four directions", 1, 768, 4096, 16, 4),
    ScanCase("stage_64x64_state1", "2D stage of 64x64, four directions, one state", 4, 768, 4096, 1, 4),
    ScanCase("volume", "3D stage, long, with gate", 1, 64, 32768, 16, gate=True),
    ScanCase("block", "one Mamba block", 1, 128, 1024, 16),
    ScanCase("umamba_bottleneck", "U-Mamba 3D, bottleneck", 2, 640, 210, 16, gate=True),
    ScanCase("umamba_bottleneck_2d", "U-Mamba 2D, bottleneck", 12, 1024, 16, 16, gate=True),
    ScanCase("umamba_stage1", "U-Mamba 3D, stage 1", 2, 128, 215_040, 16, gate=True),
    ScanCase("umamba_stage0", "U-Mamba 3D, stage 0", 1, 64, 1_720_320, 16, gate=True, backward=False),
):
    SCANS.register(_case.name)(_case)

ORDERS: Registry[OrderedCase] = Registry("shape")
for _ordered in (
    OrderedCase("cross_32x32", "cross scan of 32x32", 2, 384, 32, 32, 16, "cross"),
    OrderedCase("cross_64x64", "cross scan of 64x64", 1, 192, 64, 64, 16, "cross"),
    OrderedCase(
        "sorted_32x32", "four sorted scans of 32x32, an order an image", 2, 384, 32, 32, 16, "sorted"
    ),
    OrderedCase(
        "sorted_64x64", "four sorted scans of 64x64, an order an image", 1, 192, 64, 64, 16, "sorted"
    ),
):
    ORDERS.register(_ordered.name)(_ordered)

QUICK: Mapping[str, Sequence[str]] = {
    "scan": ("block", "umamba_bottleneck_2d"),
    "orders": ("cross_32x32",),
}
"""The shapes that `quick` stands for: seconds, not minutes."""
