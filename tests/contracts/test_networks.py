"""What every registered network must do, in 2D and 3D; a new entry is tested as soon as it is registered."""

import copy
import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, create_network

PATCH = {2: (16, 24), 3: (8, 16, 16)}
# Strides that leave odd maps: 3D (4, 10, 6) -> (4, 5, 3), 2D (10, 6) -> (5, 3).
ODD = {
    2: {"patch_size": (10, 6), "strides": ((1, 1), (2, 2))},
    3: {"patch_size": (4, 10, 6), "strides": ((1, 1, 1), (1, 2, 2))},
}
CLASSES, CHANNELS = 3, 2
# Networks that accept only the patch size they were made for.
FIXED_SIZE = {"umamba_enc", "unetr", "transunet"}
# Parameters that nothing reads, kept so that MONAI's weights fit; they must be frozen.
UNREAD = {"unetr": "norm_cross_attn"}
# Small, without chance, and at home in every size; each network takes what it has options for.
SMALL = {
    "base_features": 16,
    "max_features": 64,
    "depths": (1, 1),
    "drop_path_rate": 0.0,
    "dropout": 0.0,
    "pad_to_fit": True,
    "levels": 2,
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_heads": 3,
    "window_size": 4,
    "transformer_depth": 1,
    "resnet_depths": (1, 1),
}
# Where the sizes above do not suit a network.
SMALL_OF = {"swin_unetr": {"base_features": 12}}
CASES = [(name, dims) for name, entry in NETWORKS.items() for dims in entry.spatial_dims]
each = pytest.mark.parametrize(("name", "spatial_dims"), CASES)
PLANNED = [(name, dims) for name, dims in CASES if NETWORKS[name].plan_driven]
each_planned = pytest.mark.parametrize(("name", "spatial_dims"), PLANNED)


def _small(name: str) -> dict[str, Any]:
    wanted = {**SMALL, **SMALL_OF.get(name, {})}
    return {key: value for key, value in wanted.items() if key in NETWORKS[name].options}


def _create(name: str, spatial_dims: int, **arguments: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"patch_size": PATCH[spatial_dims], **_small(name), **arguments}
    return create_network(
        name, spatial_dims=spatial_dims, in_channels=CHANNELS, out_channels=CLASSES, **arguments
    )


@functools.cache
def _shared(name: str, spatial_dims: int) -> Any:
    """A network with every parameter off its starting value; read only."""
    network = _create(name, spatial_dims)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return network.eval()


def _image(spatial_dims: int, *, batch: int = 1, size: tuple[int, ...] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, *(size or PATCH[spatial_dims]), generator=generator)


