"""What a network that chooses its scan order sees in an image: uncertainty and order of every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scanseg.data.orientation import reorient_image
from scanseg.inference.predict import Model
from scanseg.nnunet.preprocess import preprocess_case
from scanseg.nnunet.windows import predict_logits
from scanseg.types import Array, Image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockReading:
    """How one block reads the window.

    Attributes:
        name: Of the block in the network.
        uncertainty: What its tokens are ranked by, (*tokens), float32; with `std` the standard deviation.
        ranks: At which place each scan reads each token, (K, *tokens), from 0.
    """

    name: str
    uncertainty: Array
    ranks: Array


@dataclass(frozen=True)
class ScanReadings:
    """What a network reads in a part of an image, as the network sees it: resampled and normalised.

    Attributes:
        window: (channel, *spatial): a slice of an image for 2D networks, a patch of it for 3D ones.
        classes: Predicted class of each place, (*spatial).
        spacing: Of the window.
        scans: Names of the K scans.
        blocks: In the order they run.
        alphas: Weight of each scan in each block that has weights, (blocks, K).
    """

    window: Array
    classes: Array
    spacing: tuple[float, ...]
    scans: tuple[str, ...]
    blocks: tuple[BlockReading, ...]
    alphas: Array


def reads_scans(model: Model) -> bool:
    """Returns whether the network of a model chooses its scan order by what it sees."""
    return hasattr(model.first_network()[0], "read")


def read_scans(model: Model, image: Image) -> ScanReadings:
    """Returns what the first network of a model reads where it predicts most foreground.

    2D networks read that slice as a whole, padded with zeros at the end to a size they take; 3D networks one
    patch around the middle of the foreground.

    Args:
        model: `reads_scans` holds for it.
        image: As `Model.predict` takes it.
    """
    import torch

    network, plan, configuration = model.first_network()
    turned = reorient_image(image, plan.orientation)
    data = torch.from_numpy(
        np.ascontiguousarray(preprocess_case(turned, None, plan, configuration).data)
    ).float()
    logits = predict_logits(network, data, configuration, device=model.device)
    classes = logits.argmax(0)
    flat = configuration.spatial_dims == 2
    part = _fullest_slice(classes) if flat else _around_foreground(classes, configuration.patch_size)
    multiple = int(network.body.fit.multiple)  # type: ignore[union-attr, arg-type]
    window, seen = _fitting(data[(slice(None), *part)], multiple), _fitting(classes[part][None], multiple)[0]
    readings = network.read(window[None].to(model.device))  # type: ignore[operator]
    blocks = tuple(_block(network, reading) for reading in readings)
    return ScanReadings(
        window=window.numpy(),
        classes=seen.cpu().numpy(),
        spacing=tuple(configuration.spacing),
        scans=tuple(network.scans),  # type: ignore[arg-type]
        blocks=blocks,
        alphas=network.alphas().cpu().numpy(),  # type: ignore[operator]
    )


def _fullest_slice(classes: torch.Tensor) -> tuple[Any, ...]:
    """Returns the index of the slice with most foreground, the middle one without any."""
    counts = (classes > 0).flatten(1).sum(1)
    return (int(counts.argmax()) if counts.any() else len(classes) // 2,)


def _around_foreground(classes: torch.Tensor, patch_size: tuple[int, ...]) -> tuple[Any, ...]:
    places = (classes > 0).nonzero().float()
    middle = places.mean(0).tolist() if len(places) else [edge / 2 for edge in classes.shape]
    part = []
    for edge, side, centre in zip(classes.shape, patch_size, middle, strict=True):
        start = min(max(round(centre - side / 2), 0), max(edge - side, 0))
        part.append(slice(start, start + side))
    return tuple(part)


def _fitting(values: torch.Tensor, multiple: int) -> torch.Tensor:
    """Returns (C, *spatial), padded with zeros at the end of each axis to a multiple."""
    import torch

    pads = [amount for edge in reversed(values.shape[1:]) for amount in (0, -edge % multiple)]
    return torch.nn.functional.pad(values, pads)


def _block(network: torch.nn.Module, reading: Any) -> BlockReading:
    rule: Any = network.get_submodule(reading.name).order
    uncertainty = reading.uncertainty[0].float().cpu().numpy()
    if rule.measure == "std" and rule.region == 1:
        # Ranked by the variance; the paper's map is its root.
        uncertainty = np.sqrt(uncertainty)
    order = reading.order[0].cpu().numpy()
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return BlockReading(reading.name, uncertainty, ranks.reshape(len(order), *uncertainty.shape))
