"""SS2D against a loop written from the equations, its symmetries, counts and initialisation."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scanseg.blocks.ss2d import SS2D
from scanseg.scans import SCANS, CrossScan, UncertaintyScan, raster, uncertainty_orders


def _perturb(block: SS2D, *, seed: int = 0) -> SS2D:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.1 * noise)
    return block


def _naive_scan(block: SS2D, sequence: Tensor, k: int) -> Tensor:
    """One scan of one sequence (L, D) with parameter set k, token by token."""
    inner, rank, states = block.d_inner, block.dt_rank, block.d_state
    decay = -torch.exp(block.A_logs[k * inner : (k + 1) * inner])
    skip = block.Ds[k * inner : (k + 1) * inner]
    hidden = torch.zeros(inner, states, dtype=sequence.dtype)
    outputs = []
    for token in sequence:
        dt, b, c = (block.x_proj_weight[k] @ token).split([rank, states, states])
        step = F.softplus(block.dt_projs_weight[k] @ dt + block.dt_projs_bias[k])
        hidden = torch.exp(step[:, None] * decay) * hidden + (step * token)[:, None] * b
        outputs.append(hidden @ c + skip * token)
    return torch.stack(outputs)


def _naive(block: SS2D, x: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
    """The whole block, equations 3 to 13 of UD-Mamba in their order; returns its output and the scans."""
    batch = x.shape[0]
    projected = x @ block.in_proj.weight.T
    first, gate = projected.chunk(2, -1)
    convolved = F.conv2d(
        first.permute(0, 3, 1, 2), block.conv2d.weight, block.conv2d.bias, padding=1, groups=block.d_inner
    )
    inner = F.silu(convolved).permute(0, 2, 3, 1)
    order = block.order(inner)
    order = order if order.dim() == 3 else order.expand(batch, -1, -1)
    scans = []
    for sample, k in itertools.product(range(batch), range(block.scans)):
        tokens = inner[sample].flatten(0, 1)
        sequence = tokens[order[sample, k]]
        if alpha is not None and block.reweight == "before":
            sequence = sequence * alpha[k]
        read = _naive_scan(block, sequence, k)
        if alpha is not None and block.reweight == "after":
            read = read * alpha[k]
        recovered = torch.empty_like(read)
        recovered[order[sample, k]] = read
        scans.append(recovered.T)
    stacked = torch.stack(scans).unflatten(0, (batch, block.scans))
    y = F.layer_norm(
        stacked.sum(1).transpose(1, 2), (block.d_inner,), block.out_norm.weight, block.out_norm.bias
    )
    return (y.view_as(gate) * F.silu(gate)) @ block.out_proj.weight.T, stacked


ORDERS = {
    "cross": CrossScan(),
    "uncertainty": UncertaintyScan(),
    "subset": UncertaintyScan(measure="mad", scans=("skip_down", "sequential_up")),
    "regions": UncertaintyScan(measure="entropy", region=2),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("reweight", ["off", "before", "after"])
def test_equals_the_equations(order: str, reweight: str) -> None:
    torch.manual_seed(0)
    block = _perturb(SS2D(5, order=ORDERS[order], d_state=3, reweight=reweight).double())
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    factor = None if reweight == "off" else torch.linspace(0.5, 2, block.scans, dtype=torch.float64)
    expected, scans = _naive(
        block, x, None if factor is None or block.alpha is None else block.alpha * factor
    )
    torch.testing.assert_close(block(x, factor), expected, rtol=1e-9, atol=1e-10)
    y, found = block.forward_with_scans(x, factor)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found, scans, rtol=1e-9, atol=1e-10)


def test_gradients_equal_those_of_the_equations() -> None:
    torch.manual_seed(1)
    block = _perturb(SS2D(3, order=UncertaintyScan(), d_state=2, reweight="before").double())
    x = torch.randn(1, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    inputs = [x, *block.parameters()]
    weights = torch.randn(1, 3, 3, 3, dtype=torch.float64)
    ours = torch.autograd.grad((block(x) * weights).sum(), inputs)
    theirs = torch.autograd.grad((_naive(block, x, block.alpha)[0] * weights).sum(), inputs)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("reweight", ["off", "before", "after"])
def test_single_precision_is_near_double(reweight: str) -> None:
    torch.manual_seed(0)
    block = _perturb(SS2D(24, order=UncertaintyScan(), reweight=reweight))
    x = torch.randn(2, 6, 5, 24, requires_grad=True)
    y = block(x)
    y.sum().backward()
    gradient = x.grad
    exact = block.double()
    wide = x.detach().double().requires_grad_()
    expected = exact(wide)
    expected.sum().backward()
    torch.testing.assert_close(y, expected.float(), rtol=1e-3, atol=1e-4)
    assert gradient is not None
    assert wide.grad is not None
    torch.testing.assert_close(gradient, wide.grad.float(), rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class _Identity:
    """UD-Mamba's sequences of a list that is not sorted."""

    names: Sequence[str] = SCANS

    def __call__(self, features: Tensor) -> Tensor:
        batch, height, width, _ = features.shape
        return uncertainty_orders(raster(height * width).expand(batch, -1), width)