def _trainable(name: str, network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that must learn: all but the unread ones, which must be frozen."""
    frozen = {key for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {key for key, _ in network.named_parameters() if UNREAD.get(name, "?") in key}
    return {key: parameter for key, parameter in network.named_parameters() if key not in frozen}


def _linear_loss(outputs: list[Tensor]) -> Tensor:
    """A loss whose gradient is dense and random at every output."""
    generator = torch.Generator().manual_seed(2)
    terms = [(output * torch.randn(output.shape, generator=generator)).sum() for output in outputs]
    return torch.stack(terms).sum()


@each
def test_logits_have_the_size_of_the_image(name: str, spatial_dims: int) -> None:
    output = _shared(name, spatial_dims)(_image(spatial_dims))
    assert output.shape == (1, CLASSES, *PATCH[spatial_dims])
    assert output.dtype == torch.float32
    assert output.isfinite().all()


@each
def test_deep_supervision_lists_the_same_logits_first(name: str, spatial_dims: int) -> None:
    network = copy.deepcopy(_shared(name, spatial_dims))
    x = _image(spatial_dims)
    assert network.deep_supervision is False
    expected = network(x)
    network.deep_supervision = True
    outputs = network(x)
    assert network.deep_supervision is True
    assert isinstance(outputs, list)
    assert torch.equal(outputs[0], expected)
    sizes = [output[0, 0].numel() for output in outputs]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    assert all(output.shape[1] == CLASSES for output in outputs)
    assert isinstance(network.train()(x), list)


def _without_effect(network: nn.Module) -> set[str]:
    """Biases of convolutions right before an instance or batch norm: the norm removes them."""
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    norms = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d)
    names = set()
    leaves = [(name, part) for name, part in network.named_modules() if not list(part.children())]
    for (name, part), (_, following) in itertools.pairwise(leaves):
        if isinstance(part, convolutions) and part.bias is not None and isinstance(following, norms):
            names.add(f"{name}.bias")
    return names


@each
def test_every_parameter_gets_a_gradient(name: str, spatial_dims: int) -> None:
    network = copy.deepcopy(_shared(name, spatial_dims)).train()
    network.deep_supervision = True
    x = _image(spatial_dims).requires_grad_()
    _linear_loss(network(x)).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    idle = _without_effect(network)
    for key, parameter in _trainable(name, network).items():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert key in idle or parameter.grad.abs().max() > 0, key


@each
def test_every_parameter_moves(name: str, spatial_dims: int) -> None:
    network = _create(name, spatial_dims, deep_supervision=True)
    before = {key: parameter.clone() for key, parameter in _trainable(name, network).items()}
    # Adam, because its steps show however small a gradient is.
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    # Two steps: behind a norm that starts at zero, gradients arrive in the second.
    for _ in range(2):
        optimizer.zero_grad()
        _linear_loss(network(_image(spatial_dims))).backward()
        optimizer.step()
    idle = _without_effect(network)
    for key, parameter in _trainable(name, network).items():
        assert parameter.isfinite().all(), key
        assert key in idle or not torch.equal(parameter, before[key]), key


@each
def test_samples_of_a_batch_do_not_mix(name: str, spatial_dims: int) -> None:
    network, x = _shared(name, spatial_dims), _image(spatial_dims, batch=2)
    together = network(x)
    alone = torch.cat([network(x[:1]), network(x[1:])])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=5e-3)


@each_planned
def test_odd_maps_are_welcome(name: str, spatial_dims: int) -> None:
    network = _create(name, spatial_dims, **ODD[spatial_dims], deep_supervision=True)
    size: Any = ODD[spatial_dims]["patch_size"]
    outputs = network(_image(spatial_dims, size=size))
    assert outputs[0].shape == (1, CLASSES, *size)
    _linear_loss(outputs).backward()


@each
def test_another_size_works_or_is_refused_clearly(name: str, spatial_dims: int) -> None:
    size = tuple(2 * edge for edge in PATCH[spatial_dims])
    network, x = _shared(name, spatial_dims), _image(spatial_dims, size=size)
    if name in FIXED_SIZE:
        with pytest.raises(UsageError, match=re.escape(str(PATCH[spatial_dims]))):
            network(x)
    else:
        assert network(x).shape[2:] == size


@each_planned
def test_indivisible_sizes_are_refused_clearly(name: str, spatial_dims: int) -> None:
    size = tuple(edge - 1 for edge in PATCH[spatial_dims])
    with pytest.raises(UsageError, match="not divisible"):
        _shared(name, spatial_dims)(_image(spatial_dims, size=size))


@each
def test_weights_go_through_safetensors(name: str, spatial_dims: int, tmp_path: Path) -> None:
    network = _shared(name, spatial_dims)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    copied = _create(name, spatial_dims)
    copied.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    values = sum(value.numel() for value in network.state_dict().values())
    assert values == sum(p.numel() for p in network.parameters()) + sum(b.numel() for b in network.buffers())
    x = _image(spatial_dims)
    assert torch.equal(copied.eval()(x), network(x))


@each
def test_deepcopy_is_equal_and_independent(name: str, spatial_dims: int) -> None:
    network, x = _shared(name, spatial_dims), _image(spatial_dims)
    copied = copy.deepcopy(network)
    expected = network(x)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(network(x), expected)
    assert not torch.equal(copied(x), expected)


@each
def test_evaluation_is_deterministic_and_leaves_the_image_alone(name: str, spatial_dims: int) -> None:
    network, x = _shared(name, spatial_dims), _image(spatial_dims)
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
    assert torch.equal(x, before)


@each
def test_bfloat16_autocast_is_finite_and_close(name: str, spatial_dims: int) -> None:
    network = copy.deepcopy(_shared(name, spatial_dims)).train()
    # Batch norm over the two voxels of a coarsest map would turn rounding into signs.
    normed = any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    size = (64, 96) if normed else None
    if size and name in FIXED_SIZE:
        network = _create(name, spatial_dims, patch_size=size)
    x = _image(spatial_dims, size=size)
    expected = network(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(x)
        loss = output.float().square().mean()
    loss.backward()
    assert output.isfinite().all()
    assert ((output.float() - expected).norm() / expected.norm()).item() < 0.2
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@each
def test_all_classes_from_one_up_and_many_channels(name: str, spatial_dims: int) -> None:
    for channels, classes in ((1, 1), (5, 7)):
        network = create_network(
            name,
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=classes,
            patch_size=PATCH[spatial_dims],
            **_small(name),
        )
        x = torch.randn(1, channels, *PATCH[spatial_dims])
        assert network(x).shape == (1, classes, *PATCH[spatial_dims])
        with pytest.raises(UsageError, match="The network takes"):
            network(torch.randn(1, channels + 1, *PATCH[spatial_dims]))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_equals_eager() -> None:
    network = _create("umamba_enc", 2, patch_size=(8, 12), strides=((1, 1), (2, 2)), n_blocks_encoder=1)
    x = _image(2, size=(8, 12))
    expected = network(x)
    _linear_loss([expected]).backward()
    gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    output = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    _linear_loss([output]).backward()
    for key, parameter in network.named_parameters():
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-3, atol=1e-3)
