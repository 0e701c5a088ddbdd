"""The fast weight gradient against PyTorch's own in float64, and where it keeps out of the way."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from scanseg.kernels.convolution import FastConvolutions, is_faster

avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX2", reason="the fast gradient is for processors with AVX2"
)


def gradients(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> tuple[str, list[torch.Tensor]]:
    """Returns the name of the autograd node that made the output, and gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return type(y.grad_fn).__name__, list(torch.autograd.grad(y, [x, *layer.parameters()], dy))


@avx2
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("batch", "channels", "size", "kernel", "padding"),
    [
        (2, (3, 5), (6, 7, 9), 3, 1),
        (1, (1, 4), (5, 4, 3), 3, 1),
        (3, (4, 1), (9, 9, 9), 5, 2),
        (2, (3, 3), (8, 7, 6), (3, 2, 5), (0, 1, 2)),
        (1, (2, 2), (3, 3, 3), 3, 0),
        (2, (16, 16), (20, 28, 20), 3, 1),
    ],
)
def test_equals_float64(batch, channels, size, kernel, padding, layout, bias) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    layer = nn.Conv3d(*channels, kernel, padding=padding, bias=bias)
    x = torch.randn(batch, channels[0], *size).contiguous(memory_format=layout)
    dy = torch.randn_like(layer(x))
    with FastConvolutions():
        node, found = gradients(layer, x, dy)
    assert "_Convolution" in node
    _, expected = gradients(layer.double(), x.double(), dy.double())
    for value, law in zip(found, expected, strict=True):
        assert value.shape == law.shape
        torch.testing.assert_close(value.double(), law, rtol=1e-4, atol=2e-5 * law.abs().max().item())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 4, 3, stride=2),
        nn.Conv3d(4, 4, 1),
        nn.Conv3d(4, 4, (1, 3, 3)),
        nn.Conv3d(4, 4, 3, groups=2),
        nn.Conv3d(4, 4, 3, dilation=2),
        nn.Conv3d(4, 4, 3, padding="same"),
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect").double(),
        nn.ConvTranspose3d(4, 4, 3),
    ],
)
def test_other_layers_run_as_outside(layer: nn.Module) -> None:
    x = torch.randn(2, 4, 8, 8, 8, dtype=next(layer.parameters()).dtype)
    dy = torch.randn_like(layer(x))
    expected = gradients(layer, x, dy)
    with FastConvolutions():
        found = gradients(layer, x, dy)
    assert found[0] == expected[0] != "_ConvolutionBackward"
    assert all(torch.equal(value, law) for value, law in zip(found[1], expected[1], strict=True))


def test_keeps_out_of_autocast_and_inference() -> None:
    x, layer = torch.randn(1, 2, 4, 4, 4), nn.Conv3d(2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_faster(x, layer.weight, (0, 0, 0))
    with torch.no_grad():
        assert not is_faster(x, layer.weight, (0, 0, 0))
    assert not is_faster(x, layer.weight.detach(), (0, 0, 0))


@avx2
def test_same_bits_twice() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv3d(8, 8, 3, padding=1), torch.randn(2, 8, 16, 16, 16)
    dy = torch.randn_like(layer(x))
    with FastConvolutions():
        first, second = gradients(layer, x, dy)[1], gradients(layer, x, dy)[1]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@avx2
def test_is_faster() -> None:
    """2.8 times on one thread where this was written; here only that it is no loss."""
    layer, x = nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 32, 32, 32)
    dy = torch.randn_like(layer(x))

    def seconds() -> float:
        started = time.process_time()
        gradients(layer, x, dy)
        return time.process_time() - started

    plain, fast = [], []
    for _ in range(5):
        plain.append(seconds())
        with FastConvolutions():
            fast.append(seconds())
    assert min(fast) < min(plain)
