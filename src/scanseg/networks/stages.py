"""The stage table of a plan-driven U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from scanseg.blocks.unet import Stage
from scanseg.networks.topology import Topology


def stage_table(
    topology: Topology,
    features: Sequence[int],
    *,
    stem_blocks: int,
    encoder_blocks: Sequence[int],
    decoder_blocks: Sequence[int],
    tokens: Sequence[str] = (),
    encoder_parts: Sequence[str],
    decoder_parts: Sequence[str],
) -> list[Stage]:
    """Returns one row per stage: stem (if it has blocks), encoder from the finest, decoder from the coarsest.

    Args:
        tokens: What Mamba reads in each encoder stage, empty where there is none.
        encoder_parts: Names of the encoder's module lists that hold one entry per stage.
        decoder_parts: The decoder's.
    """
    kernels, sizes, strides = topology.kernel_sizes, topology.map_sizes, topology.strides
    ones = (1,) * topology.spatial_dims
    rows = []
    if stem_blocks:
        rows.append(
            Stage(
                "stem", features[0], topology.patch_size, ones, kernels[0], stem_blocks, "", ("encoder.stem",)
            )
        )
    for stage, blocks in enumerate(encoder_blocks):
        name, mamba = f"encoder {stage}", tokens[stage] if tokens else ""
        modules = tuple(f"encoder.{part}.{stage}" for part in encoder_parts)
        rows.append(
            Stage(name, features[stage], sizes[stage], strides[stage], kernels[stage], blocks, mamba, modules)
        )
    for depth, blocks in enumerate(decoder_blocks):
        stage = topology.n_stages - 2 - depth
        name = f"decoder {stage}"
        modules = tuple(f"decoder.{part}.{depth}" for part in decoder_parts)
        rows.append(
            Stage(
                name, features[stage], sizes[stage], strides[stage + 1], kernels[stage], blocks, "", modules
            )
        )
    return rows
