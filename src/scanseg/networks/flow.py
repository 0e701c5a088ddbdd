"""Which stage of a network feeds which, read from the graph of a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from scanseg.blocks.unet import Stage
from scanseg.networks.counting import SCANNING


class StageFlow:
    """Watches a forward pass and tells between which stages maps passed directly.

    Args:
        network: Whose pass will be watched.
        rows: Its stage table.
    """

    def __init__(self, network: nn.Module, rows: Sequence[Stage]) -> None:
        self._made_by: dict[Any, int] = {}
        self._made: dict[int, list[Any]] = {}
        for index, row in enumerate(rows):
            for module in row.modules:
                for part in _called(network.get_submodule(module)):
                    part.register_forward_hook(_recorder(index, self._made_by, self._made))

    def pairs(self) -> list[list[int]]:
        """Returns the sorted pairs (from, to) of indices of rows; empty before a pass with gradients.

        A pair of neighbours is the way through the network, any other skips stages.
        """
        found = {
            (source, index)
            for index, nodes in self._made.items()
            for source in _sources(nodes, index, self._made_by)
        }
        return [list(pair) for pair in sorted(found)]


def _called(part: nn.Module) -> Iterator[nn.Module]:
    """Yields what is called in a forward pass: the module, or what a list of modules holds."""
    if isinstance(part, nn.ModuleList | nn.ModuleDict):
        for child in part.children():
            yield from _called(child)
    # Blocks with scans are replaced for counting; a row that is nothing else cannot be followed.
    elif not isinstance(part, SCANNING):
        yield part


def _recorder(index: int, made_by: dict[Any, int], made: dict[int, list[Any]]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            if tensor.grad_fn is not None:
                made_by.setdefault(tensor.grad_fn, index)
                made.setdefault(index, []).append(tensor.grad_fn)

    return hook


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _sources(nodes: Sequence[Any], index: int, made_by: dict[Any, int]) -> set[int]:
    """Returns the rows whose maps the nodes of a row use, not looking through the maps of other rows."""
    found: set[int] = set()
    waiting, seen = list(nodes), set(nodes)
    while waiting:
        node = waiting.pop()
        for before, _ in node.next_functions:
            if before is None or before in seen:
                continue
            seen.add(before)
            owner = made_by.get(before, index)
            if owner == index:
                waiting.append(before)
            else:
                found.add(owner)
    return found
