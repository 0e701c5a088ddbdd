"""U-Mamba: parameter counts, layouts, token decisions, shapes and initialisation of both generations."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from scanseg.blocks.conv import ResidualBlock
from scanseg.blocks.mamba import MambaLayer
from scanseg.errors import UsageError
from scanseg.networks import count_parameters, create_network

VARIANTS = ("umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1")
_ONES = {2: (1, 1), 3: (1, 1, 1)}


def _steps(text: str, spatial_dims: int) -> tuple[tuple[int, ...], ...]:
    return (_ONES[spatial_dims], *(tuple(map(int, entry)) for entry in text.split()))


def _config(
    patch: tuple[int, ...], classes: int, strides: str, *, first_kernel: str = "", channels: int = 1
) -> dict[str, Any]:
    dims = len(patch)
    steps = _steps(strides, dims)
    kernels = [(3,) * dims for _ in steps]
    if first_kernel:
        kernels[0] = tuple(map(int, first_kernel))
    return {
        "spatial_dims": dims,
        "in_channels": channels,
        "out_channels": classes,
        "patch_size": patch,
        "strides": steps,
        "kernel_sizes": kernels,
    }


CONFIGS = {
    "abdomen ct": _config((40, 224, 192), 14, "122 222 222 222 122", first_kernel="133"),
    "abdomen ct, all kernels 3": _config((40, 224, 192), 14, "122 222 222 222 122"),
    "abdomen mr": _config((48, 160, 224), 14, "122 222 222 222 122", first_kernel="133"),
    "acdc": _config((20, 256, 224), 4, "122 222 222 122 122", first_kernel="133"),
    "isotropic": _config((128, 128, 128), 3, "222 222 222 222 222"),
    "abdomen mr 2d": _config((320, 320), 14, "22 22 22 22 22 22"),
    "endoscopy": _config((384, 640), 8, "22 22 22 22 22 22", channels=3),
    "microscopy": _config((512, 512), 3, "22 22 22 22 22 22 22", channels=3),
    "toy 2d": _config((64, 64), 2, "22 22 22"),
    "toy 3d": _config((32, 32, 32), 2, "222 222 222"),
}
PARAMETERS = {
    "abdomen ct": (41_945_158, 42_842_798, 57_832_166, 59_105_766),
    "abdomen ct, all kernels 3": (42_130_054, 43_027_694, 57_998_630, 59_272_230),
    "abdomen mr": (41_945_158, 42_842_798, 57_832_166, 59_105_766),
    "acdc": (41_937_108, 43_056_788, 57_496_436, 58_770_036),
    "isotropic": (42_121_199, 42_751_727, 58_407_567, 59_681_167),
    "abdomen mr 2d": (47_533_012, 47_015_538, 63_344_180, 67_333_428),
    "endoscopy": (47_524_592, 47_680_592, 63_335_696, 67_324_944),
    "microscopy": (64_797_301, 64_014_261, 86_150_037, 91_835_029),
    "toy 2d": (2_814_854, 2_442_118, 4_421_222, 4_580_710),
    "toy 3d": (7_323_078, 7_077_062, 12_021_926, 12_181_414),
}


def _meta(name: str, **arguments: Any) -> Any:
    with torch.device("meta"):
        return create_network(name, **arguments)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts_are_those_of_the_released_code(variant: str, config: str) -> None:
    expected = PARAMETERS[config][VARIANTS.index(variant)]
    assert count_parameters(_meta(variant, **CONFIGS[config])) == expected


def _blocks(stages: nn.ModuleList) -> list[int]:
    return [sum(isinstance(part, ResidualBlock) for part in stage) for stage in stages]


def _stacked(n: int, spatial_dims: int) -> dict[str, Any]:
    """Arguments for n stages on an image so large that every map stays larger than its channels."""
    strides = " ".join(["2" * spatial_dims] * (n - 1))
    return _config((2 ** (n + 6 - spatial_dims),) * spatial_dims, 2, strides)


@pytest.mark.parametrize(
    ("n", "encoder", "decoder"),
    [
        (4, [2, 2, 1, 1], [2, 2, 1]),
        (5, [2, 2, 2, 1, 1], [2, 2, 2, 1]),
        (6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]),
        (7, [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1]),
        (8, [2, 2, 2, 2, 1, 1, 1, 1], [2, 2, 2, 2, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_stage_layout(n: int, encoder: list[int], decoder: list[int], spatial_dims: int) -> None:
    for variant in VARIANTS:
        network = _meta(variant, **_stacked(n, spatial_dims))
        first_generation = variant.endswith("_v1")
        assert _blocks(network.encoder.stages) == ([2] * n if first_generation else encoder)
        assert _blocks(network.decoder.stages) == ([2] * (n - 1) if first_generation else decoder)
        stem = [part for part in network.encoder.stem.modules() if isinstance(part, ResidualBlock)]
        assert len(stem) == (0 if first_generation else 2)


_EVERY_SECOND = {4: {1, 3}, 5: {0, 2, 4}, 6: {1, 3, 5}, 7: {0, 2, 4, 6}, 8: {1, 3, 5, 7}}


@pytest.mark.parametrize("n", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_where_mamba_stands(n: int, spatial_dims: int) -> None:
    expected = {
        "umamba_bot": {n - 1},
        "umamba_bot_v1": {n - 1},
        "umamba_enc": _EVERY_SECOND[n] if spatial_dims == 2 else set(range(n)),
        "umamba_enc_v1": set(range(n)),
    }
    for variant, places in expected.items():
        mixers = _meta(variant, **_stacked(n, spatial_dims)).encoder.mixers
        assert {stage for stage, mixer in enumerate(mixers) if isinstance(mixer, MambaLayer)} == places


@pytest.mark.parametrize(
    ("config", "channel_tokens", "patch_tokens"),
    [
        ("abdomen ct", {5: 210}, {0: 32, 1: 64, 2: 128, 3: 256, 4: 320}),
        ("abdomen mr", {5: 210}, {0: 32, 1: 64, 2: 128, 3: 256, 4: 320}),
        ("acdc", {5: 280}, {0: 32, 1: 64, 2: 128, 3: 256, 4: 320}),
        ("isotropic", {5: 64}, {0: 32, 1: 64, 2: 128, 3: 256, 4: 320}),
        ("abdomen mr 2d", {4: 400, 6: 25}, {0: 32, 2: 128}),
        ("endoscopy", {6: 60}, {0: 32, 2: 128, 4: 512}),
        ("microscopy", {5: 256, 7: 16}, {1: 64, 3: 256}),
    ],
)
def test_which_maps_are_read_with_channels_as_tokens(
    config: str, channel_tokens: dict[int, int], patch_tokens: dict[int, int]
) -> None:
    mixers = _meta("umamba_enc", **CONFIGS[config]).encoder.mixers
    found: dict[str, dict[int, int]] = {"channel": {}, "patch": {}}
    for stage, mixer in enumerate(mixers):
        if isinstance(mixer, MambaLayer):
            found[mixer.token][stage] = mixer.mamba.d_model
    assert found == {"channel": channel_tokens, "patch": patch_tokens}
    for variant in ("umamba_bot", "umamba_bot_v1", "umamba_enc_v1"):
        layers = [m for m in _meta(variant, **CONFIGS[config]).encoder.mixers if isinstance(m, MambaLayer)]
        assert all(layer.token == "patch" for layer in layers)


_SMALL = {"base_features": 4, "max_features": 8}
_ANISOTROPIC = _config((8, 64, 64), 2, "122 222 122", first_kernel="133")


@pytest.mark.parametrize("variant", VARIANTS)
def test_deep_supervision_goes_from_fine_to_coarse(variant: str) -> None:
    flat = _meta(variant, **CONFIGS["toy 2d"], deep_supervision=True, **_SMALL)
    sizes = [tuple(output.shape) for output in _run(flat, (1, 1, 64, 64))]
    assert sizes == [(1, 2, 64, 64), (1, 2, 32, 32), (1, 2, 16, 16)]
    deep = _meta(variant, **_ANISOTROPIC, deep_supervision=True, **_SMALL)
    sizes = [tuple(output.shape[2:]) for output in _run(deep, (1, 1, 8, 64, 64))]
    assert sizes == [(8, 64, 64), (8, 32, 32), (4, 16, 16)]


def _run(network: Any, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Forward on the meta device, where the scan is replaced by its shape."""
    for mixer in network.encoder.mixers:
        if isinstance(mixer, MambaLayer):
            mixer.mamba = nn.Identity()
    return network(torch.empty(shape, device="meta"))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("spatial_dims", "joined"), [(2, [True, True, False]), (3, [True, True, True])])
