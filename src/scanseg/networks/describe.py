"""A network as facts for people: what it follows, its options, stages, parameters and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from scanseg.blocks.unet import Stage
from scanseg.networks.counting import Counts, count
from scanseg.networks.flow import StageFlow
from scanseg.networks.published import Printed
from scanseg.networks.registry import NETWORKS, count_parameters, create_network

_DEFAULT_PATCH = {2: (512, 512), 3: (128, 128, 128)}
_KINDS = ("convolution", "linear", "attention", "scan")


def describe_network(
    name: str,
    *,
    spatial_dims: int = 3,
    in_channels: int = 1,
    out_channels: int = 2,
    patch_size: Sequence[int] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
    kernel_sizes: Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Returns the facts of a network as plain JSON values; nothing is computed or allocated.

    Keys: `name summary paper source differences licence weights spatial_dims plan_driven options` of the
    registry; `arguments` that the rest was counted for; `parameters`; `macs` (multiply-accumulates of one
    image: `convolution`, `linear`, `attention` without its linear layers, `scan` as 9 L D N, `total`);
    `stages`, one row per stage with its size, features, stride, kernel, blocks, Mamba tokens, parameters and
    macs; `flow`, the pairs (from, to) of indices of stages between which a map passes directly: neighbours,
    and skips.

    Args:
        patch_size: None: 128^3 in 3D, 512^2 in 2D.

    Raises:
        UsageError: As `create_network`.

    Example:
        >>> describe_network("umamba_bot", spatial_dims=2, patch_size=(64, 64))["stages"][-1]["name"]
        'decoder 0'
    """
    entry = NETWORKS[name]
    patch = tuple(patch_size) if patch_size is not None else _DEFAULT_PATCH.get(spatial_dims, ())
    arguments: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "patch_size": patch,
    }
    with torch.device("meta"):
        network = create_network(
            name, strides=strides, kernel_sizes=kernel_sizes, deep_supervision=True, **arguments, **options
        )
    parameters = count_parameters(network)
    rows = list(getattr(network, "stage_table", ()))
    per_stage = [_stage_parameters(network, row) for row in rows]
    flow = StageFlow(network, rows)
    counts = count(network, (1, in_channels, *patch))
    return {
        "name": name,
        "summary": entry.summary,
        "paper": entry.paper,
        "source": entry.source,
        "differences": list(entry.differences),
        "licence": entry.licence,
        "weights": entry.weights,
        "spatial_dims": list(entry.spatial_dims),
        "plan_driven": entry.plan_driven,
        "options": {key: asdict(option) for key, option in entry.options.items()},
        "arguments": {**arguments, "patch_size": list(patch), **options},
        "parameters": parameters,
        "macs": _macs(counts, ("",)),
        "stages": [
            _row(row, size, _macs(counts, row.modules)) for row, size in zip(rows, per_stage, strict=True)
        ],
        "flow": flow.pairs(),
    }


def count_printed(name: str) -> list[dict[str, Any]]:
    """Returns the counts that were printed for a network beside ours; one `beside_printed` per setting.

    Raises:
        UsageError: The name is unknown.
    """
    return [
        beside_printed(printed, describe_network(name, **printed.arguments))
        for printed in NETWORKS[name].printed
    ]


def beside_printed(printed: Printed, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns printed counts beside ours, as plain JSON values.

    Args:
        printed: What was printed for a setting.
        facts: `describe_network` of that setting.

    Returns:
        `setting source arguments`, our `parameters` and `macs` (`without_scan`, `with_scan`), and `rows` of
        what was printed: `what` (`parameters`, or 10^9 MACs of a kind), `printed` as text, `counted` as text
        with as many digits, `agrees` (to one unit of the last digit; parameters in full exactly), and
        `reason` where it does not.
    """
    macs = facts["macs"]
    return {
        "setting": printed.setting,
        "source": printed.source,
        "arguments": facts["arguments"],
        "parameters": facts["parameters"],
        "macs": {"without_scan": macs["total"] - macs["scan"], "with_scan": macs["total"]},
        "rows": [_beside(kind, text, facts, printed) for kind, text in _printed_kinds(printed)],
    }


def _printed_kinds(printed: Printed) -> list[tuple[str, str]]:
    kinds = [("parameters", printed.parameters)] if printed.parameters else []
    return [*kinds, *printed.gmacs.items()]


def _beside(kind: str, text: str, facts: dict[str, Any], printed: Printed) -> dict[str, Any]:
    """Returns a printed number beside ours."""
    macs = facts["macs"]
    counted = {
        **macs,
        "without scan": macs["total"] - macs["scan"],
        "with scan": macs["total"],
        "parameters": facts["parameters"],
    }[kind]
    number, _, suffix = text.replace(",", "").partition(" ")
    digits = len(number.partition(".")[2])
    scale = {"": 1, "M": 1e6}[suffix] if kind == "parameters" else 1e9
    off = abs(counted / scale - float(number))
    # Parameters are whole, and exact where they are printed in full.
    allowed = 0.0 if kind == "parameters" and not digits else 10.0**-digits
    return {
        "what": kind if kind == "parameters" else f"GMAC, {kind}",
        "printed": text,
        "counted": f"{counted / scale:,.{digits}f} {suffix}".strip(),
        "agrees": off <= allowed * (1 + 1e-9),
        "reason": printed.differs.get(kind, ""),
    }


def _stage_parameters(network: nn.Module, row: Stage) -> int:
    return sum(count_parameters(network.get_submodule(module)) for module in row.modules)


def _macs(counts: Counts, modules: Sequence[str]) -> dict[str, int]:
    parts = {kind: counts.total(kind, modules) for kind in _KINDS}
    return {**parts, "total": sum(parts.values())}


def _row(row: Stage, parameters: int, macs: dict[str, int]) -> dict[str, Any]:
    return {
        "name": row.name,
        "size": list(row.size),
        "features": row.features,
        "stride": list(row.stride),
        "kernel_size": list(row.kernel_size),
        "blocks": row.blocks,
        "mamba": row.mamba,
        "parameters": parameters,
        "macs": macs,
    }
