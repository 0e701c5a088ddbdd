"""The page and the drawing of each network, from the registry, the built network and the printed counts."""

from functools import cache
from typing import Any

import torch

from scanseg.data.wording import counted
from scanseg.errors import UsageError
from scanseg.networks import (
    NETWORKS,
    beside_printed,
    count_parameters,
    create_network,
    describe_network,
)
from scanseg.reporting.architecture import architecture_svg
from scanseg.reporting.tables import as_markdown

# The sizes of the overview; a network that refuses them is described at the first that it takes.
OVERVIEW = {3: (64, 64, 64), 2: (256, 256)}
_OTHER_SIZES = ((256, 256), (224, 224), (64, 64, 64), (128, 128, 128), (96, 96, 96), (64, 128, 128))


@cache
def parameters_at(name: str, spatial_dims: int) -> tuple[tuple[int, ...], int]:
    """Returns a size and the parameters there, with one channel and two classes.

    The size is that of the overview, or the first other one that the network takes; empty if it takes none.
    """
    if spatial_dims not in NETWORKS[name].spatial_dims:
        return (), 0
    for size in (OVERVIEW[spatial_dims], *(other for other in _OTHER_SIZES if len(other) == spatial_dims)):
        try:
            with torch.device("meta"):
                network = create_network(name, **_overview_arguments(size))
        except UsageError:
            continue
        return size, count_parameters(network)
    return (), 0


def _overview_arguments(size: tuple[int, ...]) -> dict[str, Any]:
    return {"spatial_dims": len(size), "in_channels": 1, "out_channels": 2, "patch_size": size}


def network_page(name: str) -> tuple[str, str]:
    """Returns the Markdown page of a network and its drawing (SVG, empty without a stage table)."""
    entry = NETWORKS[name]
    known: dict[str, dict[str, Any]] = {}
    for one in entry.printed:
        # Several sources print counts for one setting.
        key = repr(one.arguments)
        if key not in known:
            known[key] = describe_network(name, **one.arguments)
    of_printed = [known[repr(one.arguments)] for one in entry.printed]
    printed = [beside_printed(*pair) for pair in zip(entry.printed, of_printed, strict=True)]
    facts = of_printed[0] if of_printed else _overview(name)
    drawing = ""
    if facts["stages"]:
        title = f"{name}: {_setting(facts['arguments'])}, {facts['parameters']:,} parameters"
        drawing = architecture_svg(title, facts["stages"], facts["flow"])
    parts = [f"# {name}\n", f"{entry.summary}.\n", _card(name), "## What is different here\n"]
    parts.append("".join(f"- {line}\n" for line in entry.differences) or "Nothing that we know of.\n")
    parts += ["## Size and cost\n", _counts(facts, printed), _printed(printed)]
    if facts["stages"]:
        parts += [
            f"## Stages\n\nAt {_setting(facts['arguments'])}.\n",
            f"![The stages of {name}]({name}.svg)\n",
        ]
        parts.append(_stages(facts))
    parts += ["## Options\n", _options(name), _commands(name)]
    return "\n".join(part for part in parts if part), drawing


def _overview(name: str) -> dict[str, Any]:
    """Returns the facts at the size of the overview, in 3D if there is a choice; no stages without any."""
    for spatial_dims in sorted(NETWORKS[name].spatial_dims, reverse=True):
        size, _ = parameters_at(name, spatial_dims)
        if size:
            return describe_network(name, **_overview_arguments(size))
    return {"stages": []}


def _setting(arguments: dict[str, Any]) -> str:
    size = "x".join(map(str, arguments["patch_size"]))
    channels, classes = arguments["in_channels"], arguments["out_channels"]
    return f"{size}, {counted(channels, 'channel')}, {counted(classes, 'class', 'classes')}"


def _card(name: str) -> str:
    entry = NETWORKS[name]
    rows = {
        "Paper": entry.paper,
        "Follows": entry.source,
        "Licence of that code": entry.licence,
        "Published weights": entry.weights,
        "Dimensions": " and ".join(f"{dims}D" for dims in entry.spatial_dims),
        "Shaped by the plan": "yes: strides and kernels" if entry.plan_driven else "no: sizes are options",
    }
    return as_markdown(["", "what"], [[title, text or "not stated"] for title, text in rows.items()])


def _counts(facts: dict[str, Any], printed: list[dict[str, Any]]) -> str:
    rows = []
    for one in printed:
        figures = [f"{one['macs'][kind] / 1e9:,.2f}" for kind in ("without_scan", "with_scan")]
        rows.append([one["setting"], f"{one['parameters']:,}", *figures])
    if not printed and facts["stages"]:
        macs = facts["macs"]
        figures = [f"{count / 1e9:,.2f}" for count in (macs["total"] - macs["scan"], macs["total"])]
        rows.append([_setting(facts["arguments"]), f"{facts['parameters']:,}", *figures])
    note = "GMAC: 10^9 multiply-accumulates of one image; a scan counts 9 L D N, norms count nothing.\n"
    columns = ["setting", "parameters", "GMAC without scan", "GMAC with scan"]
    # Two sources for one setting make one row.
    unique = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    return f"{as_markdown(columns, unique)}\n{note}"


def _printed(printed: list[dict[str, Any]]) -> str:
    rows, reasons = [], []
    for one in printed:
        for row in one["rows"]:
            agrees = "yes" if row["agrees"] else "no"
            if row["reason"]:
                reasons.append(row["reason"])
                agrees = f"no ({len(set(reasons))})"
            rows.append([one["setting"], row["what"], row["printed"], row["counted"], agrees, one["source"]])
    if not rows:
        return "No counts are known to be printed for it.\n"
    table = as_markdown(["setting", "what", "printed", "ours", "agrees", "printed where"], rows)
    notes = "".join(f"{n}. {reason}\n" for n, reason in enumerate(dict.fromkeys(reasons), start=1))
    return f"Printed elsewhere, and counted here:\n\n{table}\n{notes}"


def _stages(facts: dict[str, Any]) -> str:
    columns = ["stage", "size", "features", "stride", "kernel", "blocks", "Mamba", "parameters", "GMAC"]
    rows = [
        [
            stage["name"],
            *("x".join(map(str, stage["size"])), str(stage["features"]), "x".join(map(str, stage["stride"]))),
            *("x".join(map(str, stage["kernel_size"])), str(stage["blocks"]), stage["mamba"] or "-"),
            *(f"{stage['parameters']:,}", f"{stage['macs']['total'] / 1e9:,.2f}"),
        ]
        for stage in facts["stages"]
    ]
    return as_markdown(columns, rows)


def _options(name: str) -> str:
    options = NETWORKS[name].options
    if not options:
        return "It has none.\n"
    rows = [[key, repr(option.default), option.summary] for key, option in options.items()]
    return as_markdown(["option", "default", "what it does"], rows)


def _commands(name: str) -> str:
    return (
        "## Use\n\n```bash\n"
        f"scanseg train my_data -o runs/{name} --network {name}\n"
        f"scanseg networks show {name}\n```\n"
    )
