"""The scan's kernels against the float64 reference, outputs and all gradients."""

import pytest
import torch

from scanseg.kernels.arguments import Arguments
from scanseg.kernels.gpu import launch
from scanseg.kernels.reference import selective_scan_reference

SHAPES = [
    # Lengths around a tile (16 steps) and a chunk (64); each option and layout with several of them.
    {"length": 1, "dim": 1, "state": 1, "batch": 2},
    {"length": 2, "dim": 3, "state": 5, "layout": "last", "gate": False},
    {"length": 5, "dim": 3, "state": 16, "layout": "last"},
    {"length": 15, "dim": 33, "state": 1, "layout": "sliced", "skip": False},
    {"length": 16, "dim": 4, "state": 1, "groups": 4, "layout": "reversed", "bias": False},
    {"length": 17, "dim": 6, "state": 2, "groups": 2, "softplus": False},
    {"length": 33, "dim": 144, "state": 1, "layout": "last", "skip": False, "gate": False},
    {"length": 63, "dim": 3, "state": 1, "groups": 1, "gate": False, "bias": False},
    {"length": 64, "dim": 2, "state": 1, "layout": "sliced", "softplus": False, "bias": False},
    {"length": 65, "dim": 3, "state": 1, "layout": "last", "skip": False, "bias": False},
    {"length": 65, "dim": 4, "state": 1, "groups": 2, "layout": "first"},
    {"length": 130, "dim": 34, "state": 1, "layout": "last", "gate": False},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "{length}x{dim}x{state}".format(**shape))
def test_equals_float64(cases, poisoned, interpreted_scan, shape):
    scan = cases.random_scan(**{"batch": 1, **shape}, seed=shape["length"])
    cases.assert_close(scan.run(interpreted_scan), scan.truth(), torch.float32)


# The interpreter cuts bfloat16 off where a GPU rounds: one unit in the last place instead of half a unit.
HALF = {torch.float16: 6e-4, torch.bfloat16: 2**-7}


@pytest.mark.parametrize("dtype", list(HALF), ids=str)
@pytest.mark.parametrize("layout", ["first", "last"])
def test_half_precision_input(cases, poisoned, interpreted_scan, dtype, layout):
    scan = cases.random_scan(batch=1, dim=3, length=20, state=1, layout=layout, dtype=dtype)
    values, truth = scan.run(interpreted_scan), scan.truth()
    assert values["y"].dtype == values["u"].dtype == values["B"].dtype == dtype
    assert all(cases.difference(values[name], truth[name]) <= HALF[dtype] for name in truth)


def test_dtypes_may_be_mixed(cases, interpreted_scan):
    scan = cases.random_scan(batch=1, dim=3, length=20, state=1)
    for name in ("delta", "A", "C"):
        scan.tensors[name] = scan.tensors[name].to(torch.bfloat16)
    values, truth = scan.run(interpreted_scan), scan.truth()
    assert values["delta"].dtype == values["A"].dtype == torch.bfloat16
    assert cases.difference(values["delta"], truth["delta"]) <= HALF[torch.bfloat16]
    for name in ("y", "u", "B", "z"):
        assert cases.difference(values[name], truth[name]) <= cases.tolerance[torch.float32]


def test_expanded_tensors_and_gradients(cases, poisoned, interpreted_scan):
    scan = cases.random_scan(batch=2, dim=4, length=18, state=1)
    scan.tensors["u"] = scan.tensors["u"][:1, :, :1].expand(2, 4, 18)
    scan.tensors["delta"] = scan.tensors["delta"][:, :1].expand(2, 4, 18)
    scan.tensors["B"] = scan.tensors["B"][..., :1].expand(2, 1, 18)
    scan.dy = torch.ones(()).expand(2, 4, 18)
    cases.assert_close(scan.run(interpreted_scan), scan.truth(), torch.float32)


def test_layouts_are_kept(cases, interpreted_scan):
    scan = cases.random_scan(batch=1, dim=3, length=20, state=2, layout="last")
    values = scan.run(interpreted_scan)
    assert all(values[name].stride() == scan.tensors["u"].stride() for name in ("y", "u", "delta", "z"))
    assert values["B"].stride(-2) == values["C"].stride(-2) == 1


