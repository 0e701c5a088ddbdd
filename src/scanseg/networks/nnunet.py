"""The networks of nnU-Net, from dynamic-network-architectures, behind this package's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from scanseg.blocks.dims import layers
from scanseg.blocks.unet import UNet
from scanseg.networks.registry import Option, register_network
from scanseg.networks.stages import stage_table
from scanseg.networks.topology import Topology, per_stage

_RESENC_BLOCKS = (1, 3, 4, 6)
_FEATURES = {
    "features_per_stage": Option(None, "channels of each stage; None doubles from base_features"),
    "base_features": Option(32, "channels of the first stage"),
    "max_features": Option(None, "limit of the channels; None is 320 in 3D, 512 in 2D"),
}
_DIFFERENCES = (
    "Each weight stands in the state_dict once; nnU-Net stores the encoder twice and every convolution under "
    "two names. Ours are a subset of nnU-Net's names, so its weights and ours fit each other.",
)


def _arguments(topology: Topology, features: tuple[int, ...], deep_supervision: bool) -> dict[str, Any]:
    kinds = layers(topology.spatial_dims)
    return {
        "input_channels": topology.in_channels,
        "n_stages": topology.n_stages,
        "features_per_stage": features,
        "conv_op": kinds.conv,
        "kernel_sizes": topology.kernel_sizes,
        "strides": topology.strides,
        "num_classes": topology.out_channels,
        "conv_bias": True,
        "norm_op": kinds.instance_norm,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": deep_supervision,
    }


def _wrap(
    network: Any,
    topology: Topology,
    features: tuple[int, ...],
    encoder: tuple[int, ...],
    decoder: tuple[int, ...],
) -> UNet:
    network.apply(network.initialize)
    table = stage_table(
        topology,
        features,
        stem_blocks=1 if hasattr(network.encoder, "stem") else 0,
        encoder_blocks=encoder,
        decoder_blocks=decoder,
        encoder_parts=("stages",),
        decoder_parts=("transpconvs", "stages", "seg_layers"),
    )
    _drop_aliases(network)
    return UNet(
        network.encoder,
        network.decoder,
        in_channels=topology.in_channels,
        strides=topology.strides,
        stage_table=table,
    )


def _drop_aliases(network: Any) -> None:
    """Takes second names of modules out of the module tree; they stay plain attributes."""
    for module in network.modules():
        sequence = getattr(module, "all_modules", None)
        if isinstance(sequence, nn.Sequential):
            for name in [name for name in module._modules if name != "all_modules"]:
                _demote(module, name)
    _demote(network.decoder, "encoder")


def _demote(module: nn.Module, name: str) -> None:
    child = module._modules.pop(name)
    object.__setattr__(module, name, child)


@register_network(
    "nnunet_plain",
    summary="The U-Net that nnU-Net trains by default",
    paper=(
        "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for "
        "deep learning-based biomedical image segmentation. Nature Methods 18:203-211 (2021)."
    ),
    source="PlainConvUNet of dynamic-network-architectures",
    differences=_DIFFERENCES,
    options=_FEATURES
    | {
        "n_blocks_encoder": Option(2, "convolutions per encoder stage, one number or one per stage"),
        "n_blocks_decoder": Option(
            2, "convolutions per decoder stage from the coarsest, one number or one per stage"
        ),
    },
)
def nnunet_plain(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    n_blocks_encoder: int | Sequence[int] = 2,
    n_blocks_decoder: int | Sequence[int] = 2,
    **sizes: Any,
) -> UNet:
    """Builds nnU-Net's plain U-Net."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    features = topology.features(**sizes)
    encoder = per_stage("n_blocks_encoder", n_blocks_encoder, topology.n_stages)
    decoder = per_stage("n_blocks_decoder", n_blocks_decoder, topology.n_stages - 1)
    network = PlainConvUNet(
        n_conv_per_stage=encoder,
        n_conv_per_stage_decoder=decoder,
        **_arguments(topology, features, deep_supervision),
    )
    return _wrap(network, topology, features, encoder, decoder)


@register_network(
    "nnunet_resenc",
    summary="nnU-Net's U-Net with a residual encoder",
    paper=(
        "Isensee F, Wald T, Ulrich C, et al. nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical "
        "Image Segmentation. MICCAI (2024)."
    ),
    source="ResidualEncoderUNet of dynamic-network-architectures, blocks as in nnU-Net's ResEnc planners",
    differences=_DIFFERENCES,
    options=_FEATURES
    | {
        "n_blocks_encoder": Option(None, "residual blocks per encoder stage; None is 1, 3, 4, 6, 6, ..."),
        "n_blocks_decoder": Option(
            1, "convolutions per decoder stage from the coarsest, one number or one per stage"
        ),
    },
)
def nnunet_resenc(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    n_blocks_encoder: int | Sequence[int] | None = None,
    n_blocks_decoder: int | Sequence[int] = 1,
    **sizes: Any,
) -> UNet:
    """Builds nnU-Net's U-Net with a residual encoder."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    features = topology.features(**sizes)
    n = topology.n_stages
    default = tuple(_RESENC_BLOCKS[min(stage, 3)] for stage in range(n))
    encoder = per_stage("n_blocks_encoder", default if n_blocks_encoder is None else n_blocks_encoder, n)
    decoder = per_stage("n_blocks_decoder", n_blocks_decoder, n - 1)
    network = ResidualEncoderUNet(
        n_blocks_per_stage=encoder,
        n_conv_per_stage_decoder=decoder,
        **_arguments(topology, features, deep_supervision),
    )
    return _wrap(network, topology, features, encoder, decoder)
