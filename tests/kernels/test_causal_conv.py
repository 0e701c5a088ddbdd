"""The causal convolution: against conv1d in float64, outputs and gradients; its manners as an operator."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from scanseg.errors import UsageError
from scanseg.kernels import causal_conv1d
from scanseg.kernels.causal_conv import conv_operator


def law(x, weight, bias=None, *, silu=False):
    """The same by PyTorch's grouped convolution of the padded sequence."""
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    y = F.conv1d(padded, weight[:, None], bias, groups=len(weight))
    return F.silu(y) if silu else y


def run(function, tensors, dy, dtype=None, **options):
    leaves = [None if t is None else t.to(dtype or t.dtype).detach().requires_grad_() for t in tensors]
    y = function(*leaves, **options)
    gradients = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], dy.to(y.dtype))
    names = [name for name, leaf in zip(("x", "weight", "bias"), leaves, strict=True) if leaf is not None]
    return {"y": y.detach(), **dict(zip(names, gradients, strict=True))}


def random_case(cases, batch, dim, length, taps, layout, dtype=torch.float32, *, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(batch, dim, length, generator=generator) for _ in range(2))
    weight, shift = torch.randn(dim, taps, generator=generator), torch.randn(dim, generator=generator)
    return [cases.laid_out(x.to(dtype), layout), weight, shift if bias else None], dy.to(dtype)


SHAPES = list(itertools.product((1, 3, 15, 16, 17, 100), (1, 8, 33), (1, 4, 16)))


@pytest.mark.parametrize(("length", "dim", "taps"), SHAPES)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_equals_float64(cases, length, dim, taps, backend):
    seed = length * dim + taps
    layout = ("first", "last", "sliced", "reversed")[seed % 4]
    tensors, dy = random_case(cases, 2, dim, length, taps, layout, bias=seed % 3 != 0, seed=seed)
    silu = bool(seed // 2 % 2)
    truth = run(law, tensors, dy, torch.float64, silu=silu)
    cases.assert_close(run(causal_conv1d, tensors, dy, silu=silu, backend=backend), truth, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
def test_half_precision(cases, dtype, layout):
    tensors, dy = random_case(cases, 2, 40, 50, 4, layout, dtype)
    found = run(causal_conv1d, tensors, dy, silu=True)
    assert found["y"].dtype == found["x"].dtype == dtype
    cases.assert_close(found, run(law, tensors, dy, torch.float64, silu=True), dtype)


def test_an_output_depends_on_nothing_later(cases):
    tensors, _ = random_case(cases, 1, 20, 40, 4, "last")
    before = causal_conv1d(*tensors, silu=True)
    tensors[0][..., 30:] += 1
    after = causal_conv1d(*tensors, silu=True)
    assert torch.equal(before[..., :30], after[..., :30])
    assert (before[..., 30:] != after[..., 30:]).any()


def test_layout_is_kept_also_of_half_a_projection():
    """As in a Mamba block: the left half of a channel-last projection."""
    x = torch.randn(2, 10, 64)[..., :32].transpose(1, 2)
    y = causal_conv1d(x, torch.randn(32, 4))
    assert y.stride(1) == 1


@pytest.mark.parametrize("layout", ["first", "last"])
def test_the_same_bits_on_one_thread_and_two(cases, layout):
    tensors, dy = random_case(cases, 2, 256, 1000, 4, layout)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(causal_conv1d, tensors, dy, silu=True)
        torch.set_num_threads(2)
        two = run(causal_conv1d, tensors, dy, silu=True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("layout", ["first", "last"])
def test_opcheck(cases, layout):
    tensors, _ = random_case(cases, 2, 5, 18, 4, layout)
    torch.library.opcheck(conv_operator, (*(t.requires_grad_() for t in tensors), True))


def test_double_input_passes_gradcheck(cases):
    tensors, _ = random_case(cases, 1, 2, 5, 3, "first", torch.float64)
    leaves = [t.double().requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *x: causal_conv1d(*x, silu=True), leaves)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "words"),
    [
        (torch.ones(2, 3), torch.ones(3, 4), None, r"x must be \(batch, dim, length\)"),
        (torch.ones(2, 3, 0), torch.ones(3, 4), None, "not empty"),
        (torch.ones(2, 3, 5), torch.ones(4, 4), None, "weight must be"),
        (torch.ones(2, 3, 5), torch.ones(3, 17), None, "1 to 16 taps"),
        (torch.ones(2, 3, 5), torch.ones(3, 4), torch.ones(4), "bias must be"),
        (torch.ones(2, 3, 5, dtype=torch.int64), torch.ones(3, 4), None, "float tensor, got torch.int64"),
        (torch.ones(2, 3, 5).double(), torch.ones(3, 4), None, "dtype torch.float32"),
    ],
)
def test_wrong_arguments_are_refused(x, weight, bias, words):
    with pytest.raises(UsageError, match=words):
        causal_conv1d(x, weight, bias)
