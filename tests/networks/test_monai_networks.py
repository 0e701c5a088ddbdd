"""The networks of MONAI: parameters, sizes, and that they are MONAI's own."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.networks import NETWORKS, count_parameters, create_network

pytest.importorskip("monai", reason="MONAI is an extra")

NAMES = ("segresnet", "unetr", "swin_unetr")
WHOLE: dict[str, Any] = {"in_channels": 1, "out_channels": 14}
SMALL: dict[str, Any] = {"spatial_dims": 2, "in_channels": 2, "out_channels": 3, "patch_size": (32, 64)}
SIZES: dict[str, dict[str, Any]] = {
    "segresnet": {"base_features": 8},
    "unetr": {"base_features": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 3},
    "swin_unetr": {"base_features": 12},
}


def _whole(name: str, patch: tuple[int, ...], **options: Any) -> Any:
    with torch.device("meta"):
        return create_network(name, spatial_dims=len(patch), patch_size=patch, **WHOLE, **options)


def _small(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return create_network(name, **SMALL | SIZES[name] | changes).eval()


@pytest.mark.parametrize(
    ("name", "patch", "expected"),
    [
        ("segresnet", (320, 320), 6_298_926),
        ("segresnet", (48, 224, 192), 18_796_398),
        ("unetr", (320, 320), 87_444_622),
        ("unetr", (48, 224, 192), 93_023_662),
        ("swin_unetr", (320, 320), 25_138_568),
        ("swin_unetr", (96, 224, 192), 62_187_296),
    ],
)
def test_parameter_counts_are_those_of_monai(name: str, patch: tuple[int, ...], expected: int) -> None:
    network = _whole(name, patch)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    # Twelve norms of 768 features that nothing reads.
    unread = 12 * 2 * 768 if name == "unetr" else 0
    assert count_parameters(network) == expected - unread


def test_only_the_norms_that_nothing_reads_are_frozen() -> None:
    frozen = [key for key, value in _small("unetr").named_parameters() if not value.requires_grad]
    names = [
        f"network.vit.blocks.{layer}.norm_cross_attn.{part}"
        for layer in range(12)
        for part in ("weight", "bias")
    ]
    assert frozen == names


def _of_monai(name: str, size: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.segresnet import SegResNet
    from monai.networks.nets.swin_unetr import SwinUNETR
    from monai.networks.nets.unetr import UNETR

    common = {"spatial_dims": 2, "in_channels": 2, "out_channels": 3}
    if name == "segresnet":
        return SegResNet(init_filters=8, **common).eval()
    if name == "swin_unetr":
        return SwinUNETR(feature_size=12, **common).eval()
    return UNETR(img_size=size, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=3, **common).eval()


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_logits_are_those_of_monai(name: str) -> None:
    torch.manual_seed(1)
    theirs = _of_monai(name, (32, 64))
    ours = _small(name)
    ours.network.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 2, 32, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_image_is_the_image_with_zeros_around_it(name: str) -> None:
    network = _small(name, pad_to_fit=True)
    x = torch.randn(1, 2, 29, 58)
    padded = torch.zeros(1, 2, 32, 64)
    padded[..., :29, :58] = x
    assert torch.equal(network(x), network(padded)[..., :29, :58])


@pytest.mark.parametrize(("name", "multiple"), [("segresnet", 8), ("unetr", 16), ("swin_unetr", 32)])
def test_other_patches_are_refused_with_those_that_work(name: str, multiple: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of {multiple}") as caught:
        _small(name, patch_size=(30, 64))
    assert "(32, 64)" in caught.value.hint
    assert "pad_to_fit" in caught.value.hint


def test_swin_unetr_has_a_smallest_size() -> None:
    with pytest.raises(UsageError, match="coarsest map must have 2 elements"):
        _small("swin_unetr", patch_size=(32, 32))
    network = _small("swin_unetr")
    with pytest.raises(UsageError, match=re.escape("(32, 32) is too small")) as caught:
        network(torch.zeros(1, 2, 32, 32))
    assert "(32, 64)" in caught.value.hint
    assert _small("swin_unetr", pad_to_fit=True)(torch.zeros(1, 2, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("pad", [False, True])
def test_unetr_takes_the_size_it_was_made_for(pad: bool) -> None:
    network = _small("unetr", pad_to_fit=pad)
    with pytest.raises(UsageError, match=re.escape("not the patch size (32, 64)")):
        network(torch.zeros(1, 2, 64, 64))


@pytest.mark.parametrize("name", NAMES)
def test_volumes_and_deep_supervision(name: str) -> None:
    arguments = {"spatial_dims": 3, "patch_size": (32, 32, 64), "deep_supervision": True}
    (logits,) = _small(name, **arguments)(torch.randn(1, 2, 32, 32, 64))
    assert logits.shape == (1, 3, 32, 32, 64)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("swin_unetr", "base_features", 16, "multiple of 12, got 16"),
        ("swin_unetr", "drop_path_rate", 1.5, r"in \[0, 1\)"),
        ("unetr", "num_heads", 5, "multiple of num_heads, got 24 and 5"),
        ("unetr", "hidden_size", 0, "positive integer"),
        ("segresnet", "n_blocks_encoder", (1, 0), "positive integer"),
        ("segresnet", "n_blocks_decoder", (1, 1), "needs 3 entries"),
    ],
)
def test_wrong_options_are_refused(name: str, option: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _small(name, **{option: value})


def test_segresnet_of_two_stages_and_of_few_channels() -> None:
    network = _small("segresnet", base_features=6, n_blocks_encoder=(1, 2), n_blocks_decoder=(3,))
    assert network(torch.randn(1, 2, 6, 4)).shape == (1, 3, 6, 4)
    groups = {part.num_groups for part in network.modules() if isinstance(part, nn.GroupNorm)}
    assert groups == {2}
    assert [row.blocks for row in network.stage_table] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_stochastic_depth_of_swin_unetr_rises(device: str) -> None:
    with torch.device(device):
        network: Any = create_network("swin_unetr", **SMALL, base_features=12, drop_path_rate=0.2)
    rates = [part.drop_prob for part in network.modules() if type(part).__name__ == "DropPath"]
    # The first block drops nothing and has no such part.
    assert rates == pytest.approx([0.2 * block / 7 for block in range(1, 8)])


def test_checkpointing_changes_no_gradient() -> None:
    gradients: list[list[Tensor]] = []
    for checkpoint in (False, True):
        network = _small("swin_unetr", checkpoint=checkpoint).train()
        network(torch.ones(1, 2, 32, 64)).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_monai_names_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanseg.optional.is_installed", lambda module: False)
    with pytest.raises(UsageError, match=f"The network {name} needs the package 'monai'") as caught:
        _small(name)
    assert caught.value.code == "E-EXTRA-MISSING"
    assert "pip install 'scanseg[monai]'" in caught.value.hint


def test_monai_is_not_imported_to_list_networks() -> None:
    import subprocess
    import sys

    code = "import sys, scanseg.networks; assert 'monai' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert set(NAMES) <= set(NETWORKS)
