"""UD-Mamba: Mamba-UNet's body read in the order of channel uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.blocks.ss2d import SS2D
from scanseg.blocks.vss import Scanning
from scanseg.networks.mamba_unet import SINGLE_OUTPUT, MambaUNet
from scanseg.networks.pyramid import PYRAMID_OPTIONS, REPEAT_OPTION, make_pyramid, one_of
from scanseg.networks.registry import Option, register_network
from scanseg.networks.topology import Topology
from scanseg.scans import SCANS, UncertaintyScan, region_size

# Option value: what the alphas do in the encoder, in the decoder, and whether the network has its own.
_ALPHAS = {
    "before_s6": ("before", "before"),
    "after_encoder": ("after", "idle"),
    "off": ("off", "off"),
}
_LAYERS = ("last", "all")


@dataclass(frozen=True)
class ScanReading:
    """How one block reads a batch.

    Attributes:
        name: Of the block.
        uncertainty: What its tokens are ranked by, (B, *spatial); with `std` on single pixels the variance.
        order: Of its scans, (B, K, L).
    """

    name: str
    uncertainty: Tensor
    order: Tensor


class UDMamba(nn.Module):
    """Mamba-UNet's body with uncertainty-driven scans, and what its consistency loss needs.

    Args:
        body: The network proper.
        alpha: See the option; with `before_s6` the network's own four weights multiply those of each block.
        consistency_layer: Whose scans `forward_with_aux` returns: the `last` decoder stage's, or `all`.
        scans: Names of the scans.

    Attributes:
        stage_table: One row per stage, for people.
    """

    def __init__(self, body: MambaUNet, *, alpha: str, consistency_layer: str, scans: Sequence[str]) -> None:
        super().__init__()
        self.body, self._alpha, self.scans = body, alpha, tuple(scans)
        count = len(body.stages)
        self._kept = range(count) if consistency_layer == "all" else (count - 1,)
        shared = {} if alpha == "off" else {"alpha": nn.Parameter(torch.ones(len(self.scans)))}
        self.shared = nn.ParameterDict(shared)
        self.stage_table = tuple(
            replace(
                row, modules=(*(f"body.{part}" for part in row.modules), *(("shared",) if not index else ()))
            )
            for index, row in enumerate(body.stage_table)
        )

    @property
    def deep_supervision(self) -> bool:
        """Whether forward returns a list of one."""
        return self.body.deep_supervision

    @deep_supervision.setter
    def deep_supervision(self, value: bool) -> None:
        self.body.deep_supervision = bool(value)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Maps images (B, in_channels, *spatial) to logits (B, classes, *spatial), or a list of them.

        Raises:
            UsageError: Wrong number of axes or channels, or a size that does not fit.
        """
        return self.body.run(x, factor=self._factor())[0]

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor | list[Tensor], dict[str, Any]]:
        """Returns the logits and what `scanseg.losses.consistency` takes.

        Keys of the second: `scans`, per kept decoder stage (coarse to fine) and block the results of the
        scans at the tokens' positions, (B, K, D, L), before they are added; `scan_names`, the K names.
        """
        logits, kept = self.body.run(x, factor=self._factor(), keep=self._kept)
        return logits, {"scans": kept, "scan_names": self.scans}

    def alphas(self) -> Tensor:
        """Returns the weights of the scans in use, (blocks, K), without gradient."""
        factor = self._factor()
        used = [part for part in self.modules() if isinstance(part, SS2D)]
        rows = [
            part.alpha if factor is None else part.alpha * factor
            for part in used
            if part.alpha is not None and part.reweight != "idle"
        ]
        return torch.stack(rows).detach() if rows else torch.empty(0, len(self.scans))

    @torch.no_grad()
    def read(self, x: Tensor) -> list[ScanReading]:
        """Returns what every block sees in images (B, in_channels, *spatial), in the order they run."""
        found: list[ScanReading] = []

        def hook(name: str, block: SS2D, inputs: tuple[Tensor, ...]) -> None:
            inner = block.inner(inputs[0])
            found.append(ScanReading(name, block.order.uncertainty(inner), block.order(inner)))  # type: ignore[attr-defined]

        handles = [
            part.register_forward_pre_hook(partial(hook, name))
            for name, part in self.named_modules()
            if isinstance(part, SS2D)
        ]
        try:
            self(x)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _factor(self) -> Tensor | None:
        return self.shared["alpha"] if self._alpha == "before_s6" else None