@pytest.mark.parametrize("length", [20, 70])
def test_without_gradients_the_output_is_the_same(cases, poisoned, interpreted_scan, length):
    scan = cases.random_scan(batch=1, dim=3, length=length, state=1)
    given = Arguments(*scan.tensors.values(), True)
    y = torch.empty_like(given.u)
    launch.forward(given, y, torch.empty(0))
    assert torch.equal(y, scan.run(interpreted_scan)["y"])


def test_kept_states_are_those_before_each_tile(cases, poisoned):
    options = {"gate": False, "skip": False, "bias": False, "softplus": False}
    scan = cases.random_scan(batch=1, dim=3, length=70, state=1, **options)
    given = Arguments(*scan.tensors.values(), False)
    states = torch.empty(1, 5, 1, 3)
    launch.forward(given, torch.empty_like(given.u), states)
    # With C = 1 the output of a step is the state behind it.
    doubles = [tensor.double() for tensor in given[:4]]
    h = selective_scan_reference(*doubles, torch.ones(1, 1, 70, dtype=torch.float64))
    assert torch.equal(states[:, 0], torch.zeros(1, 1, 3))
    assert cases.difference(states[:, 1:, 0], h[..., 15:-1:16].mT) < 2e-6


def test_long_scans_neither_overflow_nor_drift(cases, interpreted_scan):
    options = {"gate": False, "skip": False, "bias": False, "softplus": False}
    scan = cases.random_scan(batch=1, dim=3, length=300, state=1, **options)
    uniform = torch.rand(1, 3, 300, generator=torch.Generator().manual_seed(1))
    # A channel that forgets nothing, one that forgets everything, one that does both.
    slow, fast = torch.tensor([[[1e-4], [10.0], [1e-4]], [[2e-4], [20.0], [20.0]]])
    scan.tensors["delta"] = slow * (fast / slow) ** uniform
    cases.assert_close(scan.run(interpreted_scan), scan.truth(), torch.float32)


def test_growth_overflows_only_where_the_reference_does(interpreted_scan):
    # 2 per step: a chunk of 64 steps multiplies by exp(128), more than a float holds, but the state is still
    # 0.
    u = torch.zeros(1, 1, 200)
    u[..., 180:] = 1e-3
    delta, one = torch.full((1, 1, 200), 2.0), torch.ones(1, 1, 200)
    arguments = (u, delta, torch.ones(1, 1), one, one, None, None, None, False)
    y = interpreted_scan(*arguments)
    truth = selective_scan_reference(*(t.double() if torch.is_tensor(t) else t for t in arguments))
    assert truth.abs().max() > 1e12
    assert ((y - truth).abs() <= 1e-5 * truth.abs()).all()


def test_a_number_that_is_none_is_never_hidden(cases, interpreted_scan):
    for name in ("u", "delta", "z"):
        scan = cases.random_scan(batch=1, dim=2, length=66, state=1)
        scan.tensors[name][..., 3] = torch.nan
        y = interpreted_scan(**scan.tensors, delta_softplus=True)
        truth = selective_scan_reference(**scan.tensors, delta_softplus=True)
        assert torch.equal(y.isnan(), truth.isnan())


def test_the_cut_fills_the_chip_and_covers_the_length():
    for pairs, channels, length in [
        (1, 1, 1),
        (8, 768, 64),
        (1, 64, 32768),
        (2, 128, 215040),
        (12, 1024, 16),
        (3, 33, 1000),
    ]:
        block, tiles, chunks = launch.cut(pairs, channels, length)
        warps = pairs * chunks * -(-channels // block) * block // 32
        assert (chunks - 1) * tiles * 16 < length <= chunks * tiles * 16
        assert warps >= 528 or tiles <= 4 or chunks == 1
    assert launch.cut(32, 768, 64)[2] == 1
    assert launch.cut(2, 128, 215040)[2] > 100
