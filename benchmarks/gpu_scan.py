"""Times the selective scan on a GPU against mamba-ssm's kernel, where that is installed, and writes JSON.

    python benchmarks/gpu_scan.py -o gpu_scan.json [--dtype bfloat16] [--layout last] [--repeats 30]

A time is only written for a shape whose output and gradients agree with the float64 reference. Contenders
take turns in one run; times are medians of CUDA events. The limit is the time that the bytes of inputs and
outputs take at the bandwidth of a copy, measured in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scanseg.kernels import selective_scan
from scanseg.kernels.reference import selective_scan_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CHECKED_STEPS = 300


@dataclass(frozen=True)
class Shape:
    """One problem; `gate` adds z, `backward` is whether gradients are timed too."""

    batch: int
    dim: int
    length: int
    state: int
    groups: int = 1
    gate: bool = False
    backward: bool = True


SHAPES = (
    Shape(8, 3072, 64, 16, 4),
    Shape(4, 3072, 256, 16, 4),
    Shape(2, 1536, 1024, 16, 4),
    Shape(1, 768, 4096, 16, 4),
    Shape(4, 768, 4096, 1, 4),
    Shape(1, 64, 32768, 16, gate=True),
    Shape(1, 128, 1024, 16),
    Shape(2, 640, 210, 16, gate=True),
    Shape(2, 128, 215040, 16, gate=True),
    Shape(1, 64, 1720320, 16, gate=True, backward=False),
    Shape(12, 1024, 16, 16, gate=True),
)


def make_inputs(shape: Shape, dtype: torch.dtype, layout: str, length: int) -> dict[str, Tensor | None]:
    """Returns the arguments of a scan of `length` steps, random, on the GPU."""
    generator = torch.Generator("cuda").manual_seed(0)

    def sequence(*size: int) -> Tensor:
        if layout == "last":
            size = (*size[:-2], size[-1], size[-2])
        values = torch.randn(*size, generator=generator, device="cuda").to(dtype)
        return values.mT if layout == "last" else values

    like_u, projection = (shape.batch, shape.dim, length), (shape.batch, shape.groups, shape.state, length)
    rates = torch.arange(1, shape.state + 1, device="cuda", dtype=torch.float32)
    return {
        "u": sequence(*like_u),
        "delta": sequence(*like_u) - 3,
        "A": -rates.expand(shape.dim, shape.state).contiguous(),
        "B": sequence(*projection),
        "C": sequence(*projection),
        "D": torch.ones(shape.dim, device="cuda"),
        "z": sequence(*like_u) if shape.gate else None,
        "delta_bias": torch.full((shape.dim,), 0.1, device="cuda"),
    }


def contenders() -> dict[str, Callable[..., Tensor]]:
    """Returns the scans that can run here, by name."""
    found: dict[str, Callable[..., Tensor]] = {
        "scanseg": lambda **given: selective_scan(**given, delta_softplus=True, backend="cuda")
    }
    if importlib.util.find_spec("mamba_ssm") is not None:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        found["mamba_ssm"] = lambda **given: selective_scan_fn(**given, delta_softplus=True)
    return found


def run(scan: Callable[..., Tensor], inputs: dict[str, Tensor | None], *, backward: bool) -> list[Tensor]:
    """Returns the output and, with `backward`, the gradients of its sum."""
    leaves = {name: None if t is None else t.detach().requires_grad_(backward) for name, t in inputs.items()}
    with torch.set_grad_enabled(backward):
        y = scan(**leaves)
    if not backward:
        return [y]
    return [y.detach(), *torch.autograd.grad(y.sum(), [leaf for leaf in leaves.values() if leaf is not None])]


def largest_error(shape: Shape, dtype: torch.dtype, layout: str, scan: Callable[..., Tensor]) -> float:
    """Returns the largest difference from float64 over the first steps, relative to the tensor's maximum."""
    inputs = make_inputs(shape, dtype, layout, min(shape.length, CHECKED_STEPS))
    doubles = {name: None if t is None else t.double() for name, t in inputs.items()}
    truth = run(
        lambda **given: selective_scan_reference(**given, delta_softplus=True), doubles, backward=True
    )
    values = run(scan, inputs, backward=True)
    errors = [
        ((value - true).abs().max() / true.abs().max()).item() if value.isfinite().all() else math.inf
        for value, true in zip(values, truth, strict=True)
    ]
    return max(errors)


def milliseconds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Returns the times of each function, called in turns, after three rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(repeats + 3):
        for name, function in functions.items():
            started, stopped = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            function()
            stopped.record()
            stopped.synchronize()
            if i >= 3:
                times[name].append(started.elapsed_time(stopped))
    return times


def bandwidth() -> float:
    """Returns bytes per second of a copy of 1 GiB, reads and writes counted."""
    source = torch.zeros(1 << 28, device="cuda")
    target = torch.empty_like(source)
    times = milliseconds({"copy": lambda: target.copy_(source)}, 10)["copy"]
    return 2 * source.numel() * 4 / (statistics.median(times) / 1000)


def measure(shape: Shape, dtype: torch.dtype, layout: str, repeats: int, speed: float) -> dict[str, Any]:
    """Returns the row of one shape: errors, and times of the contenders that are right."""
    row: dict[str, Any] = {**asdict(shape), "errors": {}, "milliseconds": {}}
    inputs = make_inputs(shape, dtype, layout, shape.length)
    # mamba-ssm demands steps side by side.
    first = {name: None if t is None else t.contiguous() for name, t in inputs.items()}
    right = {}
    for name, scan in contenders().items():
        row["errors"][name] = largest_error(shape, dtype, layout if name == "scanseg" else "first", scan)
        if row["errors"][name] <= TOLERANCE[dtype]:
            right[name] = (scan, inputs if name == "scanseg" else first)
    for direction in ("forward", "forward_backward")[: 1 + shape.backward]:
        backward = direction != "forward"
        functions = {
            name: lambda scan=scan, given=given, backward=backward: run(scan, given, backward=backward)
            for name, (scan, given) in right.items()
        }
        times = milliseconds(functions, repeats)
        row["milliseconds"][direction] = {
            name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
            for name, values in times.items()
        }
    moved = sum(t.numel() * t.element_size() for t in inputs.values() if t is not None) + inputs["u"].nbytes
    row["forward_limit_by_bytes_milliseconds"] = moved / speed * 1000
    row["exponentials"] = shape.batch * shape.dim * shape.length * shape.state
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures every shape and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--layout", choices=["first", "last"], default="last")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("This benchmark needs a CUDA device; PyTorch finds none.\n")
        return 2
    dtype, speed = getattr(torch, options.dtype), bandwidth()
    rows = []
    for shape in SHAPES:
        rows.append(measure(shape, dtype, options.layout, options.repeats, speed))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    found = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "layout": options.layout,
        "copy_bytes_per_second": speed,
        "shapes": rows,
    }
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
