"""Scans in given orders against gather, float64 scan and scatter, outputs and all gradients."""

import pytest
import torch

from scanseg.kernels.arguments import Arguments
from scanseg.kernels.gpu import launch
from scanseg.kernels.op import backward_operator
from scanseg.kernels.ordered import ordered_backward_operator
from scanseg.kernels.reference import ordered_scan_reference


def _tensors(cases, scans, *, dim, length, state, layout, skip=True, bias=True, dtype=torch.float32):
    scan = cases.random_scan(
        batch=1 if length > 64 else 2,
        dim=scans * dim,
        length=length,
        state=state,
        groups=scans,
        layout=layout,
        skip=skip,
        bias=bias,
        gate=False,
        dtype=dtype,
    )
    tensors = {name: tensor for name, tensor in scan.tensors.items() if name != "z"}
    tensors["u"] = cases.laid_out(tensors["u"][:, :dim], layout)
    return tensors


def _run(function, tensors, dtype, **options):
    leaves = {
        n: None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for n, t in tensors.items()
    }
    y = function(**leaves, delta_softplus=True, **options)
    dy = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape).to(y.dtype)
    names = [name for name, leaf in leaves.items() if leaf is not None]
    return {
        "y": y.detach(),
        **dict(zip(names, torch.autograd.grad(y, [leaves[n] for n in names], dy), strict=True)),
    }


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    ("scans", "shape"),
    [
        (1, {"dim": 3, "length": 17, "state": 2, "layout": "first"}),
        (4, {"dim": 3, "length": 20, "state": 1, "layout": "last", "skip": False}),
        (2, {"dim": 2, "length": 65, "state": 1, "layout": "sliced", "bias": False}),
    ],
)
def test_equals_its_definition(cases, poisoned, interpreted_ordered_scan, scans, shape, merge):
    tensors = _tensors(cases, scans, **shape)
    generator = torch.Generator().manual_seed(scans)
    rows = [torch.randperm(shape["length"], generator=generator) for _ in range(2 * scans)]
    # One table for all, or one for each batch element.
    order = torch.stack(rows[:scans]) if merge else torch.stack(rows).view(2, scans, -1)[: len(tensors["u"])]
    options = {"order": order, "merge": merge}
    values = _run(interpreted_ordered_scan, tensors, None, **options)
    cases.assert_close(values, _run(ordered_scan_reference, tensors, torch.float64, **options), torch.float32)


def test_half_precision_is_summed_in_float32(cases, interpreted_ordered_scan):
    tensors = _tensors(cases, 2, dim=3, length=18, state=1, layout="last", dtype=torch.bfloat16)
    order = torch.stack([torch.arange(18).roll(k) for k in range(2)])
    values = _run(interpreted_ordered_scan, tensors, None, order=order, merge=True)
    assert values["y"].dtype == values["u"].dtype == torch.bfloat16
    assert values["y"].stride(1) == values["u"].stride(1) == 1
    truth = _run(ordered_scan_reference, tensors, torch.float64, order=order, merge=True)
    assert cases.difference(values["y"], truth["y"]) <= cases.tolerance[torch.bfloat16]
    assert cases.difference(values["u"], truth["u"]) <= cases.tolerance[torch.bfloat16]


def test_own_order_is_the_plain_scan(cases, interpreted_scan, interpreted_ordered_scan):
    scan = cases.random_scan(dim=3, length=33, state=2, groups=1, gate=False)
    tensors = {name: tensor for name, tensor in scan.tensors.items() if name != "z"}
    y = interpreted_ordered_scan(**tensors, delta_softplus=True, order=torch.arange(33)[None], merge=True)
    assert torch.equal(y, interpreted_scan(**scan.tensors, delta_softplus=True))


@pytest.mark.parametrize("layout", ["first", "last", "sliced"])
@pytest.mark.parametrize("is_ordered", [False, True])
def test_gradients_lie_in_memory_as_the_operators_promise(cases, layout, is_ordered):
    scan = cases.random_scan(
        dim=4, length=3, state=2, groups=2, gate=False, layout=layout, dtype=torch.bfloat16
    )
    tensors = dict(scan.tensors)
    order, dy = None, scan.dy
    if is_ordered:
        tensors["u"], dy = tensors["u"][:, :2], scan.dy[:, :2]
        order = torch.arange(3).expand(2, 3)
        tensors.pop("z")
    operator = ordered_backward_operator if is_ordered else backward_operator
    states = torch.zeros(2, 1, 2, 4)
    arguments = [dy, states, *tensors.values(), True, *([order] if is_ordered else [])]
    promised = operator(*(t.to("meta") if torch.is_tensor(t) else t for t in arguments))
    given = Arguments(**{**tensors, "z": None}, delta_softplus=True, order=order)
    found = [g for g in launch.backward(given, dy, states) if g is not None]
    promised = [g for g in promised if g.numel()]
    assert [(g.shape, g.dtype) for g in found] == [(g.shape, g.dtype) for g in promised]
    if layout != "sliced":  # on its way to the meta device a slice becomes dense
        assert [g.stride() for g in found] == [g.stride() for g in promised]
