"""A coarse watch on speed; benchmarks/ measures properly."""

import statistics
import time

import pytest
import torch

from scanseg.kernels import selective_scan


def naive_scan(u, delta, A, B, C):
    """The loop as usually written: it indexes, so its backward makes full-size zeros at every step."""
    h = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for t in range(u.shape[-1]):
        decay = torch.exp(delta[:, :, t, None] * A)
        h = decay * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1))
    return torch.stack(outputs, -1)


def _seconds(function, leaves, dy) -> float:
    started = time.perf_counter()
    torch.autograd.grad(function(*leaves), leaves, dy)
    return time.perf_counter() - started


@pytest.mark.slow
def test_twenty_times_the_naive_loops_forward_and_backward(cases, one_thread, record_property):
    options = {"gate": False, "skip": False, "bias": False, "softplus": False}
    scan = cases.random_scan(batch=2, dim=256, length=1024, state=16, **options)
    leaves = [tensor for tensor in scan.fresh().values() if tensor is not None]
    contenders = {
        "kernel": lambda *x: selective_scan(*x, backend="cpu"),
        "unbind": lambda *x: selective_scan(*x, backend="reference"),
        "naive": naive_scan,
    }
    assert torch.allclose(contenders["kernel"](*leaves), naive_scan(*leaves), atol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(3):
        for name, function in contenders.items():
            times[name].append(_seconds(function, leaves, scan.dy))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in median.items():
        record_property(name, f"{seconds * 1000:.1f} ms")
    assert median["naive"] / median["kernel"] >= 20, median
    assert median["unbind"] / median["kernel"] >= 10, median
