"""VMamba's weights by name and shape, on tensors made here under the names of the published file."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scanseg.errors import UsageError
from scanseg.networks import create_network
from scanseg.networks.pretrained import load_vmamba

ARGUMENTS: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "patch_size": (64, 64)}
WIDTH = 16
NETWORKS = ("ud_mamba", "mamba_unet", "vm_unet", "swin_umamba_d")


def _file(width: int = WIDTH, depths: tuple[int, ...] = (2, 2, 9, 2)) -> dict[str, Tensor]:
    """Random tensors under the names of VMamba's first version."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "patch_embed.norm.weight": (width,),
        "patch_embed.norm.bias": (width,),
    }
    for stage, depth in enumerate(depths):
        d = width * 2**stage
        inner, rank = 2 * d, -(-d // 16)
        block = {
            "ln_1.weight": (d,),
            "ln_1.bias": (d,),
            "self_attention.x_proj_weight": (4, rank + 32, inner),
            "self_attention.dt_projs_weight": (4, inner, rank),
            "self_attention.dt_projs_bias": (4, inner),
            "self_attention.A_logs": (4 * inner, 16),
            "self_attention.Ds": (4 * inner,),
            "self_attention.in_proj.weight": (2 * inner, d),
            "self_attention.conv2d.weight": (inner, 1, 3, 3),
            "self_attention.conv2d.bias": (inner,),
            "self_attention.out_norm.weight": (inner,),
            "self_attention.out_norm.bias": (inner,),
            "self_attention.out_proj.weight": (d, inner),
        }
        for index in range(depth):
            shapes |= {f"layers.{stage}.blocks.{index}.{name}": shape for name, shape in block.items()}
        if stage + 1 < len(depths):
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * d, 4 * d)
            shapes |= {f"layers.{stage}.downsample.norm.{part}": (4 * d,) for part in ("weight", "bias")}
    last = width * 2 ** (len(depths) - 1)
    shapes |= {"norm.weight": (last,), "norm.bias": (last,), "head.weight": (10, last), "head.bias": (10,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_of_the_encoder_arrives(name: str) -> None:
    options = {"repeat_gray": True} if name != "swin_umamba_d" else {"in_channels": 3}
    network: Any = create_network(name, **ARGUMENTS | options, base_features=WIDTH)
    tensors = _file()
    report = load_vmamba(network, tensors)
    encoder = network.body.encoder if name == "ud_mamba" else network.encoder
    assert torch.equal(encoder.patch_embed.proj.weight, tensors["patch_embed.proj.weight"])
    assert torch.equal(
        encoder.stages[2].blocks[1].self_attention.x_proj_weight,
        tensors["layers.2.blocks.1.self_attention.x_proj_weight"],
    )
    assert torch.equal(encoder.merges[1].reduction.weight, tensors["layers.1.downsample.reduction.weight"])
    assert all(fresh.endswith("alpha") for fresh in report.fresh)
    assert {key for key in report.unused if key.startswith(("norm", "head"))} == {
        "norm.weight", "norm.bias", "head.weight", "head.bias",
    }  # fmt: skip
    left = {key.split(".")[3] for key in report.unused if key.startswith("layers")}
    assert left == (set() if name == "swin_umamba_d" else {"2", "3", "4", "5", "6", "7", "8"})
    assert len(report.loaded) + len(report.unused) == len(tensors)


def test_the_patch_embedding_can_stay_fresh() -> None:
    network: Any = create_network("swin_umamba", **ARGUMENTS, base_features=WIDTH)
    before = network.encoder.patch_embed.proj.weight.clone()
    with pytest.raises(UsageError, match=r"1 of another shape: patch_embed\.proj\.weight is"):
        load_vmamba(network, _file())
    report = load_vmamba(network, _file(), patch_embedding=False)
    assert torch.equal(network.encoder.patch_embed.proj.weight, before)
    assert set(report.fresh) == {
        f"patch_embed.{part}" for part in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")
    }


def test_what_does_not_fit_is_listed_and_nothing_changes() -> None:
    network: Any = create_network("mamba_unet", **ARGUMENTS, base_features=WIDTH)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tensors = _file()
    del tensors["layers.0.blocks.1.ln_1.bias"]
    tensors["layers.3.blocks.0.self_attention.Ds"] = torch.zeros(3)
    with pytest.raises(UsageError) as caught:
        load_vmamba(network, tensors)
    assert "1 missing: stages.0.blocks.1.ln_1.bias" in caught.value.message
    assert "layers.3.blocks.0.self_attention.Ds is (3,), needed is (1024,)" in caught.value.message
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_networks_without_the_encoder_are_refused() -> None:
    with pytest.raises(UsageError, match="one VSS encoder, got LightHUNet"):
        load_vmamba(create_network("hunet_light", **ARGUMENTS, base_features=2), _file())
