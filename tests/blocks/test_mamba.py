"""The Mamba block against a loop over tokens written from its definition, and the layer around it."""

import math

import pytest
import torch
from torch import Tensor, nn

from scanseg.blocks.mamba import MambaBlock, MambaLayer, narrow_linear
from scanseg.errors import UsageError


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _naive_mamba(block: MambaBlock, tokens: Tensor) -> Tensor:
    """One sequence (L, C), token by token, state by state, in float64."""
    weights = {name: value.detach().double() for name, value in block.state_dict().items()}
    rank, states, taps = block.dt_rank, block.d_state, block.d_conv
    decay = -torch.exp(weights["A_log"])
    hidden = torch.zeros(block.d_inner, states, dtype=torch.float64)
    history = [torch.zeros(block.d_inner, dtype=torch.float64)] * (taps - 1)
    outputs = []
    for token in tokens.double():
        projected = weights["in_proj.weight"] @ token
        x, gate = projected[: block.d_inner], projected[block.d_inner :]
        history.append(x)
        window = torch.stack(history[-taps:], dim=1)
        u = _silu((window * weights["conv1d.weight"][:, 0]).sum(1) + weights["conv1d.bias"])
        small = weights["x_proj.weight"] @ u
        dt, b, c = small[:rank], small[rank : rank + states], small[rank + states :]
        delta = torch.log1p(torch.exp(weights["dt_proj.weight"] @ dt + weights["dt_proj.bias"]))
        for d in range(block.d_inner):
            for n in range(states):
                hidden[d, n] = torch.exp(delta[d] * decay[d, n]) * hidden[d, n] + delta[d] * b[n] * u[d]
        y = (hidden * c).sum(1) + weights["D"] * u
        outputs.append(weights["out_proj.weight"] @ (y * _silu(gate)))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("d_model", "length", "options"),
    [
        (5, 7, {}),
        (3, 1, {}),
        (4, 3, {}),
        (17, 4, {"d_state": 3}),
        (4, 6, {"d_state": 1, "d_conv": 2, "expand": 3}),
        (2, 5, {"d_conv": 1, "expand": 1}),
    ],
)
def test_equals_the_loop_over_tokens(d_model: int, length: int, options: dict[str, int]) -> None:
    torch.manual_seed(d_model)
    block = MambaBlock(d_model, **options).double()
    tokens = torch.randn(2, length, d_model, dtype=torch.float64)
    expected = torch.stack([_naive_mamba(block, sequence) for sequence in tokens])
    torch.testing.assert_close(block(tokens), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(block.float()(tokens.float()), expected.float(), rtol=1e-4, atol=1e-5)


def test_weights_of_another_implementation_give_its_output() -> None:
    mambapy = pytest.importorskip("mambapy.mamba")
    torch.manual_seed(0)
    config = mambapy.MambaConfig(d_model=24, n_layers=1, d_state=16, expand_factor=2, d_conv=4, pscan=False)
    other, block = mambapy.MambaBlock(config), MambaBlock(24)
    block.load_state_dict(other.state_dict(), strict=True)
    tokens = torch.randn(2, 50, 24)
    torch.testing.assert_close(block(tokens), other(tokens), rtol=1e-4, atol=1e-6)


def test_a_token_sees_the_past_and_itself_only() -> None:
    torch.manual_seed(0)
    block = MambaBlock(6).double()
    tokens = torch.randn(1, 12, 6, dtype=torch.float64, requires_grad=True)
    block(tokens)[0, 7].sum().backward()
    assert tokens.grad is not None
    reach = tokens.grad[0].abs().sum(1)
    assert not reach[8:].any()
    assert (reach[:8] > 0).all()


@pytest.mark.parametrize("d_model", [32, 64, 128, 256, 320])
def test_parameter_count(d_model: int) -> None:
    with torch.device("meta"):
        block = MambaBlock(d_model)
    count = sum(parameter.numel() for parameter in block.parameters())
    assert count == 6 * d_model**2 + d_model * (110 + 4 * math.ceil(d_model / 16))


def test_parameter_names_are_those_of_mamba_ssm() -> None:
    assert set(MambaBlock(4).state_dict()) == {
        "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight",
        "dt_proj.bias", "out_proj.weight",
    }  # fmt: skip


def test_initial_state_space() -> None:
    torch.manual_seed(0)
    block = MambaBlock(512)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 17.0).expand(1024, 16))
    assert (block.D == 1).all()
    step = nn.functional.softplus(block.dt_proj.bias)
    assert step.min() >= 1e-3 * (1 - 1e-4)
    assert step.max() <= 1e-1 * (1 + 1e-4)
    place = (step.log() - math.log(1e-3)) / math.log(100)
    assert place.mean().item() == pytest.approx(0.5, abs=0.04)
    assert place.var().item() == pytest.approx(1 / 12, rel=0.1)
    bound = block.dt_rank**-0.5
    assert block.dt_proj.weight.abs().max() <= bound
    assert block.dt_proj.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_a_checkpointed_layer_gives_the_same_output_and_gradients() -> None:
    torch.manual_seed(0)
    plain, again = MambaLayer(6), MambaLayer(6, checkpoint=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6, 3, 4, 5)
    found = []
    for layer in (plain, again):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        found.append((y, *torch.autograd.grad(y.square().sum(), [leaf, *layer.parameters()])))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_patch_tokens_are_read_in_row_major_order() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(5)
    x = torch.randn(2, 5, 2, 3, 4)
    tokens = torch.stack([x[:, :, i, j, k] for i in range(2) for j in range(3) for k in range(4)], dim=1)
    y = layer.mamba(layer.norm(tokens))
    expected = torch.stack(
        [torch.stack([torch.stack([y[:, (i * 3 + j) * 4 + k] for k in range(4)], -1) for j in range(3)], -2)
         for i in range(2)], -3
    )  # fmt: skip
    torch.testing.assert_close(layer(x), expected)