def test_only_the_second_generation_in_2d_leaves_the_finest_skip_out(
    spatial_dims: int, joined: list[bool]
) -> None:
    config = CONFIGS[f"toy {spatial_dims}d"]
    for variant in VARIANTS:
        decoder = _meta(variant, **config).decoder
        widths = [stage[0].block1.conv.in_channels for stage in decoder.stages]
        expected = [True] * 3 if variant.endswith("_v1") else joined
        assert widths == [
            (2 if both else 1) * width for both, width in zip(expected, (128, 64, 32), strict=True)
        ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_convolutions_start_kaiming_normal(variant: str) -> None:
    torch.manual_seed(0)
    network = create_network(variant, **CONFIGS["toy 2d"])
    seen = 0
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            assert not part.bias.any() if part.bias is not None else True
            if part.weight.numel() > 4000:
                fan_in = part.weight[0].numel()
                expected = math.sqrt(2 / (1 + 1e-4) / fan_in)
                assert part.weight.std().item() == pytest.approx(expected, rel=0.08)
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_enc_v1_starts_its_blocks_as_shortcuts(variant: str) -> None:
    network = create_network(variant, **CONFIGS["toy 2d"], **_SMALL)
    blocks = [part for part in network.modules() if isinstance(part, ResidualBlock)]
    zero = [not block.block2.norm.weight.any() for block in blocks]
    assert all(zero) if variant == "umamba_enc_v1" else not any(zero)
    assert all(block.block1.norm.weight.all() for block in blocks)


def test_arguments_are_never_changed() -> None:
    arguments: dict[str, Any] = {
        "patch_size": [32, 32],
        "strides": [[1, 1], [2, 2], [2, 2], [2, 2]],
        "kernel_sizes": [[3, 3]] * 4,
        "features_per_stage": [4, 8, 8, 8],
        "n_blocks_encoder": [2, 2, 2, 2],
        "n_blocks_decoder": [2, 2, 2],
    }
    before = copy.deepcopy(arguments)
    _meta("umamba_enc", spatial_dims=2, in_channels=1, out_channels=2, **arguments)
    assert arguments == before


def test_block_counts_are_nominal_unless_the_reduction_is_off() -> None:
    counts = {"n_blocks_encoder": [3, 1, 2, 4], "n_blocks_decoder": [2, 3, 4]}
    reduced = _meta("umamba_bot", **CONFIGS["toy 2d"], **counts)
    assert _blocks(reduced.encoder.stages) == [3, 1, 1, 1]
    assert _blocks(reduced.decoder.stages) == [2, 3, 1]
    exact = _meta("umamba_bot", **CONFIGS["toy 2d"], **counts, reduce_deep_stages=False)
    assert _blocks(exact.encoder.stages) == [3, 1, 2, 4]
    assert _blocks(exact.decoder.stages) == [2, 3, 4]


def test_mamba_options_reach_every_layer() -> None:
    network = _meta(
        "umamba_enc",
        **CONFIGS["toy 3d"],
        **_SMALL,
        d_state=5,
        d_conv=3,
        expand=1,
        mamba_residual=True,
        mamba_out_norm=True,
    )
    for mixer in network.encoder.mixers:
        assert (mixer.mamba.d_state, mixer.mamba.d_conv) == (5, 3)
        assert mixer.mamba.d_inner == mixer.mamba.d_model
        assert mixer.residual
        assert isinstance(mixer.out_norm, nn.LayerNorm)
    plain = _meta("umamba_enc", **CONFIGS["toy 3d"], **_SMALL).encoder.mixers
    assert not any(mixer.residual or isinstance(mixer.out_norm, nn.LayerNorm) for mixer in plain)


def test_patch_token_variants_accept_any_size_that_the_strides_divide() -> None:
    arguments: dict[str, Any] = {**CONFIGS["toy 2d"], "base_features": 4}
    x = torch.randn(1, 1, 24, 16)
    for variant in ("umamba_bot", "umamba_bot_v1", "umamba_enc_v1"):
        assert create_network(variant, **arguments)(x).shape == (1, 2, 24, 16)


def test_enc_names_its_patch_size_when_fed_another() -> None:
    arguments = {**CONFIGS["toy 2d"], "patch_size": (32, 32), "base_features": 8}
    network = create_network("umamba_enc", **arguments)
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    with pytest.raises(UsageError, match=r"\(32, 32\).*umamba_enc_v1"):
        network(torch.randn(1, 1, 32, 48))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("features_per_stage", [4, 8]),
        ("base_features", 0),
        ("max_features", -1),
        ("n_blocks_encoder", [2, 2]),
        ("n_blocks_decoder", [2, 2, 2, 2]),
        ("n_blocks_encoder", None),
        ("d_state", 0),
        ("d_conv", 1.5),
        ("expand", "2"),
    ],
)
def test_wrong_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match=option):
        create_network("umamba_enc", **CONFIGS["toy 2d"], **{option: value})
