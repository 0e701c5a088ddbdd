"""U-Mamba: a residual U-Net with Mamba in the bottleneck or along the encoder, in both published forms.

The released code has two generations. The first (January 2024, `_v1` here) is what the paper describes. The
second (March 2024, `umamba_bot` and `umamba_enc` here) is what its repository trains since then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from torch import nn

from scanseg.blocks.conv import ConvNorm, initialize_convolutions, residual_stage, zero_last_norms
from scanseg.blocks.dims import layers
from scanseg.blocks.mamba import MambaLayer
from scanseg.blocks.unet import Decoder, Encoder, NearestUpsample, UNet
from scanseg.networks.registry import Option, register_network
from scanseg.networks.stages import stage_table
from scanseg.networks.topology import Topology, per_stage, positive_integer

PAPER = (
    "Ma J, Li F, Wang B. U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation. "
    "arXiv:2401.04722 (2024)."
)
_COMMON_DIFFERENCES = (
    "The Mamba layers run in float32 under every autocast; the released code does so for some types and in "
    "some variants only.",
    "The encoder's weights stand in the state_dict once; the released code stores them twice.",
    "The arguments are left as they are; the released code overwrites the plan's block counts.",
)
_V2_DIFFERENCES = (
    *_COMMON_DIFFERENCES,
    "The 1x1 convolution of the decoder comes before the nearest-neighbour enlargement, not after it: the "
    "same values for a fraction of memory and time.",
)
_OPTIONS = {
    "features_per_stage": Option(None, "channels of each stage; None doubles from base_features"),
    "base_features": Option(32, "channels of the first stage"),
    "max_features": Option(None, "limit of the channels; None is 320 in 3D, 512 in 2D"),
    "n_blocks_encoder": Option(2, "residual blocks per encoder stage, one number or one per stage"),
    "n_blocks_decoder": Option(
        2, "residual blocks per decoder stage from the coarsest, one number or one per stage"
    ),
    "d_state": Option(16, "states per channel of Mamba"),
    "d_conv": Option(4, "taps of Mamba's causal convolution"),
    "expand": Option(2, "inner width of Mamba relative to its input"),
    "mamba_residual": Option(
        False, "add the input of each Mamba layer to its output (ours, not in the paper)"
    ),
    "mamba_out_norm": Option(False, "LayerNorm on the output of each Mamba layer (ours, not in the paper)"),
    "checkpoint": Option(
        False, "compute Mamba layers again in the backward pass instead of keeping their values"
    ),
}
_OPTIONS_V2 = _OPTIONS | {
    "reduce_deep_stages": Option(True, "one block in the deep stages, whatever n_blocks say (as released)"),
}


@dataclass(frozen=True)
class _Variant:
    """What distinguishes the four U-Mambas."""

    first_generation: bool
    mamba_along_encoder: bool


@dataclass(frozen=True)
class _Layout:
    """The counts of a U-Mamba: per encoder stage, except `decoder_blocks`, which starts at the coarsest."""

    features: tuple[int, ...]
    encoder_blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    tokens: tuple[str, ...]
    concatenate: tuple[bool, ...]


def _layout(
    topology: Topology,
    variant: _Variant,
    *,
    features_per_stage: Sequence[int] | None = None,
    base_features: int = 32,
    max_features: int | None = None,
    n_blocks_encoder: int | Sequence[int] = 2,
    n_blocks_decoder: int | Sequence[int] = 2,
    reduce_deep_stages: bool = True,
) -> _Layout:
    n = topology.n_stages
    features = topology.features(features_per_stage, base_features=base_features, max_features=max_features)
    encoder = per_stage("n_blocks_encoder", n_blocks_encoder, n)
    decoder = per_stage("n_blocks_decoder", n_blocks_decoder, n - 1)
    if reduce_deep_stages and not variant.first_generation:
        encoder = tuple(1 if stage >= ceil(n / 2) else count for stage, count in enumerate(encoder))
        first = ceil((n - 1) / 2 + 0.5)
        decoder = tuple(1 if depth >= first else count for depth, count in enumerate(decoder))
    # In 2D the released second generation leaves the full-resolution skip out.
    skip_last = variant.first_generation or topology.spatial_dims == 3
    concatenate = (True,) * (n - 2) + (skip_last,)
    return _Layout(features, encoder, decoder, _tokens(topology, variant, features), concatenate)


def _tokens(topology: Topology, variant: _Variant, features: tuple[int, ...]) -> tuple[str, ...]:
    """Returns per encoder stage `patch`, `channel`, or nothing where there is no Mamba layer."""
    n = topology.n_stages
    if not variant.mamba_along_encoder:
        return ("",) * (n - 1) + ("patch",)
    if variant.first_generation:
        return ("patch",) * n
    kinds = (
        "channel" if prod(size) <= width else "patch"
        for size, width in zip(topology.map_sizes, features, strict=True)
    )
    every = 2 if topology.spatial_dims == 2 else 1
    return tuple(kind if (n - 1 - stage) % every == 0 else "" for stage, kind in enumerate(kinds))


def _build(
    topology: Topology,
    variant: _Variant,
    *,
    deep_supervision: bool,
    d_state: int = 16,
    d_conv: int = 4,
    expand: int = 2,
    mamba_residual: bool = False,
    mamba_out_norm: bool = False,
    checkpoint: bool = False,
    **sizes: Any,
) -> UNet:
    layout = _layout(topology, variant, **sizes)
    mamba = {
        "d_state": positive_integer("d_state", d_state),
        "d_conv": positive_integer("d_conv", d_conv),
        "expand": positive_integer("expand", expand),
        "residual": bool(mamba_residual),
        "out_norm": bool(mamba_out_norm),
        "checkpoint": bool(checkpoint),
    }
    table = stage_table(
        topology,
        layout.features,
        stem_blocks=1 if variant.first_generation else layout.encoder_blocks[0],
        encoder_blocks=layout.encoder_blocks,
        decoder_blocks=layout.decoder_blocks,
        tokens=layout.tokens,
        encoder_parts=("stages", "mixers"),
        decoder_parts=("upsamplers", "stages", "heads"),
    )
    network = UNet(
        _encoder(topology, variant, layout, mamba),
        _decoder(topology, variant, layout, deep_supervision=deep_supervision),
        in_channels=topology.in_channels,
        strides=topology.strides,
        stage_table=table,
    )
    initialize_convolutions(network)
    if variant.first_generation and variant.mamba_along_encoder:
        zero_last_norms(network)
    return network


def _encoder(topology: Topology, variant: _Variant, layout: _Layout, mamba: dict[str, Any]) -> Encoder:
    dims, features = topology.spatial_dims, layout.features
    ones = (1,) * dims
    stem: nn.Module
    if variant.first_generation:
        stem = ConvNorm(dims, topology.in_channels, features[0], kernel_size=topology.kernel_sizes[0])
    else:
        stem = residual_stage(
            dims,
            topology.in_channels,
            features[0],
            kernel_size=topology.kernel_sizes[0],
            stride=ones,
            blocks=layout.encoder_blocks[0],
            first_shortcut="conv",
        )
    stages = [
        residual_stage(
            dims,
            features[max(stage - 1, 0)],
            features[stage],
            kernel_size=topology.kernel_sizes[stage],
            stride=topology.strides[stage],
            blocks=layout.encoder_blocks[stage],
            first_shortcut="pool" if variant.first_generation else "conv",
        )
        for stage in range(topology.n_stages)
    ]
    return Encoder(
        stem, stages, [_mixer(topology, layout, stage, mamba) for stage in range(topology.n_stages)]
    )


def _mixer(topology: Topology, layout: _Layout, stage: int, mamba: dict[str, Any]) -> nn.Module:
    token = layout.tokens[stage]
    if not token:
        return nn.Identity()
    if token == "patch":
        return MambaLayer(layout.features[stage], **mamba)
    size = topology.map_sizes[stage]
    return MambaLayer(prod(size), map_size=size, patch_size=topology.patch_size, **mamba)


def _decoder(topology: Topology, variant: _Variant, layout: _Layout, *, deep_supervision: bool) -> Decoder:
    dims, features, kinds = topology.spatial_dims, layout.features, layers(topology.spatial_dims)
    upsamplers: list[nn.Module] = []
    stages: list[nn.Module] = []
    heads: list[nn.Module] = []
    for depth, blocks in enumerate(layout.decoder_blocks):
        stage = topology.n_stages - 2 - depth
        below, here, stride = features[stage + 1], features[stage], topology.strides[stage + 1]
        if variant.first_generation:
            upsamplers.append(kinds.transposed_conv(below, here, stride, stride))
        else:
            upsamplers.append(NearestUpsample(dims, below, here, stride=stride))
        stages.append(
            residual_stage(
                dims,
                2 * here if layout.concatenate[depth] else here,
                here,
                kernel_size=topology.kernel_sizes[stage],
                stride=(1,) * dims,
                blocks=blocks,
                first_shortcut="pool" if variant.first_generation else "conv",
            )
        )
        heads.append(kinds.conv(here, topology.out_channels, 1))
    return Decoder(
        upsamplers, stages, heads, concatenate=layout.concatenate, deep_supervision=deep_supervision
    )


@register_network(
    "umamba_bot",
    summary="U-Mamba with one Mamba layer in the bottleneck, as released in March 2024",
    paper=PAPER,
    source="bowang-lab/U-Mamba 28459e3, UMambaBot_2d.py and UMambaBot_3d.py",
    differences=(*_V2_DIFFERENCES,),
    options=_OPTIONS_V2,
)
def umamba_bot(topology: Topology, *, deep_supervision: bool = False, **options: Any) -> UNet:
    """Builds U-Mamba Bot as released in March 2024."""
    variant = _Variant(first_generation=False, mamba_along_encoder=False)
    return _build(topology, variant, deep_supervision=deep_supervision, **options)


@register_network(
    "umamba_enc",
    summary="U-Mamba with Mamba layers along the encoder, as released in March 2024; fixed to its patch size",
    paper=PAPER,
    source="bowang-lab/U-Mamba 28459e3, UMambaEnc_2d.py and UMambaEnc_3d.py",
    differences=(
        *_V2_DIFFERENCES,
        "As in the released code, small maps are read with channels as tokens, so the network accepts only "
        "the patch size it was made for; umamba_enc_v1 accepts any.",
    ),
    options=_OPTIONS_V2,
)
def umamba_enc(topology: Topology, *, deep_supervision: bool = False, **options: Any) -> UNet:
    """Builds U-Mamba Enc as released in March 2024."""
    variant = _Variant(first_generation=False, mamba_along_encoder=True)
    return _build(topology, variant, deep_supervision=deep_supervision, **options)


@register_network(
    "umamba_bot_v1",
    summary="U-Mamba with one Mamba layer in the bottleneck, as the paper describes it",
    paper=PAPER,
    source="The paper, section 2.2 and figure 1; bowang-lab/U-Mamba 92a741a where it is silent",
    differences=_COMMON_DIFFERENCES,
    options=_OPTIONS,
)
def umamba_bot_v1(topology: Topology, *, deep_supervision: bool = False, **options: Any) -> UNet:
    """Builds U-Mamba Bot of the paper."""
    variant = _Variant(first_generation=True, mamba_along_encoder=False)
    return _build(topology, variant, deep_supervision=deep_supervision, **options)


@register_network(
    "umamba_enc_v1",
    summary="U-Mamba with a Mamba layer after every encoder stage, as the paper describes it",
    paper=PAPER,
    source="The paper, section 2.2 and figure 1; bowang-lab/U-Mamba 92a741a where it is silent",
    differences=(
        *_COMMON_DIFFERENCES,
        "The paper expands the sequence to (B, 2L, C); like the released code this expands the channels to "
        "(B, L, 2C).",
    ),
    options=_OPTIONS,
)
def umamba_enc_v1(topology: Topology, *, deep_supervision: bool = False, **options: Any) -> UNet:
    """Builds U-Mamba Enc of the paper."""
    variant = _Variant(first_generation=True, mamba_along_encoder=True)
    return _build(topology, variant, deep_supervision=deep_supervision, **options)
