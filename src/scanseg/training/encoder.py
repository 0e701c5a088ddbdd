"""A pretrained encoder: its weights from a file, and epochs in which they stay as they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from scanseg.blocks.vss import VSSEncoder
from scanseg.errors import UsageError
from scanseg.networks.pretrained import filled_by_vmamba, load_vmamba, vss_encoder
from scanseg.training.weights import first_nonfinite_name

if TYPE_CHECKING:
    from scanseg.training.recipe import Recipe

CONVERT = (
    'Convert it once, where you trust its source: python -c "import torch, safetensors.torch as s; '
    "weights = torch.load('FILE.pth', weights_only=True)['model']; "
    "s.save_file({k: v.contiguous().clone() for k, v in weights.items()}, 'FILE.safetensors')\""
)


def require_safetensors(path: str | Path) -> None:
    """Refuses files whose ending is not `.safetensors`; others may run code when they are read.

    Raises:
        UsageError: It has another ending; the hint says how to convert the file.
    """
    if Path(path).suffix != ".safetensors":
        raise UsageError(
            f"The pretrained file {path} is not a safetensors file.", code="E-PRETRAINED-FORMAT", hint=CONVERT
        )


def load_pretrained(network: nn.Module, recipe: Recipe) -> str | None:
    """Copies the recipe's pretrained weights into the encoder and returns the file's SHA-256.

    The patch embedding is taken where the encoder sees three channels in patches of 4, as VMamba does.

    Args:
        network: Of the recipe; changed in place.
        recipe: Without a pretrained file nothing happens, and None is returned.

    Raises:
        UsageError: The file is missing, is not safetensors, has another SHA-256 than the recipe says, holds
            NaN or infinity, or does not fit the network.
    """
    if recipe.pretrained is None:
        return None
    path = Path(recipe.pretrained)
    require_safetensors(path)
    tensors, digest = _read(path, recipe.pretrained_sha256)
    if (bad := first_nonfinite_name(tensors)) is not None:
        raise UsageError(f"The weights in {path} are not finite: {bad}.", code="E-PRETRAINED-NONFINITE")
    load_vmamba(network, tensors, patch_embedding=_sees_as_vmamba(vss_encoder(network)))
    return digest


def freeze_encoder(network: nn.Module, frozen: bool) -> None:
    """Makes the parameters that VMamba's weights fill stay as they are, or learn again.

    They get no gradient then, so neither optimiser, weight decay, clipping nor SAM sees them. A
    `DistributedDataParallel` has to be made anew after it, for it notes what learns when it is made.

    Raises:
        UsageError: The network has no VSS encoder.
    """
    encoder = vss_encoder(network)
    parameters = dict(encoder.named_parameters())
    for name in filled_by_vmamba(encoder, patch_embedding=_sees_as_vmamba(encoder)):
        parameters[name].requires_grad_(not frozen)


def _sees_as_vmamba(encoder: VSSEncoder) -> bool:
    shape = dict(encoder.named_parameters())["patch_embed.proj.weight"].shape
    return tuple(shape[1:]) == (3, 4, 4)


def _read(path: Path, expected: str | None) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors and the SHA-256 of the same bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The pretrained file {path} cannot be read ({error.strerror or error}).",
            code="E-PRETRAINED-FILE",
            hint="Give the path of a local file; nothing is downloaded.",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if expected is not None and digest != expected:
        raise UsageError(
            f"The pretrained file {path} has the SHA-256 {digest}, the recipe says {expected}.",
            code="E-PRETRAINED-HASH",
            hint="Get the file again, or correct pretrained_sha256 if you trust this one.",
        )
    try:
        return load(content), digest
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(
            f"The pretrained file {path} is damaged or no safetensors file: {error}.",
            code="E-PRETRAINED-FORMAT",
            hint=CONVERT,
        ) from error
