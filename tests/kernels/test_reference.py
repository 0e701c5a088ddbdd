"""The law itself, against its definition, closed forms and finite differences."""

import math

import pytest
import torch

from scanseg.kernels import reference
from scanseg.kernels.reference import selective_scan_reference


def test_equals_the_definition_written_with_scalars(cases):
    scan = cases.random_scan(batch=2, dim=4, length=5, state=3, groups=2)
    a = {name: tensor.double() for name, tensor in scan.tensors.items()}
    expected = torch.zeros(2, 4, 5, dtype=torch.float64)
    for b in range(2):
        for d in range(4):
            h = [0.0] * 3
            group = d * 2 // 4
            for t in range(5):
                dt = math.log1p(math.exp(a["delta"][b, d, t] + a["delta_bias"][d]))
                u, z = a["u"][b, d, t].item(), a["z"][b, d, t].item()
                y = a["D"][d].item() * u
                for n in range(3):
                    h[n] = math.exp(dt * a["A"][d, n]) * h[n] + dt * a["B"][b, group, n, t].item() * u
                    y += a["C"][b, group, n, t].item() * h[n]
                expected[b, d, t] = y * z / (1 + math.exp(-z))
    y = selective_scan_reference(**a, delta_softplus=True)
    assert cases.difference(y, expected) < 1e-14


@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("softplus", [False, True])
def test_gradients_equal_finite_differences(cases, groups, softplus):
    scan = cases.random_scan(batch=1, dim=4, length=4, state=2, groups=groups, softplus=softplus)
    leaves = list(scan.fresh(torch.float64).values())
    assert torch.autograd.gradcheck(lambda *x: selective_scan_reference(*x, softplus), leaves)


def test_second_derivatives_equal_finite_differences(cases):
    scan = cases.random_scan(batch=1, dim=2, length=3, state=2)
    leaves = list(scan.fresh(torch.float64).values())
    assert torch.autograd.gradgradcheck(lambda *x: selective_scan_reference(*x, True), leaves)


def test_recomputing_chunks_changes_nothing(cases, monkeypatch):
    scan = cases.random_scan(length=37, groups=2)
    whole = scan.run(selective_scan_reference)
    monkeypatch.setattr(reference, "_CHUNK", 5)
    parts = scan.run(selective_scan_reference)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_memory_of_a_long_scan_is_bounded_by_chunks(cases):
    scan = cases.random_scan(batch=1, dim=2, length=2000, state=2, layout="last")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        selective_scan_reference(**scan.fresh(), delta_softplus=True)
    per_step = sum(kept) / 2000
    # Inputs and a few sequences of size dim are kept; four tensors of dim x state for every step are not.
    assert per_step < 4 * (2 + 2) + 12
    assert per_step * 2000 < 2000 * 4 * 2 * 2 * 4


def test_half_precision_keeps_a_float32_state():
    u = torch.full((1, 1, 4096), 1.0, dtype=torch.bfloat16)
    one = torch.ones(1, 1, 4096, dtype=torch.bfloat16)
    # Steps of 2**-9: a bfloat16 sum of ones would stop at 256 steps.
    y = selective_scan_reference(u, u * 2**-9, torch.tensor([[-1e-6]]), one, one)
    assert y.dtype == torch.bfloat16
    assert abs(y[0, 0, -1].item() - 8) < 0.05