@register_network(
    "ud_mamba",
    summary="UD-Mamba: a U of VSS blocks that read pixels in the order of channel uncertainty (3D is ours)",
    paper=(
        "Zhao W, Wang F, Wang Y, Xie Y, Wu Q, Zhou Y. UD-Mamba: A Pixel-level Uncertainty-driven Mamba Model "
        "for Medical Image Segmentation. arXiv:2502.02024 (2025)."
    ),
    plan_driven=False,
    source="The paper, section 3; piooip/UD-mamba f8aa3b8 where it is silent",
    differences=(
        "The uncertainty is the standard deviation, as in the paper; the released code computes the mean "
        "absolute deviation (uncertainty=mad).",
        "The alphas multiply the sequences before the scan in every block, as in equations 11 and 12 of the "
        "paper; the released code multiplies the results, in the encoder only (alpha=after_encoder).",
        "The paper has four alphas, the released code four in each block and four at the top that it never "
        "uses. Here the weight of a scan is the product of the block's and the network's; both start at 1.",
        "The sort is stable; the released code's is not, so equal uncertainties come in any order there.",
        "The paper's text names alpha 3 and 4 high to low, its equations low to high; this follows the "
        "equations.",
        "Neither paper nor code know volumes. The 3D form is an extension of ours: cubes for squares, and a "
        "skip scan at the interval of the last side.",
        SINGLE_OUTPUT,
        "The VSS blocks run in float32 under every autocast.",
        "It starts from random weights; the paper starts its encoder from VMamba's of ImageNet.",
    ),
    options=PYRAMID_OPTIONS
    | REPEAT_OPTION
    | {
        "uncertainty": Option("std", "std (paper), mad (released code), variance, entropy or range"),
        "range_sign": Option(1, "-1: with uncertainty=range a small range counts as uncertain"),
        "region": Option(
            1, "side of the squares ranked as a whole, or `proportional` or `inverse` (table 6)"
        ),
        "scans": Option(SCANS, "the scans in use, y1 to y4 of the paper"),
        "alpha": Option("before_s6", "weights of the scans: before_s6 (paper), after_encoder (code) or off"),
        "consistency_layer": Option(
            "last", "decoder stages whose scans the consistency loss sees: last (paper) or all (code)"
        ),
    },
)
def ud_mamba(
    topology: Topology,
    *,
    deep_supervision: bool = False,
    uncertainty: str = "std",
    range_sign: int = 1,
    region: int | str = 1,
    scans: Sequence[str] = SCANS,
    alpha: str = "before_s6",
    consistency_layer: str = "last",
    repeat_gray: bool = True,
    **sizes: Any,
) -> UDMamba:
    """Builds UD-Mamba."""
    pyramid = make_pyramid(topology, repeat_gray=repeat_gray, **sizes)
    in_encoder, in_decoder = _ALPHAS[one_of("alpha", alpha, tuple(_ALPHAS))]
    one_of("consistency_layer", consistency_layer, _LAYERS)
    stages = len(pyramid.depths)

    def scanning(stage: int, reweight: str) -> Scanning:
        order = UncertaintyScan(
            measure=uncertainty,
            region=region_size(region, stage=stage, stages=stages),
            range_sign=range_sign,
            scans=tuple(scans),
        )
        return replace(pyramid.scanning, order=order, reweight=reweight)

    body = MambaUNet(
        topology,
        pyramid,
        encoder_scannings=[scanning(stage, in_encoder) for stage in range(stages)],
        decoder_scannings=[scanning(stage, in_decoder) for stage in reversed(range(stages - 1))],
    )
    body.deep_supervision = deep_supervision
    return UDMamba(body, alpha=alpha, consistency_layer=consistency_layer, scans=scans)
