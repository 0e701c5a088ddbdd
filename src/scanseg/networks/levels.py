"""What the U-Nets with batch normalisation share: their levels, options and rows of the stage table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.double_conv import DoubleConv
from scanseg.blocks.fit import Fit
from scanseg.blocks.unet import Stage
from scanseg.errors import UsageError
from scanseg.networks.pyramid import FIT_OPTIONS, row
from scanseg.networks.registry import Option
from scanseg.networks.topology import Topology, positive_integer


@dataclass(frozen=True)
class Levels:
    """Sizes of a U-Net that halves the map and doubles the width from level to level.

    Attributes:
        fit: Which images it takes.
        widths: Of the levels, finest first.
        spatial_dims: 2 or 3.
    """

    fit: Fit
    widths: tuple[int, ...]
    spatial_dims: int

    def encoder(
        self,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropouts: Sequence[float] = (),
    ) -> nn.ModuleList:
        """Returns a double convolution for each level, finest first; `dropouts` empty: none."""
        below = (self.fit.channels, *self.widths)
        rates = dropouts or (0.0,) * len(self.widths)
        return nn.ModuleList(
            DoubleConv(self.spatial_dims, source, width, activation=activation, dropout=rate)
            for source, width, rate in zip(below, self.widths, rates, strict=False)
        )

    def pool(self) -> nn.Module:
        """Returns the max-pooling between levels."""
        return layers(self.spatial_dims).max_pool(2)

    def enter(self, x: Tensor, *, training: bool) -> Tensor:
        """Returns the image as the first level takes it.

        Raises:
            UsageError: Wrong number of axes or channels, a size that does not fit, or, while training, a
                batch whose coarsest maps have one element in all.
        """
        y = self.fit.enter(x)
        if training:
            self.fit.check_batch_norm(y)
        return y


def level_options(base_features: int) -> dict[str, Option]:
    """Returns the options of `make_levels`, `base_features` being the default width."""
    return {
        "base_features": Option(base_features, "width of the finest level; it doubles from level to level"),
        "levels": Option(5, "number of levels, 2 at least; the coarsest map is 2^(levels - 1) times smaller"),
        **FIT_OPTIONS,
    }


def make_levels(
    topology: Topology, *, base_features: int, levels: int = 5, pad_to_fit: bool = False
) -> Levels:
    """Returns the checked levels.

    Raises:
        UsageError: An option is wrong, or the patch of the plan does not fit.
    """
    width, count = positive_integer("base_features", base_features), positive_integer("levels", levels)
    if count < 2:
        raise UsageError(f"levels must be 2 or more, got {levels!r}.", code="E-NETWORK-ARGUMENT")
    dims = topology.spatial_dims
    fit = Fit(topology.in_channels, 2 ** (count - 1), pad=bool(pad_to_fit), spatial_dims=dims)
    fit.check_patch(topology.patch_size)
    return Levels(fit, tuple(width * 2**level for level in range(count)), dims)


def level_rows(
    topology: Topology, levels: Levels, *, encoder: str, decoder: Sequence[str], head_kernel: int = 1
) -> tuple[Stage, ...]:
    """Returns the stage table of an encoder and a decoder with one row per level each, and a head `output`.

    Args:
        encoder: Name of the encoder's module list, finest first.
        decoder: Names of the decoder's module lists, coarsest first.
        head_kernel: Kernel of the head.
    """
    rows = [
        row(
            f"encoder {level}",
            topology,
            width,
            (f"{encoder}.{level}",),
            reduction=2**level,
            stride=2 if level else 1,
            kernel=3,
            blocks=2,
        )
        for level, width in enumerate(levels.widths)
    ]
    for depth, width in enumerate(levels.widths[-2::-1]):
        level = len(levels.widths) - 2 - depth
        modules = tuple(f"{part}.{depth}" for part in decoder)
        rows.append(
            row(
                f"decoder {level}",
                topology,
                width,
                modules,
                reduction=2**level,
                stride=2,
                kernel=3,
                blocks=2,
            )
        )
    head = row("head", topology, topology.out_channels, ("output",), reduction=1, kernel=head_kernel)
    return (*rows, head)
