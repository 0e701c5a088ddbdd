"""The scan's contenders: ours, and the formulations that others use on a processor.

Those written here are ours, after the mathematics; packages are imported where they are timed. All take the
keywords of `Inputs` and return (batch, dim, length).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scanseg.benchmarking.parity import Function, first_line
from scanseg.devices import usable_cores
from scanseg.kernels import selective_scan
from scanseg.kernels.backends import list_backends
from scanseg.kernels.reference import selective_scan_reference
from scanseg.optional import is_installed
from scanseg.registry import Registry


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Contender:
    """One way to compute the same thing.

    Attributes:
        name: For the command line.
        summary: What it is, in a few words.
        function: Takes the tensors of `Inputs` as keywords.
        layout: How its inputs lie in memory, as in `Inputs.prepared`.
        dtype: Of its inputs.
        all_cores: Runs on all usable cores instead of the number asked for.
        search: Is slow or large, so the longest length that it can do within the limits is looked for.
        why_not: Returns why it cannot run here, or an empty string.
    """

    name: str
    summary: str
    function: Function
    layout: str = "first"
    dtype: str = "float32"
    all_cores: bool = False
    search: bool = False
    why_not: Callable[[], str] = _nothing


def law(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by the reference loop; the truth if the tensors are float64."""
    return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, True)


def kernel(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by the processor's kernel."""
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, True, backend="cpu")


def naive(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by the loop as usually written: everything for all steps first, then step by step.

    Decays and inputs of all steps are (batch, dim, length, state) tensors, and each step indexes them.
    """
    dim, state = A.shape
    step = functional.softplus(delta + delta_bias[:, None])
    decays = torch.exp(step[..., None] * A[:, None])
    added = (step * u)[..., None] * B.mT.repeat_interleave(dim // B.shape[1], 1)
    readers = C.mT.repeat_interleave(dim // C.shape[1], 1)
    h = u.new_zeros(u.shape[0], dim, state)
    outputs = []
    for t in range(u.shape[2]):
        h = decays[:, :, t] * h + added[:, :, t]
        outputs.append((h * readers[:, :, t]).sum(-1))
    return _finished(torch.stack(outputs, -1), u, D, z)


def mambapy(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by mambapy's parallel scan.

    What surrounds it is the cheaper of the possible orders: step times input first, groups by broadcasting.
    """
    decays, added = _terms(u, delta, A, B, delta_bias)
    states = import_module("mambapy.pscan").pscan(decays, added)
    return _finished(_read(states, C), u, D, z)


def associative_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by PyTorch's higher-order operator, in its mode that needs no compiler."""
    _forget_other_sizes(tuple(u.shape))
    decays, added = _terms(u, delta, A, B, delta_bias)
    scan = import_module("torch._higher_order_ops.associative_scan").associative_scan
    _, states = scan(_chained, (decays, added), dim=1, combine_mode="generic")
    return _finished(_read(states, C), u, D, z)


def transformers(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    z: Tensor | None = None,
) -> Tensor:
    """Returns the scan by the function that transformers runs where no CUDA kernel is installed.

    It knows no groups, so it is called once for each.
    """
    scan = _transformers_function()
    width = u.shape[1] // B.shape[1]
    parts = []
    for group in range(B.shape[1]):
        rows = slice(group * width, (group + 1) * width)
        gate = None if z is None else z[:, rows]
        y = scan(
            u[:, rows],
            delta[:, rows],
            A[rows],
            B[:, group],
            C[:, group],
            D=D[rows],
            z=gate,
            delta_bias=delta_bias[rows],
            delta_softplus=True,
        )
        parts.append(y[0] if isinstance(y, tuple) else y)
    return torch.cat(parts, 1)


_traced_for: list[tuple[int, ...]] = []


def _forget_other_sizes(shape: tuple[int, ...]) -> None:
    """Has the operator traced afresh for another size: traces of a few sizes fill the tracer's table."""
    if _traced_for != [shape]:
        torch.compiler.reset()
        _traced_for[:] = [shape]


def _chained(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def _terms(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the decays and what is added, for all steps, (batch, length, dim, state)."""
    batch, dim, length = u.shape
    step = functional.softplus(delta + delta_bias[:, None]).mT
    decays = torch.exp(step[..., None] * A)
    grouped = (step * u.mT).reshape(batch, length, B.shape[1], -1, 1)
    added = grouped * B.permute(0, 3, 1, 2)[:, :, :, None]
    return decays, added.reshape(batch, length, dim, -1)


def _read(states: Tensor, C: Tensor) -> Tensor:
    """Returns the outputs (batch, dim, length) of states (batch, length, dim, state)."""
    batch, length, dim, state = states.shape
    grouped = states.reshape(batch, length, C.shape[1], -1, state)
    return (grouped @ C.permute(0, 3, 1, 2)[..., None]).view(batch, length, dim).mT


def _finished(y: Tensor, u: Tensor, D: Tensor, z: Tensor | None) -> Tensor:
    y = y + D[:, None] * u
    return y if z is None else y * functional.silu(z)


def no_kernel() -> str:
    """Returns why the processor's kernel cannot run here, or an empty string."""
    return next(status.reason for status in list_backends() if status.name == "cpu")


def _no_kernel_or_one_core() -> str:
    return no_kernel() or ("" if usable_cores() > 1 else "there is one core")


def _no_mambapy() -> str:
    return "" if is_installed("mambapy") else _missing("mambapy")


def _missing(package: str) -> str:
    return f"the package {package} is not installed (pip install 'scanseg[bench]')"


@lru_cache(maxsize=1)
def _no_transformers() -> str:
    if not is_installed("transformers"):
        return _missing("transformers")
    try:
        _transformers_function()
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"the package transformers cannot be used: {first_line(error)}"
    return ""


def _transformers_function() -> Any:
    return import_module("transformers.models.mamba.modeling_mamba").mamba_selective_scan


@lru_cache(maxsize=1)
def _no_associative_scan() -> str:
    values = [torch.ones(1, 4, 1, 1, requires_grad=True) for _ in range(2)]
    try:
        scan = import_module("torch._higher_order_ops.associative_scan").associative_scan
        torch.autograd.grad(scan(_chained, tuple(values), dim=1, combine_mode="generic")[1].sum(), values)
    except Exception as error:
        # Whatever the compiler stack raises, the operator is of no use here.
        return f"it fails here: {first_line(error)}"
    return ""


SCAN_CONTENDERS: Registry[Contender] = Registry("contender")
for _contender in (
    Contender("cpu", "our kernel", kernel, why_not=no_kernel),
    Contender("cpu_channel_last", "our kernel, channels side by side", kernel, "last", why_not=no_kernel),
    Contender("cpu_bf16", "our kernel, bfloat16 in and out", kernel, dtype="bfloat16", why_not=no_kernel),
    Contender(
        "cpu_all_cores", "our kernel, all cores", kernel, all_cores=True, why_not=_no_kernel_or_one_core
    ),
    Contender("reference", "our reference loop (unbind)", law, search=True),
    Contender("naive", "the loop as usually written (indexing)", naive, search=True),
    Contender("mambapy", "mambapy's parallel scan", mambapy, "last", search=True, why_not=_no_mambapy),
    Contender("transformers", "transformers' slow path", transformers, search=True, why_not=_no_transformers),
    Contender(
        "associative_scan",
        "torch's associative_scan",
        associative_scan,
        "last",
        search=True,
        why_not=_no_associative_scan,
    ),
):
    SCAN_CONTENDERS.register(_contender.name)(_contender)