def test_with_identity_ranks_it_is_the_cross_scan() -> None:
    torch.manual_seed(0)
    plain = _perturb(SS2D(8))
    other = SS2D(8, order=_Identity())  # type: ignore[arg-type]
    other.load_state_dict(plain.state_dict())
    x = torch.randn(2, 5, 4, 8)
    assert torch.equal(other(x), plain(x))


def test_alphas_of_one_change_nothing() -> None:
    torch.manual_seed(0)
    plain = _perturb(SS2D(8, order=UncertaintyScan()))
    x = torch.randn(2, 5, 4, 8)
    for reweight in ("before", "after", "idle"):
        other = SS2D(8, order=UncertaintyScan(), reweight=reweight)
        other.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(other(x), plain(x))


@pytest.mark.parametrize(("order", "equivariant"), [(UncertaintyScan(), True), (CrossScan(), False)])
def test_only_uncertainty_scans_do_not_care_where_pixels_lie(order: object, equivariant: bool) -> None:
    torch.manual_seed(0)
    block = _perturb(SS2D(8, order=order))  # type: ignore[arg-type]
    inner = torch.randn(1, 4, 5, 16)
    shuffle = torch.randperm(20)
    shuffled = inner.flatten(1, 2)[:, shuffle].view_as(inner)
    straight, moved = block.scan(inner)[..., shuffle], block.scan(shuffled)
    difference = (straight - moved).abs().max().item()
    assert difference == 0 if equivariant else difference > 1e-2


@pytest.mark.parametrize(
    ("features", "expected"), [(96, 105_408), (192, 339_840), (384, 1_195_776), (768, 4_455_936)]
)
def test_parameter_count(features: int, expected: int) -> None:
    with torch.device("meta"):
        block = SS2D(features)
    norm = 2 * features
    assert sum(parameter.numel() for parameter in block.parameters()) + norm == expected
    assert expected == 6 * features**2 + features * (426 + 16 * math.ceil(features / 16))


def test_parameters_have_the_names_of_vmamba() -> None:
    names = {
        "in_proj.weight", "conv2d.weight", "conv2d.bias", "x_proj_weight", "dt_projs_weight", "dt_projs_bias",
        "A_logs", "Ds", "out_norm.weight", "out_norm.bias", "out_proj.weight",
    }  # fmt: skip
    assert set(SS2D(4).state_dict()) == names
    assert set(SS2D(4, reweight="idle").state_dict()) == names | {"alpha"}


def test_initial_state_space() -> None:
    torch.manual_seed(0)
    block = SS2D(256)
    torch.testing.assert_close(block.A_logs.exp(), torch.arange(1.0, 17.0).expand(4 * 512, 16))
    assert (block.Ds == 1).all()
    step = F.softplus(block.dt_projs_bias)
    assert 1e-3 * (1 - 1e-4) <= step.min() <= step.max() <= 1e-1 * (1 + 1e-4)
    place = (step.log() - math.log(1e-3)) / math.log(100)
    assert place.mean().item() == pytest.approx(0.5, abs=0.03)
    for weight, bound in ((block.dt_projs_weight, 16**-0.5), (block.x_proj_weight, 512**-0.5)):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_it_stays_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    block = SS2D(8, order=UncertaintyScan())
    x = torch.randn(1, 4, 4, 8)
    expected = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block(x), expected)
        assert block(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("reweight", ["off", "before", "idle"])
def test_every_parameter_in_use_gets_a_gradient(reweight: str) -> None:
    torch.manual_seed(0)
    block = _perturb(SS2D(6, order=UncertaintyScan(), reweight=reweight))
    block(torch.randn(2, 3, 5, 6)).square().sum().backward()
    for name, parameter in block.named_parameters():
        idle = reweight == "idle" and name == "alpha"
        assert (parameter.grad is None) == idle, name
        assert idle or parameter.grad.abs().max() > 0, name
