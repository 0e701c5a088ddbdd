"""Scans in orders: against gather, float64 scan and scatter; and truths about orders."""

import itertools

import pytest
import torch

from scanseg.errors import UsageError
from scanseg.kernels import ordered_scan, selective_scan
from scanseg.kernels.ordered import ordered_operator
from scanseg.kernels.reference import ordered_scan_reference

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def permutations(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).argsort(-1)


def arguments(cases, *, scans=3, dim=8, length=33, per_image=True, merge=True, seed=0, **options):
    """Returns tensors by name and the options of an ordered scan."""
    scan = cases.random_scan(dim=scans * dim, length=length, groups=scans, gate=False, seed=seed, **options)
    tensors = {name: scan.tensors[name] for name in NAMES}
    tensors["u"] = tensors["u"][:, :dim]
    batch = tensors["u"].shape[0]
    order = permutations(*((batch,) if per_image else ()), scans, length, seed=seed)
    return tensors, {"delta_softplus": scan.delta_softplus, "order": order, "merge": merge}


def run(function, tensors, options, dtype=None):
    """Returns output and gradients by name, for a fixed gradient of the output."""
    leaves = {
        name: None if t is None else (t if dtype is None else t.to(dtype)).detach().requires_grad_()
        for name, t in tensors.items()
    }
    y = function(**leaves, **options)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    dy = dy.to(tensors["u"].dtype).to(y.dtype)
    present = [name for name in NAMES if leaves[name] is not None]
    gradients = torch.autograd.grad(y, [leaves[name] for name in present], dy)
    return {"y": y.detach(), **dict(zip(present, gradients, strict=True))}


def _shapes():
    for i, (length, dim) in enumerate(itertools.product((1, 2, 15, 16, 17, 50, 300), (1, 3, 16, 40))):
        choice = {
            "scans": (1, 2, 4)[i % 3],
            "state": (1, 5, 16)[(i + length) % 3],
            "layout": ("last", "first", "sliced", "reversed")[i % 4],
            "per_image": bool(i % 2),
            "merge": bool(i // 2 % 2),
            "skip": i % 5 != 0,
            "bias": i % 7 != 0,
            "softplus": i % 3 != 0,
        }
        yield pytest.param({"length": length, "dim": dim, "seed": i, **choice}, id=f"{length}x{dim}")


@pytest.mark.parametrize("shape", list(_shapes()))
def test_equals_gather_scan_scatter_in_float64(cases, shape):
    tensors, options = arguments(cases, **shape)
    truth = run(ordered_scan_reference, tensors, options, torch.float64)
    cases.assert_close(run(ordered_scan, tensors, options), truth, torch.float32)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("merge", [True, False])
def test_half_precision(cases, backend, dtype, merge):
    tensors, options = arguments(cases, dim=24, dtype=dtype, layout="last", merge=merge)
    found = run(ordered_scan, tensors, {**options, "backend": backend})
    assert found["y"].dtype == found["u"].dtype == found["B"].dtype == dtype
    cases.assert_close(found, run(ordered_scan_reference, tensors, options, torch.float64), dtype)


def test_double_input_passes_gradcheck(cases):
    tensors, options = arguments(cases, scans=2, dim=2, length=3, state=2, batch=1)
    leaves = [tensors[name].double().requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(lambda *x: ordered_scan(*x, **options), leaves)


def test_raster_order_is_the_plain_scan(cases):
    tensors, options = arguments(cases, scans=1, dim=20)
    options["order"] = torch.arange(33)[None]
    expected = selective_scan(**tensors, delta_softplus=True)
    assert torch.equal(ordered_scan(**tensors, **options), expected)


def test_moving_tokens_and_order_together_moves_the_output(cases):
    tensors, options = arguments(cases, dim=20)
    y = ordered_scan(**tensors, **options)
    moved = permutations(33, seed=5)
    shuffled = {n: t[..., moved] if n in ("u", "delta", "B", "C") else t for n, t in tensors.items()}
    place = moved.argsort()
    found = ordered_scan(**shuffled, **{**options, "order": place[options["order"]]})
    torch.testing.assert_close(found, y[..., moved], rtol=0, atol=0)


def test_merging_is_the_sum_of_the_scans(cases):
    tensors, options = arguments(cases, dim=20)
    apart = ordered_scan(**tensors, **{**options, "merge": False})
    torch.testing.assert_close(ordered_scan(**tensors, **options), apart.sum(1), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_the_same_bits_on_one_thread_and_two(cases, merge):
    tensors, options = arguments(cases, scans=4, dim=96, length=400, layout="last", merge=merge, state=16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(ordered_scan, tensors, options)
        torch.set_num_threads(2)
        two = run(ordered_scan, tensors, options)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("merge", [True, False])
def test_opcheck(cases, layout, merge):
    tensors, options = arguments(cases, dim=4, length=18, layout=layout, merge=merge)
    leaves = [tensors[name].requires_grad_() for name in NAMES]
    given = (*leaves, True, options["order"], merge, True)
    torch.library.opcheck(ordered_operator, given)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (torch.tensor([[0, 1, 1]]), "once in every row"),
        (torch.tensor([[0, 1, 3]]), "from 0 to 2"),
        (torch.tensor([[-1, 1, 2]]), "from 0 to 2"),
        (torch.tensor([[0, 1]]), r"got shape \(1, 2\)"),
        (torch.arange(3), r"got shape \(3,\)"),
        (torch.zeros(5, 1, 3, dtype=torch.int64), r"got shape \(5, 1, 3\)"),
        (torch.zeros(0, 3, dtype=torch.int64), r"got shape \(0, 3\)"),
        (torch.tensor([[0.0, 1.0, 2.0]]), "int64 tensor, got torch.float32"),
        ([[0, 1, 2]], "int64 tensor, got list"),
    ],
)
def test_a_wrong_order_is_refused(order, words):
    u, A, B = torch.ones(2, 1, 3), -torch.ones(1, 1), torch.ones(2, 1, 1, 3)
    with pytest.raises(UsageError, match=words):
        ordered_scan(u, u, A, B, B, order=order)


def test_shapes_count_the_scans():
    u, B = torch.ones(1, 2, 3), torch.ones(1, 2, 1, 3)
    order = torch.stack([torch.arange(3), torch.arange(3).flip(0)])
    with pytest.raises(UsageError, match=r"delta must be .* = \(1, 4, 3\), got shape \(1, 2, 3\)"):
        ordered_scan(u, u, -torch.ones(4, 1), B, B, order=order)
