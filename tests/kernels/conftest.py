"""Random scans, their float64 truth, and the one table of tolerances."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from scanseg.kernels.reference import selective_scan_reference

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")

# Largest difference from float64, relative to the largest value of the tensor. Inputs are rounded to the
# dtype before the float64 truth is computed, so half precision is allowed little more than one rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}


@dataclass
class Scan:
    """Arguments of one selective scan and the gradient that its output receives."""

    tensors: dict[str, Tensor | None]
    delta_softplus: bool
    dy: Tensor
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [name for name in NAMES if self.tensors[name] is not None]

    def fresh(self, dtype: torch.dtype | None = None) -> dict[str, Tensor | None]:
        """Returns leaves that require gradients, with the same strides unless the dtype changes."""
        leaves = {}
        for name, tensor in self.tensors.items():
            if tensor is not None and dtype is not None:
                tensor = tensor.to(dtype)
            leaves[name] = None if tensor is None else tensor.detach().requires_grad_()
        return leaves

    def run(self, function: Callable[..., Tensor], dtype: torch.dtype | None = None, **options: object):
        """Returns the output and the gradients by name."""
        leaves = self.fresh(dtype)
        y = function(**leaves, delta_softplus=self.delta_softplus, **options)
        gradients = torch.autograd.grad(y, [leaves[n] for n in self.names], self.dy.to(y.dtype))
        return {"y": y.detach(), **dict(zip(self.names, gradients, strict=True))}

    def truth(self) -> dict[str, Tensor]:
        """Returns the output and gradients of the float64 reference."""
        return self.run(selective_scan_reference, torch.float64)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """Returns equal values: channels `first` or `last`, `sliced` out of more memory, or `reversed` axes."""
    if layout == "first":
        return tensor.contiguous()
    if layout == "last":
        return tensor.mT.contiguous().mT
    if layout == "sliced":
        return torch.stack([tensor, tensor + 1], -1)[..., 0]
    return tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))


def random_scan(
    *,
    batch: int = 2,
    dim: int = 8,
    length: int = 33,
    state: int = 4,
    groups: int | None = None,
    skip: bool = True,
    gate: bool = True,
    bias: bool = True,
    softplus: bool = True,
    layout: str = "first",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Scan:
    """Returns a scan like those of a network: rates of 1 to `state`, step sizes around 0.05 to 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def sequence(*shape: int) -> Tensor:
        return laid_out(normal(*shape).to(dtype), layout)

    projection = (batch, state, length) if groups is None else (batch, groups, state, length)
    delta = normal(batch, dim, length) - 1
    if not softplus:
        delta = delta.exp()
    tensors: dict[str, Tensor | None] = {
        "u": sequence(batch, dim, length),
        "delta": laid_out(delta.to(dtype), layout),
        "A": -(torch.arange(1, state + 1) * (0.2 * normal(dim, state)).exp()).float(),
        "B": sequence(*projection),
        "C": sequence(*projection),
        "D": normal(dim).float() if skip else None,
        "z": sequence(batch, dim, length) if gate else None,
        # Without the softplus a negative bias would make steps negative and the system unstable.
        "delta_bias": (0.1 * normal(dim)).abs().float() if bias else None,
    }
    return Scan(tensors, softplus, sequence(batch, dim, length))


def difference(value: Tensor, truth: Tensor) -> float:
    """Returns the largest difference relative to the largest true value; infinite where shapes differ."""
    if value.shape != truth.shape or not value.isfinite().all():
        return float("inf")
    scale = truth.abs().max().item()
    return (value.double() - truth).abs().max().item() / (scale or 1.0)


def assert_close(values: dict[str, Tensor], truth: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Asserts the table's tolerance for `dtype`, the narrowest among the inputs, for every tensor."""
    errors = {name: difference(values[name], truth[name]) for name in truth}
    worst = {name: error for name, error in errors.items() if not error <= TOLERANCE[dtype]}
    assert not worst, f"beyond {TOLERANCE[dtype]:.0e}: {worst}"


class Cases:
    """What the tests share, as one fixture."""

    random_scan = staticmethod(random_scan)
    difference = staticmethod(difference)
    assert_close = staticmethod(assert_close)
    laid_out = staticmethod(laid_out)
    tolerance = TOLERANCE


@pytest.fixture(scope="session")
def cases() -> type[Cases]:
    """Random scans and the comparison with float64."""
    return Cases


@pytest.fixture
def one_thread():
    """Runs the test with one PyTorch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
