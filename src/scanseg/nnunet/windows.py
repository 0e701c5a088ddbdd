"""Sliding-window prediction with nnU-Net's tiles and Gaussian weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.errors import ModelError, UsageError
from scanseg.nnunet import scratch
from scanseg.nnunet.plan import Configuration
from scanseg.progress import Eta, Progress, Report, silent

# nnU-Net scales the weights so that the corners of a tile stay above the smallest half-precision number.
_WEIGHT_SCALE = 10


@torch.no_grad()
def predict_logits(
    network: nn.Module,
    data: Tensor,
    configuration: Configuration,
    *,
    device: torch.device | str,
    mirror: bool = False,
    mirror_axes: Sequence[int] | None = None,
    step_size: float = 0.5,
    precision: str = "fp32",
    dtype: torch.dtype = torch.float32,
    memory_bytes: int = scratch.MEMORY_BYTES,
    folder: Path | str | None = None,
    report: Report = silent,
) -> Tensor:
    """Returns the logits of a preprocessed image, averaged over overlapping windows.

    Sums larger than `memory_bytes` are kept in a temporary file, of which about one window is resident at a
    time; the result then is that file's memory map. Its values do not depend on where it is kept.

    Args:
        network: In eval mode, on `device`; maps (1, C, *patch_size) to (1, K, *patch_size). Of a list the
            first is taken.
        data: (C, z, y, x) float32 from `preprocess_case`. A 2D configuration sees it slice by slice.
        configuration: Gives the patch size. Smaller images are padded with zeros.
        device: Where the network runs, one window at a time; the sums stay on the CPU.
        mirror: Average over all combinations of mirrored axes; 2^axes times slower.
        mirror_axes: Spatial axes of the patch that may be mirrored; all by default.
        step_size: Step as a fraction of the patch, in (0, 1].
        precision: `fp32`, or `bf16` for autocast.
        dtype: Of the sums and the result: float32, or float16 as nnU-Net's (half the memory, overflows).
        memory_bytes: Largest size of the sums (4 bytes a voxel and class) that is kept in memory.
        folder: For the temporary file; see `scratch.zeros`. The file goes with the result.
        report: Told about each window.

    Returns:
        (K, z, y, x) logits on the CPU. The order of the windows is fixed, so equal inputs give equal bits.

    Raises:
        ModelError: The network returns NaN or infinity, which argmax would turn into an empty mask.
        UsageError: `step_size`, `mirror_axes` or `precision` is wrong.
        Error: The temporary file does not fit on the disk, or the folder cannot be written. Known after the
            first window, which tells the number of classes.

    Source: `nnUNetPredictor.predict_sliding_window_return_logits` of nnunetv2 2.8, which sums in float16.
    """
    from acvl_utils.cropping_and_padding.padding import pad_nd_image

    axes = _checked_axes(mirror_axes, configuration) if mirror else ()
    if not 0 < step_size <= 1:
        raise UsageError(f"step_size must be in (0, 1], got {step_size}.", code="E-PREDICT-STEP")
    padded, inside = pad_nd_image(data, configuration.patch_size, "constant", {"value": 0}, True, None)
    windows = list(_windows(tuple(padded.shape[1:]), configuration.patch_size, step_size))
    weights = _weights(configuration.patch_size)
    logits, total = None, torch.zeros(padded.shape[1:], dtype=dtype)
    eta = Eta(len(windows))
    for done, window in enumerate(windows, start=1):
        tile = padded[window][None].contiguous().to(device)
        with _autocast(device, precision):
            found = _mirrored(network, tile, axes)[0]
        found = found.to("cpu", torch.float32)
        if logits is None:
            shape = (len(found), *padded.shape[1:])
            logits = scratch.zeros(shape, dtype, memory_bytes=memory_bytes, folder=folder)
        logits[window] += found.mul_(weights)
        scratch.release(logits)
        total[window[1:]] += weights
        report(Progress("predict", done, len(windows), eta(done)))
    if logits is None:
        raise UsageError("The image has no voxels.", code="E-PREDICT-EMPTY")
    return _averaged(logits, total)[(slice(None), *inside[1:])]


def _averaged(logits: Tensor, total: Tensor) -> Tensor:
    for part in logits:
        # Plane by plane, because isfinite makes copies.
        for plane, weight in zip(part, total, strict=True):
            if not torch.isfinite(plane.div_(weight)).all():
                raise nonfinite_error()
        scratch.release(logits)
    return logits


def nonfinite_error() -> ModelError:
    """Returns the error for logits that are NaN or infinite."""
    return ModelError(
        "The network's output contains NaN or infinite values; no mask is made from it.",
        code="E-MODEL-NONFINITE",
        hint="The weights are damaged or the precision is too low; try fp32 or another checkpoint.",
    )


def _windows(shape: tuple[int, ...], patch: tuple[int, ...], step_size: float) -> Iterator[tuple[Any, ...]]:
    """Yields the index of each window in (C, z, y, x), in nnU-Net's order."""
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    flat = len(shape) - len(patch)
    starts = compute_steps_for_sliding_window(shape[flat:], patch, step_size)
    for index in itertools.product(*(range(size) for size in shape[:flat]), *starts):
        slices = (slice(start, start + size) for start, size in zip(index[flat:], patch, strict=True))
        yield (slice(None), *index[:flat], *slices)


def _weights(patch: tuple[int, ...]) -> Tensor:
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    # nnU-Net's table is rounded to half precision; the sums here are not.
    table: Tensor = compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=_WEIGHT_SCALE, device=torch.device("cpu")
    )
    return table.to(torch.float32)


def _mirrored(network: nn.Module, tile: Tensor, axes: tuple[int, ...]) -> Tensor:
    found = _first(network(tile))
    if not axes:
        return found
    dims = [axis + 2 for axis in axes]
    flips = [flip for count in range(1, len(dims) + 1) for flip in itertools.combinations(dims, count)]
    for flip in flips:
        found = found + torch.flip(_first(network(torch.flip(tile, flip))), flip)
    return found / (len(flips) + 1)


def _first(output: Any) -> Tensor:
    logits: Tensor = output[0] if isinstance(output, list | tuple) else output
    return logits


def _autocast(device: torch.device | str, precision: str) -> AbstractContextManager[Any]:
    if precision not in ("fp32", "bf16"):
        raise UsageError(
            f"Unknown precision {precision!r}.", code="E-PREDICT-PRECISION", hint="Use fp32 or bf16."
        )
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _checked_axes(axes: Sequence[int] | None, configuration: Configuration) -> tuple[int, ...]:
    dims = configuration.spatial_dims
    chosen = tuple(range(dims)) if axes is None else tuple(axes)
    if len(set(chosen)) != len(chosen) or not all(0 <= axis < dims for axis in chosen):
        raise UsageError(
            f"mirror_axes must be different numbers from 0 to {dims - 1}, got {list(chosen)}.",
            code="E-PREDICT-MIRROR",
        )
    return chosen


def count_windows(shape: Sequence[int], configuration: Configuration, *, step_size: float = 0.5) -> int:
    """Returns how many windows `predict_logits` needs for a preprocessed image of `shape` (z, y, x)."""
    patch = configuration.patch_size
    flat = len(shape) - len(patch)
    counts = [
        math.ceil(max(size - part, 0) / (part * step_size)) + 1
        for size, part in zip(shape[flat:], patch, strict=True)
    ]
    return math.prod(shape[:flat]) * math.prod(counts)
