"""The GPU kernels on a GPU, at sizes of networks. `make test-gpu` runs this; without a GPU it is skipped."""

import itertools
from functools import partial

import pytest
import torch

from scanseg.kernels import causal_conv1d, ordered_scan, selective_scan
from scanseg.kernels.backends import select
from scanseg.kernels.op import scan_operator
from scanseg.kernels.reference import ordered_scan_reference, selective_scan_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTHS = (1, 2, 17, 63, 64, 65, 257, 1000)
DIMS = (1, 3, 33, 96, 200)
LAYOUTS = ("first", "last", "sliced", "reversed")
FLAGS = ("skip", "gate", "bias", "softplus")


def _shapes():
    """Returns every length with every dim; the other choices turn over, so that each meets many shapes."""
    for i, (length, dim) in enumerate(itertools.product(LENGTHS, DIMS)):
        groups = [g for g in (None, 1, 2, 4) if g is None or dim % g == 0]
        flags = {name: bool((i * 7 + 5) >> k & 1) for k, name in enumerate(FLAGS)}
        choice = {"state": (1, 4, 16, 5, 64)[(i + length) % 5], "groups": groups[i % len(groups)]}
        layout = LAYOUTS[i % 4]
        yield pytest.param(
            {"length": length, "dim": dim, "seed": i, "layout": layout, **choice, **flags},
            id=f"{length}x{dim}",
        )


@pytest.fixture
def on_gpu(cases):
    """Random scans whose tensors lie on the GPU, in the layout asked for."""

    def build(*, layout: str = "first", **options):
        scan = cases.random_scan(**options)
        for name, tensor in scan.tensors.items():
            if tensor is not None:
                tensor = tensor.cuda()
                scan.tensors[name] = cases.laid_out(tensor, layout) if tensor.dim() > 2 else tensor
        scan.dy = cases.laid_out(scan.dy.cuda(), layout)
        return scan

    return build


@pytest.mark.parametrize("shape", list(_shapes()))
def test_equals_float64(cases, on_gpu, shape):
    scan = on_gpu(**shape)
    cases.assert_close(scan.run(selective_scan, backend="cuda"), scan.truth(), torch.float32)


@pytest.mark.parametrize("state", [1, 16, 256])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_many_channels_and_states(cases, on_gpu, state, layout):
    scan = on_gpu(dim=768, length=200, state=state, groups=4, layout=layout)
    cases.assert_close(scan.run(selective_scan, backend="cuda"), scan.truth(), torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_input(cases, on_gpu, dtype, layout):
    scan = on_gpu(dim=96, length=300, layout=layout, dtype=dtype, state=16)
    values = scan.run(selective_scan)
    assert values["y"].dtype == values["u"].dtype == values["B"].dtype == dtype
    cases.assert_close(values, scan.truth(), dtype)


def test_it_is_what_runs_for_tensors_on_a_gpu():
    assert select(torch.ones(1, 1, 3, device="cuda")) == "cuda"
    assert select(torch.ones(1, 1, 3, device="cuda", dtype=torch.float64)) == "reference"


@pytest.mark.parametrize(("slow", "fast"), [(1e-4, 2e-4), (1e-4, 20.0), (10.0, 20.0)])
def test_long_scans_neither_overflow_nor_drift(cases, on_gpu, slow, fast):
    options = {"gate": False, "skip": False, "bias": False, "softplus": False}
    scan = on_gpu(batch=1, dim=3, length=65536, state=2, **options)
    uniform = torch.rand(1, 3, 65536, generator=torch.Generator().manual_seed(1)).cuda()
    scan.tensors["delta"] = slow * (fast / slow) ** uniform
    with torch.no_grad():
        y = selective_scan(**scan.tensors, backend="cuda")
        doubles = {name: None if t is None else t.double() for name, t in scan.tensors.items()}
        truth = selective_scan_reference(**doubles)
    assert cases.difference(y, truth) < 1e-4
    values = scan.run(selective_scan, backend="cuda")
    assert all(value.isfinite().all() for value in values.values())


def test_the_same_input_gives_the_same_bits(on_gpu):
    scan = on_gpu(dim=96, length=2000, state=16)
    first, second = scan.run(selective_scan), scan.run(selective_scan)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_gradients_the_output_is_the_same(on_gpu):
    scan = on_gpu(dim=96, length=500)
    with torch.no_grad():
        y = selective_scan(**scan.tensors, delta_softplus=True)
    assert torch.equal(y, scan.run(selective_scan)["y"])


def test_opcheck(on_gpu):
    scan = on_gpu(dim=4, length=18, layout="last")
    torch.library.opcheck(scan_operator, (*scan.fresh().values(), True, True))
    torch.library.opcheck(scan_operator, (*scan.tensors.values(), False, False))


def test_compiles_as_one_graph(on_gpu):
    torch.compiler.reset()
    scan = on_gpu(dim=20, length=40, layout="last")
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")
    values, eager = scan.run(compiled), scan.run(selective_scan)
    assert all(torch.equal(values[name], eager[name]) for name in values)


def test_autocast_leaves_the_state_in_float32(on_gpu):
    scan = on_gpu(dim=20, length=300)
    expected = scan.run(selective_scan)
    with torch.autocast("cuda", torch.bfloat16):
        values = scan.run(selective_scan)
    assert all(torch.equal(values[name], expected[name]) for name in values)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(("scans", "dim", "length"), [(1, 3, 17), (4, 24, 300), (4, 96, 1024)])
def test_orders(cases, on_gpu, scans, dim, length, layout, merge):
    scan = on_gpu(dim=scans * dim, length=length, state=4, groups=scans, gate=False, layout=layout)
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    tensors = {name: scan.tensors[name] for name in names} | {"u": scan.tensors["u"][:, :dim]}
    order = torch.rand(2, scans, length, generator=torch.Generator().manual_seed(1)).argsort(-1).cuda()

    def run(function, dtype):
        leaves = {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}
        y = function(**leaves, delta_softplus=True, order=order, merge=merge)
        dy = torch.cos(torch.arange(y.numel(), device="cuda").view(y.shape).double()).to(dtype)
        gradients = torch.autograd.grad(y, list(leaves.values()), dy)
        return {"y": y.detach(), **dict(zip(names, gradients, strict=True))}

    values = run(partial(ordered_scan, backend="cuda"), torch.float32)
    cases.assert_close(values, run(ordered_scan_reference, torch.float64), torch.float32)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dim", "length", "taps"), [(1, 1, 4), (33, 50, 3), (96, 1000, 4)])
def test_causal_convolution(cases, dim, length, taps, layout, dtype, silu):
    generator = torch.Generator("cuda").manual_seed(length)
    x, dy = (
        cases.laid_out(torch.randn(2, dim, length, generator=generator, device="cuda").to(dtype), layout)
        for _ in range(2)
    )
    parameters = [torch.randn(*size, generator=generator, device="cuda") for size in ((dim, taps), (dim,))]

    def run(kind, backend):
        leaves = [(t if kind is None else t.to(kind)).detach().requires_grad_() for t in (x, *parameters)]
        y = causal_conv1d(*leaves, silu=silu, backend=backend)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]

    for value, truth in zip(run(None, "cuda"), run(torch.float64, "reference"), strict=True):
        assert cases.difference(value, truth) <= cases.tolerance[dtype]


def test_nothing_waits_for_the_gpu(on_gpu):
    scan = on_gpu(dim=96, length=500)
    scan.run(selective_scan)
    torch.cuda.set_sync_debug_mode("error")
    try:
        scan.run(selective_scan)
    finally:
        torch.cuda.set_sync_debug_mode("default")
