"""Which backends of the scan exist, which can run here, and which one runs for a tensor."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from scanseg.errors import UsageError
from scanseg.optional import is_installed
from scanseg.registry import Registry

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])

# The first with bfloat16.
_OLDEST_GPU = (8, 0)


def _constant(function: F) -> F:
    """Has torch.compile call the function while it traces, and take the result for a constant."""
    return cast(F, torch.compiler.assume_constant_result(function))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class BackendStatus:
    """What `scanseg doctor` says about a backend.

    Attributes:
        name: As accepted by `selective_scan(backend=...)`.
        available: Whether it can run on this machine.
        reason: Why not; empty if it can.
        detail: What runs, and where compiled code is kept.
    """

    name: str
    available: bool
    reason: str
    detail: str


@dataclass(frozen=True)
class Backend:
    """A backend of the scan.

    Attributes:
        devices: Device types whose tensors it takes; empty means all.
        float64: Whether it takes float64.
        why_not: Returns why it cannot run on this machine, or an empty string.
        detail: Returns one line about it.
    """

    devices: tuple[str, ...]
    float64: bool
    why_not: Callable[[], str]
    detail: Callable[[], str]


def _cpu_why_not() -> str:
    if not is_installed("numba"):
        return "the package numba is not installed"
    try:
        import numba  # noqa: F401  (a version that does not fit numpy fails here)
    except ImportError as error:
        return f"numba cannot be imported: {error}"
    return ""


def _cpu_detail() -> str:
    if _cpu_why_not():
        return "Numba kernels for processors"
    from scanseg.kernels.cpu import cache, simd

    folder = cache.cache_folder()
    if folder is None:
        state = "compiled in every process, because no cache folder is writable"
    elif cache.is_compiled():
        state = f"compiled, kept in {folder}"
    else:
        state = f"compiled at first use, about {cache.COMPILE_SECONDS} s, then kept in {folder}"
    return f"Numba kernels for processors, {simd.LANES} channels at a time; {state}"


def _cuda_why_not() -> str:
    if torch.version.hip is not None:
        return "the kernels are written for NVIDIA GPUs, and this PyTorch is built for AMD GPUs"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    capability = min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    if capability < _OLDEST_GPU:
        least, found = (".".join(map(str, pair)) for pair in (_OLDEST_GPU, capability))
        return f"it needs GPUs of compute capability {least} or newer, found {found}"
    if not is_installed("triton"):
        return "the package triton is not installed"
    try:
        import triton  # noqa: F401  (a build that does not fit PyTorch or the system fails here)
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    from scanseg.kernels.gpu import selfcheck

    faults = (selfcheck.fault(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))
    return next(filter(None, faults), "")


# In order of preference.
BACKENDS: Registry[Backend] = Registry("scan backend")
BACKENDS.register("cuda")(Backend(("cuda",), False, _cuda_why_not, lambda: "Triton kernels for NVIDIA GPUs"))
# Meta tensors have no memory: the operator computes their shapes.
BACKENDS.register("cpu")(Backend(("cpu", "meta"), False, _cpu_why_not, _cpu_detail))
BACKENDS.register("reference")(
    Backend((), True, lambda: "", lambda: "plain PyTorch loop on any device; exact and slow")
)

_known: dict[str, str] = {}
_warned: set[str] = set()


@_constant
def _why_not(name: str) -> str:
    if name not in _known:
        _known[name] = BACKENDS[name].why_not()
    return _known[name]


def list_backends() -> list[BackendStatus]:
    """Returns every backend, in order of preference, with the reason why it cannot run here."""
    return [
        BackendStatus(name, not _why_not(name), _why_not(name), backend.detail())
        for name, backend in BACKENDS.items()
    ]


def select(u: Tensor, backend: str | None = None) -> str:
    """Returns the name of the backend that scans `u`.

    Args:
        u: The input; its device and dtype decide.
        backend: A forced choice, or None for the fastest that can run. Falling back to the reference loop
            on account of the machine is logged once as a warning.

    Raises:
        UsageError: The forced backend is unknown, cannot run here, or does not take such tensors.
    """
    if backend is not None:
        obstacle = _obstacle(backend, u)
        if obstacle:
            raise UsageError(
                f"The scan backend {backend!r} cannot run: {obstacle}.",
                code="E-SCAN-BACKEND",
                hint="Leave `backend` out, or run `scanseg doctor` to see what can run here.",
            )
        return backend
    for name in BACKENDS:
        if not _obstacle(name, u):
            if name == "reference" and u.dtype != torch.float64:
                _warn_slow(u.device.type)
            return name
    raise AssertionError("the reference takes every tensor")


def warm_up() -> float:
    """Compiles the processor's kernels, or loads them, and returns the seconds that took.

    Raises:
        UsageError: The `cpu` backend cannot run here.
    """
    from scanseg.kernels.op import selective_scan

    started = time.monotonic()
    u = torch.zeros(1, 1, 1, requires_grad=True)
    y = selective_scan(u, u, -torch.ones(1, 1), u, u, backend="cpu")
    torch.autograd.grad(y.sum(), u)
    return time.monotonic() - started


def _obstacle(name: str, u: Tensor) -> str:
    """Returns why backend `name` does not scan `u`, or an empty string."""
    backend = BACKENDS[name]
    if backend.devices and u.device.type not in backend.devices:
        return f"it takes tensors on {' or '.join(backend.devices)}, got {u.device.type}"
    if u.dtype == torch.float64 and not backend.float64:
        return "it computes in float32, got float64"
    return _why_not(name)


@_constant
def _warn_slow(device: str) -> None:
    if device not in _warned:
        _warned.add(device)
        reasons = [f"{name}: {_why_not(name)}" for name in BACKENDS if device in BACKENDS[name].devices]
        why = "; ".join(reasons) or "no kernel for such tensors"
        logger.warning("the scan runs the slow reference loop on %s (%s)", device, why)