def test_channel_tokens_are_patch_tokens_of_the_transposed_map() -> None:
    torch.manual_seed(0)
    channel = MambaLayer(6, map_size=(2, 3))
    patch = MambaLayer(6)
    patch.load_state_dict(channel.state_dict())
    x = torch.randn(2, 9, 2, 3)
    transposed = x.flatten(2).transpose(1, 2).unsqueeze(-1)
    torch.testing.assert_close(
        channel(x), patch(transposed).squeeze(-1).transpose(1, 2).reshape(x.shape), rtol=1e-5, atol=1e-6
    )
    assert (channel.token, patch.token) == ("channel", "patch")


@pytest.mark.parametrize("size", [(3, 2), (2, 4), (1, 6)])
def test_channel_tokens_refuse_another_size(size: tuple[int, int]) -> None:
    layer = MambaLayer(6, map_size=(2, 3), patch_size=(32, 48))
    with pytest.raises(UsageError, match=r"\(32, 48\).*umamba_enc_v1") as caught:
        layer(torch.randn(1, 9, *size))
    assert caught.value.code == "E-NETWORK-PATCH"


def test_residual_adds_the_input_and_out_norm_bounds_the_output() -> None:
    torch.manual_seed(0)
    plain, residual = MambaLayer(4), MambaLayer(4, residual=True)
    residual.load_state_dict(plain.state_dict())
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(residual(x), x + plain(x))
    normed = MambaLayer(4, out_norm=True)(1e3 * x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(1, 5, 6), atol=1e-5, rtol=0)
    assert normed.square().mean(1).max() <= 1 + 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_layer_stays_in_float32_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MambaLayer(8)
    x = torch.randn(1, 8, 4, 4).to(dtype)
    expected = layer(x.float())
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)


def test_a_layer_converted_to_bfloat16_runs() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(8)
    x = torch.randn(1, 8, 4, 4)
    expected = layer(x)
    y = layer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert ((y.float() - expected).norm() / expected.norm()).item() < 0.05


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    block = MambaBlock(2, d_state=2).double()
    x = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(block.parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(dict(block.named_parameters()), parameters, strict=True))
        return torch.func.functional_call(block, named, (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_a_narrow_linear_layer_is_a_linear_layer():
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 5, 7, dtype=torch.float64)
    results = [
        (y, *torch.autograd.grad(y, (x, weight), gradient))
        for y in (narrow_linear(x, weight), torch.nn.functional.linear(x, weight))
    ]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
