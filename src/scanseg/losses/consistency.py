"""The cosine consistency of UD-Mamba: scans forward and backward shall say the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scanseg.errors import UsageError
from scanseg.losses.registry import AuxiliaryLoss

PAIRS = {
    "forward_backward": (("sequential_down", "sequential_up"), ("skip_down", "skip_up")),
    "same_direction": (("sequential_down", "skip_down"), ("sequential_up", "skip_up")),
}
_REDUCTIONS = ("mean", "sum")


def cosine_consistency(
    aux: Mapping[str, Any], *, pairs: str = "forward_backward", reduction: str = "mean"
) -> Tensor:
    """Returns 1 minus the mean cosine similarity of paired scans, in [0, 2]; 0 where they are equal.

    Args:
        aux: Of `forward_with_aux`: `scans`, per decoder stage a list over its blocks of results
            (B, K, D, L), and `scan_names`, the K names.
        pairs: `forward_backward` compares each scan with its reverse, as the paper says. `same_direction`
            compares the sequential with the skip scan of one direction, which is what the released code
            does because its variables are numbered in another order than the paper's.
        reduction: Over blocks and stages: `mean`, or `sum` as in the released code.

    Raises:
        UsageError: An unknown value, no scans, or no pair of which both scans are in use.

    Source: UD-Mamba, equation 14. As in its released code (f8aa3b8) the similarity is that of the whole
        feature map of a sample, averaged over the batch.

    Example:
        >>> scans = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        >>> aux = {"scans": [[scans]], "scan_names": ("skip_down", "skip_up")}
        >>> cosine_consistency(aux)
        tensor(1.)
    """
    _check(pairs, reduction)
    names = tuple(aux["scan_names"])
    used = [(names.index(a), names.index(b)) for a, b in PAIRS[pairs] if a in names and b in names]
    blocks = [scans for stage in aux["scans"] for scans in stage]
    if not used or not blocks:
        raise UsageError(
            f"The consistency loss with pairs={pairs!r} has nothing to compare in {', '.join(names)}.",
            code="E-LOSS-PAIRS",
            hint="Use both scans of a pair, or leave the loss out.",
        )
    terms = torch.stack([_distance(scans, used) for scans in blocks])
    return terms.mean() if reduction == "mean" else terms.sum()


def create_cosine_consistency(*, pairs: str = "forward_backward", reduction: str = "mean") -> AuxiliaryLoss:
    """Returns `cosine_consistency` with these options.

    Raises:
        UsageError: An unknown value.
    """
    _check(pairs, reduction)
    return partial(cosine_consistency, pairs=pairs, reduction=reduction)


def _check(pairs: object, reduction: object) -> None:
    for name, value, accepted in (("pairs", pairs, PAIRS), ("reduction", reduction, _REDUCTIONS)):
        if not isinstance(value, str) or value not in accepted:
            raise UsageError(
                f"{name} must be one of {', '.join(accepted)}, got {value!r}.", code="E-LOSS-OPTION"
            )


def _distance(scans: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    flat = scans.to(torch.promote_types(scans.dtype, torch.float32)).flatten(2)
    found = [functional.cosine_similarity(flat[:, a], flat[:, b], dim=1).mean() for a, b in pairs]
    return 1 - torch.stack(found).mean()
