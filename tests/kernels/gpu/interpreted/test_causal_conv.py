"""The convolution's kernels against PyTorch's convolution in float64, output and gradients."""

import pytest
import torch

from scanseg.kernels.gpu import causal_conv


def _truth(x, weight, bias, dy, silu):
    leaves = [t.double().requires_grad_() for t in (x, weight) if t is not None]
    leaves += [] if bias is None else [bias.double().requires_grad_()]
    dim, taps = weight.shape
    padded = torch.nn.functional.pad(leaves[0], (taps - 1, 0))
    y = torch.nn.functional.conv1d(
        padded, leaves[1][:, None], leaves[2] if bias is not None else None, groups=dim
    )
    y = torch.nn.functional.silu(y) if silu else y
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.double())]


@pytest.mark.parametrize(
    ("dim", "length", "taps", "bias", "silu", "layout", "dtype"),
    [
        (1, 1, 4, True, True, "first", torch.float32),
        (3, 2, 4, False, False, "last", torch.float32),
        (33, 33, 4, True, True, "last", torch.float32),
        (3, 70, 3, True, False, "sliced", torch.float32),
        (5, 64, 1, False, True, "reversed", torch.float32),
        (3, 40, 4, True, True, "last", torch.float16),
    ],
)
def test_equals_float64(cases, poisoned, dim, length, taps, bias, silu, layout, dtype):
    generator = torch.Generator().manual_seed(length)
    x, dy = (
        cases.laid_out(torch.randn(2, dim, length, generator=generator).to(dtype), layout) for _ in range(2)
    )
    weight = torch.randn(dim, taps, generator=generator)
    shift = torch.randn(dim, generator=generator) if bias else None
    y = causal_conv.forward(x, weight, shift, silu=silu)
    gradients = causal_conv.backward(dy, x, weight, shift, silu=silu)
    truth = _truth(x, weight, shift, dy, silu)
    assert y.dtype == gradients[0].dtype == dtype
    assert (gradients[2] is None) == (shift is None)
    for value, expected in zip([y, *gradients], truth, strict=False):
        assert cases.difference(value, expected) <= cases.tolerance[dtype]
