"""The scan orders of UD-Mamba: tokens sorted by how much their channels disagree.

Everything here is computed without gradient: an order is a choice, not a function to differentiate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError

# y1 to y4 of the paper (equations 7 to 10). `down` reads from high to low uncertainty, `up` from low to high.
SCANS = ("sequential_down", "skip_down", "sequential_up", "skip_up")
_REGION_RULES = ("proportional", "inverse")


def _variance(x: Tensor) -> Tensor:
    return x.var(-1, correction=0)


def _std(x: Tensor) -> Tensor:
    return _variance(x).sqrt()


def _mad(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)).abs().mean(-1)


def _entropy(x: Tensor) -> Tensor:
    logs = x.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _range(x: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return torch.zeros_like(x[..., 0])
    highest = x.topk(2, -1).values
    return highest[..., 0] - highest[..., 1]


UNCERTAINTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "std": _std,
    "variance": _variance,
    "mad": _mad,
    "entropy": _entropy,
    "range": _range,
}


@torch.no_grad()
def channel_uncertainty(features: Tensor, measure: str = "std", *, range_sign: int = 1) -> Tensor:
    """Returns the uncertainty of each token, (B, *spatial), float32 at least, without gradient.

    Args:
        features: (B, *spatial, C), any float dtype.
        measure: `std` (the paper's choice) and `variance`, both with 1/C; `mad`, the mean absolute deviation
            from the mean (what the released code computes); `entropy` of the softmax over the channels;
            `range`, the difference of the two highest values. With a single channel all are 0.
        range_sign: -1 turns `range` around, so that a small difference counts as uncertain. The paper leaves
            the direction open.

    Raises:
        UsageError: An unknown measure, or a sign other than 1 and -1.

    Source: UD-Mamba, equation 4 and table 5. The paper defines neither the entropy nor the range by a
        formula; these readings are ours.

    Example:
        >>> channel_uncertainty(torch.tensor([[1.0, 3.0]]))
        tensor([1.])
    """
    _check_measure(measure, range_sign)
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    found = UNCERTAINTIES[measure](x)
    return -found if measure == "range" and range_sign == -1 else found


@torch.no_grad()
def rank_tokens(uncertainty: Tensor, *, region: int = 1) -> Tensor:
    """Returns the tokens from the most to the least uncertain, (B, L) int64.

    Tokens of equal uncertainty keep their raster order.

    Args:
        uncertainty: (B, *spatial).
        region: Side of the squares (cubes) that are ranked as a whole by their average; inside, the order is
            row by row. Those at the end of an axis are cut off where the side does not divide the map. A
            side of at least the map's gives the raster order.

    Source: UD-Mamba, equation 5 and section 4.4, "Uncertainty calculation region". The paper does not say in
        which order the tokens of a region are read.

    Example:
        >>> rank_tokens(torch.tensor([[[1.0, 3.0], [2.0, 3.0]]]))
        tensor([[1, 3, 2, 0]])
    """
    if region == 1:
        return uncertainty.flatten(1).argsort(dim=1, descending=True, stable=True)
    sides = [min(region, edge) for edge in uncertainty.shape[1:]]
    pool = functional.avg_pool2d if len(sides) == 2 else functional.avg_pool3d
    means = pool(uncertainty[:, None], sides, ceil_mode=True, count_include_pad=False)
    square = torch.zeros((), dtype=torch.int64, device=uncertainty.device)
    for edge, side, count in zip(uncertainty.shape[1:], sides, means.shape[2:], strict=True):
        place = torch.arange(edge, device=uncertainty.device) // side
        square = square[..., None] * count + place
    square = square.flatten()
    # Tokens of a square stand side by side and share one key, so a stable sort moves squares as wholes.
    by_square = square.argsort(stable=True)
    keys = means.flatten(1)[:, square[by_square]]
    return by_square[keys.argsort(dim=1, descending=True, stable=True)]


def uncertainty_orders(ranked: Tensor, width: int, scans: Sequence[str] = SCANS) -> Tensor:
    """Returns the orders of the named scans, (B, K, L).

    The ranked tokens are laid out row by row, `width` in a row. `sequential` reads them in rank order, `skip`
    column by column, that is every `width`-th rank, starting over one rank later. `up` is the reverse of
    `down`.

    Args:
        ranked: Tokens from high to low uncertainty, (B, L).
        width: Of the map: its last side. That is the paper's code for maps, and our choice for volumes.
        scans: Names out of `SCANS`.

    Source: UD-Mamba, equations 7 to 10; the interval of the skip scan only in the released code (f8aa3b8).

    Example:
        >>> uncertainty_orders(torch.arange(12)[None], 4, ["skip_down"])[0, 0].tolist()
        [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    """
    orders = []
    for name in scans:
        kind, _, direction = name.partition("_")
        order = ranked
        if kind == "skip":
            order = ranked.view(len(ranked), -1, width).transpose(1, 2).flatten(1)
        orders.append(order.flip(1) if direction == "up" else order)
    return torch.stack(orders, dim=1)


def region_size(region: int | str, *, stage: int, stages: int) -> int:
    """Returns the side of the regions in a stage.

    Args:
        region: A fixed side, or a rule: `proportional` is the side of the stage's map divided by that of the
            coarsest (8, 4, 2, 1 in a network of four stages), `inverse` that of the finest map divided by
            the stage's (1, 2, 4, 8).
        stage: 0 is the finest.
        stages: Number of stages; each map has half the side of the one before.

    Raises:
        UsageError: `region` is neither a positive integer nor a rule.

    Source: UD-Mamba, table 6.

    Example:
        >>> [region_size("proportional", stage=stage, stages=4) for stage in range(4)]
        [8, 4, 2, 1]
    """
    if region == "proportional":
        return 1 << (stages - 1 - stage)
    if region == "inverse":
        return 1 << stage
    if not isinstance(region, int) or isinstance(region, bool) or region < 1:
        raise UsageError(
            f"region must be a positive integer, {' or '.join(map(repr, _REGION_RULES))}, got {region!r}.",
            code="E-NETWORK-ARGUMENT",
        )
    return region


@dataclass(frozen=True)
class UncertaintyScan:
    """The orders of UD-Mamba's selective scan, new for every image.

    Attributes:
        measure: See `channel_uncertainty`.
        region: Side of the regions, see `rank_tokens`.
        range_sign: See `channel_uncertainty`.
        scans: The scans in use, out of `SCANS`.
    """

    measure: str = "std"
    region: int = 1
    range_sign: int = 1
    scans: tuple[str, ...] = SCANS

    def __post_init__(self) -> None:
        _check_measure(self.measure, self.range_sign)
        unknown = [name for name in self.scans if name not in SCANS]
        if unknown or not self.scans or len(set(self.scans)) != len(self.scans):
            raise UsageError(
                f"scans must be different names out of {', '.join(SCANS)}, at least one, got {self.scans!r}.",
                code="E-NETWORK-ARGUMENT",
                hint="The network without uncertainty-driven scans is mamba_unet.",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The scans in use."""
        return self.scans

    def uncertainty(self, features: Tensor) -> Tensor:
        """Returns the map that the tokens are ranked by, (B, *spatial), for features (B, *spatial, C)."""
        # The root changes no rank, but in float32 it can make two different variances equal.
        plain = self.measure == "std" and self.region == 1
        return channel_uncertainty(
            features, "variance" if plain else self.measure, range_sign=self.range_sign
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Returns (B, K, L) for features (B, *spatial, C)."""
        ranked = rank_tokens(self.uncertainty(features), region=self.region)
        return uncertainty_orders(ranked, features.shape[-2], self.scans)


def _check_measure(measure: str, range_sign: int) -> None:
    if measure not in UNCERTAINTIES:
        raise UsageError(
            f"uncertainty must be one of {', '.join(UNCERTAINTIES)}, got {measure!r}.",
            code="E-NETWORK-ARGUMENT",
        )
    if range_sign not in (1, -1):
        raise UsageError(f"range_sign must be 1 or -1, got {range_sign!r}.", code="E-NETWORK-ARGUMENT")
