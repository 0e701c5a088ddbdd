"""The uncertainty-aware loss: several losses, each divided by a variance that is learned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scanseg.errors import UsageError
from scanseg.losses.numbers import require_number
from scanseg.losses.registry import build_loss

COMPONENTS: Mapping[str, Mapping[str, Any]] = {"dice": {}, "cross_entropy": {}, "focal": {"gamma": 2.0}}


class UncertaintyAware(nn.Module):
    """The sum over m of L_m / (2 sigma_m^2) + log(1 + sigma_m^2), in which every sigma_m is learned.

    For a fixed L >= 0 the best sigma is sqrt((L + sqrt(L^2 + 8 L)) / 4): a component counts more, the smaller
    it has become. With deep supervision the sigmas are shared by all outputs and, because the factors of the
    outputs add up to 1, the logarithms count once.

    Sigma is the parameter itself. Below twice `floor` it is bent, without a jump in value or slope, so that
    it never falls under `floor`; otherwise one component near 0 could make all later steps huge. A component
    that can be negative (`dice` with `negative`, `dice_ce`) drives its sigma down to there.

    Args:
        batch_dice: One Dice for the whole batch instead of one per sample.
        ignore_index: Class index in the target whose voxels do not count; None if there is no such class.
        components: Name of each component -> its options. `loss` among them is the entry of `LOSSES`, if that
            is not the name. UU-Mamba's three by default.
        sigma: What every sigma is at first, at least twice `floor`.
        learn_sigmas: False freezes them, as in effect the code of UU-Mamba does.
        floor: The smallest sigma.

    Attributes:
        sigma: The parameters, one per component, in the order of `components`.

    Raises:
        UsageError: A component or an option is not accepted.

    Source:
        UU-Mamba (arXiv 2405.17496), eq. 8. Its code keeps sigma as a raw parameter too, but trains that of
        another object, so it stays 1 (uumamba/nnunetv2/training/nnUNetTrainer/nnUNetTrainerUMambaEnc.py).
        The floor is ours.

    Example:
        >>> loss = UncertaintyAware(batch_dice=False)
        >>> target = torch.tensor([[[[0, 1], [1, 0]]]])
        >>> perfect = torch.nn.functional.one_hot(target[:, 0], 2).movedim(-1, 1) * 100.0
        >>> round(loss(perfect, target).item(), 5)  # 3 log 2
        2.07944
        >>> loss.sigmas()
        {'dice': 1.0, 'cross_entropy': 1.0, 'focal': 1.0}
    """

    def __init__(
        self,
        *,
        batch_dice: bool,
        ignore_index: int | None = None,
        components: Mapping[str, Mapping[str, Any]] = COMPONENTS,
        sigma: float = 1.0,
        learn_sigmas: bool = True,
        floor: float = 0.05,
    ) -> None:
        super().__init__()
        _check(components, sigma, floor)
        self.names, self.floor = tuple(components), floor
        self.parts = nn.ModuleList()
        for name, options in components.items():
            chosen = {"loss": name, **options}
            loss = chosen.pop("loss")
            self.parts.append(build_loss(loss, chosen, batch_dice=batch_dice, ignore_index=ignore_index))
        self.sigma = nn.Parameter(torch.full((len(self.names),), float(sigma)), requires_grad=learn_sigmas)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of one output.

        Args:
            logits: (B, K, *spatial), float32 or float64.
            target: Class indices, (B, 1, *spatial), any numeric type.
        """
        losses = torch.stack([part(logits, target) for part in self.parts])
        variance = self._bounded().square()
        return (losses / (2 * variance) + torch.log1p(variance)).sum()

    def sigmas(self) -> dict[str, float]:
        """Returns the sigma of each component, as it is used."""
        return dict(zip(self.names, self._bounded().tolist(), strict=True))

    def _bounded(self) -> Tensor:
        size = self.sigma.abs()
        return torch.where(size < 2 * self.floor, self.sigma.square() / (4 * self.floor) + self.floor, size)


def _check(components: object, sigma: float, floor: float) -> None:
    named = isinstance(components, Mapping) and all(isinstance(o, Mapping) for o in components.values())
    if not named or not components:
        raise UsageError(
            f"The components of an uncertainty-aware loss must be a table of losses, got {components!r}.",
            code="E-LOSS-COMPONENTS",
            hint="For example: components = { dice = {}, cross_entropy = {}, focal = { gamma = 2.0 } }.",
        )
    require_number("floor", floor, low=1e-6)
    require_number("sigma", sigma, low=2 * floor)
