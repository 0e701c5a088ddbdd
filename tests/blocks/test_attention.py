"""Attention against a plain masked reference in float64: windows, shifts, padding, position bias."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scanseg.blocks.attention import (
    FeedForward,
    SelfAttention,
    TransformerBlock,
    WindowAttention,
    WindowStage,
    from_windows,
    relative_positions,
    to_windows,
)
from scanseg.errors import UsageError

# Map, window: whole windows, padded ones, one window on an axis, a window larger than the map; 2D and 3D.
CASES = [
    ((6, 8), (3, 4)),
    ((5, 7), (3, 3)),
    ((4, 9), (4, 3)),
    ((3, 3), (5, 4)),
    ((7, 6), (2, 2)),
    ((4, 4, 6), (2, 2, 3)),
    ((3, 5, 4), (2, 3, 4)),
]


def _reference(layer: Any, x: Tensor, queries: Tensor | None = None) -> Tensor:
    """Attention over the whole map: tokens see those of their own window of a grid moved by the shift.

    Windows at the border of the map are cut off there; nothing is rolled or padded.
    """
    size, channels = x.shape[1:-1], x.shape[-1]
    places = torch.tensor(list(itertools.product(*map(range, size))))
    window = torch.tensor(layer.window)
    shift = torch.tensor(
        [
            w // 2 if layer.shifted and math.ceil(edge / w) > 1 else 0
            for edge, w in zip(size, layer.window, strict=True)
        ]
    )
    cell = torch.div(places - shift, window, rounding_mode="floor")
    allowed = (cell[:, None] == cell[None]).all(-1)
    flat = (places[:, None] - places[None]).clamp(min=1 - window, max=window - 1) + window - 1
    row = torch.zeros(flat.shape[:2], dtype=torch.long)
    for axis, width in enumerate(layer.window):
        row = row * (2 * width - 1) + flat[..., axis]
    parts = list(layer.inner(x.flatten(1, -2)).split(channels, -1))
    if queries is not None:
        parts.insert(0, queries.flatten(1, -2))
    query, key, value = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in parts)
    scores = query @ key.transpose(-1, -2) / math.sqrt(channels / layer.heads)
    scores = scores + layer.bias[row].permute(2, 0, 1)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    y = (weights @ value).transpose(1, 2).flatten(2)
    return layer.outer(y).view(x.shape)  # type: ignore[no-any-return]


def _layer(window: Sequence[int], **options: Any) -> WindowAttention:
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, window, **options).double()
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("size", "window"), CASES)
def test_windows_equal_masked_attention(
    size: tuple[int, ...], window: tuple[int, ...], shifted: bool
) -> None:
    layer = _layer(window, shifted=shifted)
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), _reference(layer, x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    wanted = (x, *layer.parameters())
    found = torch.autograd.grad(y.pow(3).sum(), wanted)
    truth = torch.autograd.grad(expected.pow(3).sum(), wanted)
    for one, other in zip(found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "window"), [((6, 8), (3, 4)), ((3, 5, 4), (2, 3, 4))])
def test_queries_may_come_from_elsewhere(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    layer = _layer(window, crossed=True)
    x, queries = torch.randn(2, 1, *size, 8, dtype=torch.float64).unbind(0)
    torch.testing.assert_close(layer(x, queries), _reference(layer, x, queries), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (2, 3, 4)])
def test_one_window_over_the_map_is_full_attention(size: tuple[int, ...]) -> None:
    window, full = _layer(size, shifted=True), SelfAttention(8, 2).double()
    nn.init.zeros_(window.bias)
    full.load_state_dict({key: value for key, value in window.state_dict().items() if key != "bias"})
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(window(x), full(x.flatten(1, -2)).view(x.shape), rtol=1e-12, atol=1e-12)


def test_full_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(6, 3).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    mixed = layer.inner(x).view(2, 5, 3, 3, 2)
    y = torch.zeros(2, 5, 3, 2, dtype=torch.float64)
    for sample, head, token in itertools.product(range(2), range(3), range(5)):
        scores = mixed[sample, :, 1, head] @ mixed[sample, token, 0, head] / math.sqrt(2)
        y[sample, token, head] = scores.softmax(0) @ mixed[sample, :, 2, head]
    torch.testing.assert_close(layer(x), layer.outer(y.flatten(2)), rtol=1e-12, atol=1e-12)


def test_full_attention_does_not_know_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(8, 2).double(), torch.randn(1, 9, 8, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x)[:, order], layer(x[:, order]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [(5,), (2, 3), (3, 2, 4)])
def test_positions_are_numbered_by_offset_alone(window: tuple[int, ...]) -> None:
    index = relative_positions(window)
    places = list(itertools.product(*map(range, window)))
    by_offset: dict[tuple[int, ...], set[int]] = {}
    for (i, one), (j, other) in itertools.product(enumerate(places), repeat=2):
        offset = tuple(a - b for a, b in zip(one, other, strict=True))
        by_offset.setdefault(offset, set()).add(int(index[i, j]))
    assert all(len(numbers) == 1 for numbers in by_offset.values())
    count = math.prod(2 * edge - 1 for edge in window)
    assert set().union(*by_offset.values()) == set(range(count))


@pytest.mark.parametrize(("size", "window"), [((4, 6), (2, 3)), ((2, 4, 6), (2, 2, 3))])
def test_windows_are_cut_and_put_back(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    x = torch.arange(2 * math.prod(size) * 3).view(2, *size, 3)
    cut = to_windows(x, window)
    corner = x[(slice(None), *(slice(edge) for edge in window))]
    assert torch.equal(cut[:, 0], corner.flatten(1, -2))
    assert torch.equal(from_windows(cut, window, size), x)


def test_a_stage_shifts_every_second_block() -> None:
    stage = WindowStage(8, 2, (3, 3), drop_paths=(0.0, 0.1, 0.2))
    blocks: Any = list(stage)
    assert [block.attention.shifted for block in blocks] == [False, True, False]
    assert [block.drop_path.rate for block in blocks] == [0.0, 0.1, 0.2]
    later: Any = list(WindowStage(8, 2, (3, 3), drop_paths=(0.0, 0.0), first_shifted=True))
    assert [block.attention.shifted for block in later] == [True, False]


def test_a_block_adds_two_branches() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, SelfAttention(8, 2), FeedForward(8))
    x = torch.randn(1, 5, 8)
    middle = x + block.attention(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.feed_forward(block.norm2(middle)))
    nn.init.zeros_(block.attention.outer.weight)  # type: ignore[arg-type,union-attr]
    nn.init.zeros_(block.attention.outer.bias)  # type: ignore[arg-type,union-attr]
    nn.init.zeros_(block.feed_forward.narrow.weight)  # type: ignore[arg-type,union-attr]
    nn.init.zeros_(block.feed_forward.narrow.bias)  # type: ignore[arg-type,union-attr]
    assert torch.equal(block(x), x)


def test_heads_must_divide_the_width() -> None:
    for make in (lambda: SelfAttention(8, 3), lambda: WindowAttention(8, 3, (2, 2))):
        with pytest.raises(UsageError, match="3 heads for 8"):
            make()
