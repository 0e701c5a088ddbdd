"""VMamba's published weights (first version, trained on ImageNet) in the encoders of our networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scanseg.blocks.vss import VSSEncoder
from scanseg.errors import UsageError

# What the file holds for classification only.
_CLASSIFIER = re.compile(r"(norm|head)\.")
_RENAMED = (
    (re.compile(r"layers\.(\d+)\.blocks\."), r"stages.\1.blocks."),
    (re.compile(r"layers\.(\d+)\.downsample\."), r"merges.\1."),
)
# Learned here, unknown there.
_OURS = re.compile(r"\.alpha$")
_LISTED = 5


@dataclass(frozen=True)
class Pretrained:
    """What was taken over.

    Attributes:
        loaded: Parameters of the encoder that have the file's values.
        fresh: Parameters of the encoder that keep their own.
        unused: Names in the file that no parameter took.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


@torch.no_grad()
def load_vmamba(
    network: nn.Module, tensors: Mapping[str, Tensor], *, patch_embedding: bool = True
) -> Pretrained:
    """Copies VMamba's weights into the encoder of `network` and returns what was taken over.

    A network with fewer blocks in a stage takes the first ones, as the released recipes do. Nothing is
    changed if anything does not fit.

    Args:
        network: Has one VSSEncoder: `ud_mamba`, `mamba_unet`, `vm_unet`, `mamba_hunet`, `swin_umamba`,
            `swin_umamba_d`.
        tensors: The file's tensors under their own names, for example of `vssmtiny_dp01_ckpt_epoch_292`.
        patch_embedding: Whether the patch embedding is taken, too. It fits networks that see three channels
            in patches of 4, so not Swin-UMamba.

    Raises:
        UsageError: The network has no such encoder, or names or shapes do not fit; the message lists them.

    Source: the names of the first version of MzeroMiko/VMamba.
    """
    encoder = vss_encoder(network)
    own = dict(encoder.named_parameters())
    found = {_renamed(name): name for name in tensors if not _CLASSIFIER.match(name)}
    wanted = filled_by_vmamba(encoder, patch_embedding=patch_embedding)
    missing = [name for name in wanted if name not in found]
    misshaped = [
        f"{found[name]} is {tuple(tensors[found[name]].shape)}, needed is {tuple(own[name].shape)}"
        for name in wanted
        if name in found and tensors[found[name]].shape != own[name].shape
    ]
    if missing or misshaped:
        kinds = (("missing", missing), ("of another shape", misshaped))
        faults = [_counted(what, entries) for what, entries in kinds if entries]
        raise UsageError(
            f"These weights do not fit: {'; '.join(faults)}.",
            code="E-PRETRAINED-FIT",
            hint="Use VMamba-T weights of the first version and base_features=96; for gray images keep "
            "repeat_gray, or leave the patch embedding out.",
        )
    for name in wanted:
        own[name].copy_(tensors[found[name]])
    taken = {found[name] for name in wanted}
    return Pretrained(
        loaded=tuple(wanted),
        fresh=tuple(name for name in own if name not in wanted),
        unused=tuple(name for name in tensors if name not in taken),
    )


def has_vss_encoder(network: nn.Module) -> bool:
    """Returns whether `vss_encoder` finds what it looks for."""
    return len(_encoders(network)) == 1


def vss_encoder(network: nn.Module) -> VSSEncoder:
    """Returns the one VSS encoder of a network.

    Raises:
        UsageError: The network has none, or several.
    """
    encoders = _encoders(network)
    if len(encoders) != 1:
        raise UsageError(
            f"VMamba's weights need a network with one VSS encoder, got {type(network).__name__}.",
            code="E-PRETRAINED-NETWORK",
        )
    return encoders[0]


def _encoders(network: nn.Module) -> list[VSSEncoder]:
    return [part for part in network.modules() if isinstance(part, VSSEncoder)]


def filled_by_vmamba(encoder: VSSEncoder, *, patch_embedding: bool) -> list[str]:
    """Returns the names of the encoder's parameters that `load_vmamba` fills."""
    return [
        name
        for name, _ in encoder.named_parameters()
        if not _OURS.search(name) and (patch_embedding or not name.startswith("patch_embed."))
    ]


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _counted(what: str, entries: list[str]) -> str:
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{len(entries)} {what}: {', '.join(entries[:_LISTED])}{more}"
