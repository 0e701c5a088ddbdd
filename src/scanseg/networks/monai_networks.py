"""SegResNet, UNETR and SwinUNETR: MONAI's modules behind this package's interface."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scanseg.blocks.fit import Fit
from scanseg.blocks.unet import Stage
from scanseg.errors import UsageError
from scanseg.networks.mamba_unet import SINGLE_OUTPUT
from scanseg.networks.pyramid import FIT_OPTIONS, block_counts, drop_rate, row
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology, per_stage, positive_integer
from scanseg.optional import require

_GROUPS = 8
_VIT_PATCH = 16
_VIT_LAYERS = 12
_SWIN_HEADS = (3, 6, 12, 24)
_SWIN_MULTIPLE = 32


class MonaiNetwork(nn.Module):
    """A network of MONAI with the checks at the edge.

    Args:
        network: Maps (B, C, *spatial) to logits (B, classes, *spatial).
        fit: Which images it takes.
        stage_table: One row per stage, its modules named below `network`.

    Attributes:
        deep_supervision: Whether forward returns a list of one.
        stage_table: One row per stage, for people.
    """

    def __init__(self, network: nn.Module, fit: Fit, stage_table: Sequence[Stage]) -> None:
        super().__init__()
        self.network, self.fit, self.deep_supervision = network, fit, False
        self.stage_table = tuple(stage_table)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        logits = self.fit.leave(self.network(self.fit.enter(x)), x.shape[2:])
        return [logits] if self.deep_supervision else logits


def _network_class(name: str, file: str, kind: str) -> Callable[..., nn.Module]:
    require("monai", extra="monai", purpose=f"The network {name}")
    made: Callable[..., nn.Module] = getattr(importlib.import_module(f"monai.networks.nets.{file}"), kind)
    return made


def _wrapped(
    network: nn.Module, fit: Fit, stage_table: Sequence[Stage], *, deep_supervision: bool
) -> MonaiNetwork:
    wrapped = MonaiNetwork(network, fit, stage_table)
    wrapped.deep_supervision = deep_supervision
    return wrapped


def _row(name: str, topology: Topology, features: int, modules: Sequence[str], **facts: Any) -> Stage:
    return row(name, topology, features, [f"network.{module}" for module in modules], **facts)


@register_network(
    "segresnet",
    summary="SegResNet: a residual U-Net with a large encoder and a small decoder (MONAI)",
    paper=(
        "Myronenko A. 3D MRI Brain Tumor Segmentation Using Autoencoder Regularization. "
        "BrainLes, MICCAI workshop (2018)."
    ),
    plan_driven=False,
    source="monai.networks.nets.SegResNet of MONAI 1.6.1; widths and blocks as U-Mamba's repository uses it",
    differences=(
        "Without the paper's autoencoder branch, which MONAI's SegResNet leaves out.",
        "The paper is in 3D; MONAI's module exists in 2D too.",
        SINGLE_OUTPUT,
    ),
    options={
        "base_features": Option(32, "channels of the first stage (MONAI's init_filters); they double"),
        "n_blocks_encoder": Option((1, 2, 2, 4), "residual blocks per encoder stage, finest first"),
        "n_blocks_decoder": Option(
            1, "residual blocks per decoder stage from the coarsest, one number or one per stage"
        ),
        "dropout": Option(0.0, "rate of whole channels dropped after the first convolution"),
        **FIT_OPTIONS,
    },
)
def segresnet(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 32,
    n_blocks_encoder: Sequence[int] = (1, 2, 2, 4),
    n_blocks_decoder: int | Sequence[int] = 1,
    dropout: float = 0.0,
    pad_to_fit: bool = False,
) -> MonaiNetwork:
    """Builds SegResNet."""
    width = positive_integer("base_features", base_features)
    down = block_counts("n_blocks_encoder", n_blocks_encoder)
    up = per_stage("n_blocks_decoder", n_blocks_decoder, len(down) - 1)
    dims, rate = topology.spatial_dims, drop_rate("dropout", dropout)
    fit = Fit(topology.in_channels, 2 ** (len(down) - 1), pad=bool(pad_to_fit), spatial_dims=dims)
    fit.check_patch(topology.patch_size)
    network = _network_class("segresnet", "segresnet", "SegResNet")(
        spatial_dims=dims,
        init_filters=width,
        in_channels=topology.in_channels,
        out_channels=topology.out_channels,
        dropout_prob=rate or None,
        # Narrower networks than MONAI's groups allow get fewer groups.
        norm=("GROUP", {"num_groups": gcd(_GROUPS, width)}),
        blocks_down=down,
        blocks_up=up,
    )
    table = _segresnet_table(topology, width, down, up)
    return _wrapped(network, fit, table, deep_supervision=deep_supervision)


def _segresnet_table(
    topology: Topology, width: int, down: tuple[int, ...], up: tuple[int, ...]
) -> list[Stage]:
    rows = [_row("stem", topology, width, ("convInit",), reduction=1, kernel=3)]
    for stage, blocks in enumerate(down):
        modules = (f"down_layers.{stage}",)
        facts = {"reduction": 2**stage, "stride": 2 if stage else 1, "kernel": 3, "blocks": blocks}
        rows.append(_row(f"encoder {stage}", topology, width * 2**stage, modules, **facts))
    for depth, blocks in enumerate(up):
        stage = len(up) - 1 - depth
        parts = (f"up_samples.{depth}", f"up_layers.{depth}")
        facts = {"reduction": 2**stage, "stride": 2, "kernel": 3, "blocks": blocks}
        rows.append(_row(f"decoder {stage}", topology, width * 2**stage, parts, **facts))
    return [*rows, _row("head", topology, topology.out_channels, ("conv_final",), reduction=1)]


@register_network(
    "unetr",
    summary="UNETR: a vision transformer under a convolutional decoder; fixed to its patch size (MONAI)",
    paper=(
        "Hatamizadeh A, Tang Y, Nath V, et al. UNETR: Transformers for 3D Medical Image Segmentation. "
        "WACV (2022), arXiv:2103.10504."
    ),
    plan_driven=False,
    source="monai.networks.nets.UNETR of MONAI 1.6.1",
    differences=(
        "MONAI builds a LayerNorm for cross attention in each of the 12 layers, which nothing reads. It is "
        "kept, so that MONAI's weights fit, and frozen: 18,432 values of the default network are not "
        "counted as parameters.",
        "The paper is in 3D; MONAI's module exists in 2D too.",
        SINGLE_OUTPUT,
    ),
    options={
        "base_features": Option(
            16, "channels of the finest decoder stage (MONAI's feature_size); they double"
        ),
        "hidden_size": Option(768, "width of a token"),
        "mlp_dim": Option(3072, "inner width of the layers behind each attention"),
        "num_heads": Option(12, "heads of each attention; hidden_size must be a multiple"),
        "dropout": Option(0.0, "rate of dropout in the transformer"),
        **FIT_OPTIONS,
    },
)
def unetr(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 16,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
    dropout: float = 0.0,
    pad_to_fit: bool = False,
) -> MonaiNetwork:
    """Builds UNETR."""
    width, hidden = (
        positive_integer("base_features", base_features),
        positive_integer("hidden_size", hidden_size),
    )
    heads, rate = positive_integer("num_heads", num_heads), drop_rate("dropout", dropout)
    if hidden % heads:
        raise UsageError(
            f"hidden_size must be a multiple of num_heads, got {hidden} and {heads}.",
            code="E-NETWORK-ARGUMENT",
        )
    patch, dims = topology.patch_size, topology.spatial_dims
    fit = Fit(topology.in_channels, _VIT_PATCH, pad=bool(pad_to_fit), spatial_dims=dims, only=patch)
    fit.check_patch(patch)
    network = _network_class("unetr", "unetr", "UNETR")(
        in_channels=topology.in_channels,
        out_channels=topology.out_channels,
        img_size=fit.padded(patch),
        feature_size=width,
        hidden_size=hidden,
        mlp_dim=positive_integer("mlp_dim", mlp_dim),
        num_heads=heads,
        dropout_rate=rate,
        spatial_dims=dims,
    )
    _freeze_unread(network)
    table = _unetr_table(topology, width, hidden)
    return _wrapped(network, fit, table, deep_supervision=deep_supervision)


def _freeze_unread(network: Any) -> None:
    """Freezes the norms that MONAI builds and nothing reads, and drops what MONAI 1.5 builds beside them."""
    for block in network.vit.blocks:
        block.norm_cross_attn.requires_grad_(False)
        block.cross_attn = nn.Identity()


def _unetr_table(topology: Topology, width: int, hidden: int) -> list[Stage]:
    tokens = {"reduction": _VIT_PATCH}
    rows = [
        _row(
            "stem",
            topology,
            hidden,
            ("vit.patch_embedding",),
            stride=_VIT_PATCH,
            kernel=_VIT_PATCH,
            **tokens,
        ),
        _row("transformer", topology, hidden, ("vit.blocks", "vit.norm"), blocks=_VIT_LAYERS, **tokens),
    ]
    # The skips are made of the tokens behind layers 10, 7 and 4, and of the image.
    for stage in (3, 2, 1, 0):
        modules = (f"decoder{stage + 2}", f"encoder{stage + 1}")
        facts = {"reduction": 2**stage, "stride": 2, "kernel": 3, "blocks": 2 if stage == 0 else 4 - stage}
        rows.append(_row(f"decoder {stage}", topology, width * 2**stage, modules, **facts))
    return [*rows, _row("head", topology, topology.out_channels, ("out",), reduction=1)]


@register_network(
    "swin_unetr",
    summary="SwinUNETR: a Swin transformer under a convolutional decoder (MONAI)",
    paper=(
        "Hatamizadeh A, Nath V, Tang Y, Yang D, Roth HR, Xu D. Swin UNETR: Swin Transformers for Semantic "
        "Segmentation of Brain Tumors in MRI Images. BrainLes, MICCAI workshop (2021), arXiv:2201.01266."
    ),
    plan_driven=False,
    source="monai.networks.nets.SwinUNETR of MONAI 1.6.1 with 48 features, its first version",
    differences=("The paper is in 3D; MONAI's module exists in 2D too.", SINGLE_OUTPUT),
    options={
        "base_features": Option(
            48, "width of the first stage (MONAI's feature_size), a multiple of 12; it doubles"
        ),
        "drop_path_rate": Option(0.0, "highest rate of stochastic depth while training; it rises from 0"),
        "dropout": Option(0.0, "rate of dropout in the transformer"),
        "checkpoint": Option(
            False, "compute each transformer block again in the backward pass: less memory, more time"
        ),
        **FIT_OPTIONS,
    },
)
def swin_unetr(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    base_features: int = 48,
    drop_path_rate: float = 0.0,
    dropout: float = 0.0,
    checkpoint: bool = False,
    pad_to_fit: bool = False,
) -> MonaiNetwork:
    """Builds SwinUNETR."""
    width = positive_integer("base_features", base_features)
    if width % 12:
        raise UsageError(
            f"base_features of swin_unetr must be a multiple of 12, got {width}.", code="E-NETWORK-ARGUMENT"
        )
    dims, pad = topology.spatial_dims, bool(pad_to_fit)
    fit = Fit(topology.in_channels, _SWIN_MULTIPLE, pad=pad, spatial_dims=dims, smallest=2)
    fit.check_patch(topology.patch_size)
    make = _network_class("swin_unetr", "swin_unetr", "SwinUNETR")
    with _RatesHaveValues():
        network = make(
            in_channels=topology.in_channels,
            out_channels=topology.out_channels,
            num_heads=_SWIN_HEADS,
            feature_size=width,
            drop_rate=drop_rate("dropout", dropout),
            dropout_path_rate=drop_rate("drop_path_rate", drop_path_rate),
            use_checkpoint=bool(checkpoint),
            spatial_dims=dims,
        )
    return _wrapped(network, fit, _swin_unetr_table(topology, width), deep_supervision=deep_supervision)


class _RatesHaveValues(TorchFunctionMode):
    """Keeps `torch.linspace` on the CPU, because SwinUNETR reads its rates of stochastic depth from one.

    Without it the network cannot be made on the meta device, which holds no values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def _swin_unetr_table(topology: Topology, width: int) -> list[Stage]:
    rows = [_row("stem", topology, width, ("swinViT.patch_embed",), reduction=2, stride=2, kernel=2)]
    for stage in range(4):
        # Each stage ends with the merging that halves its map.
        facts = {"reduction": 4 * 2**stage, "stride": 2, "blocks": 2}
        modules = (f"swinViT.layers{stage + 1}",)
        rows.append(_row(f"encoder {stage}", topology, width * 2 ** (stage + 1), modules, **facts))
    bottom = {"reduction": 32, "kernel": 3, "blocks": 1}
    rows.append(_row("bottleneck", topology, 16 * width, ("encoder10",), **bottom))
    for level, skip in ((4, ""), (3, "encoder4"), (2, "encoder3"), (1, "encoder2"), (0, "encoder1")):
        modules = (f"decoder{level + 1}", *((skip,) if skip else ()))
        facts = {"reduction": 2**level, "stride": 2, "kernel": 3, "blocks": len(modules)}
        rows.append(_row(f"decoder {level}", topology, width * 2 ** max(level - 1, 0), modules, **facts))
    return [*rows, _row("head", topology, topology.out_channels, ("out",), reduction=1)]
