"""Counting the products of attention, against closed forms."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scanseg.networks.counting import count

BATCH, HEADS, QUERIES, KEYS, WIDTH, VALUES = 2, 3, 5, 7, 8, 4


class _Attention(nn.Module):
    """Attention of fixed sizes, written in one of the usual ways; the image only lends its device."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        def draw(length: int, width: int) -> Tensor:
            return torch.empty(BATCH, HEADS, length, width, device=x.device)

        q, k, v = draw(QUERIES, WIDTH), draw(KEYS, WIDTH), draw(KEYS, VALUES)
        if self.way == "fused":
            return functional.scaled_dot_product_attention(q, k, v)
        if self.way == "einsum":
            weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            return torch.einsum("bhqk,bhkd->bhqd", weights, v)
        if self.way == "baddbmm":
            flat = [part.flatten(0, 1) for part in (q, k, v)]
            bias = torch.empty(1, QUERIES, KEYS, device=x.device)
            weights = torch.baddbmm(bias, flat[0], flat[1].transpose(1, 2)).softmax(-1)
            return weights @ flat[2]
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


@pytest.mark.parametrize("way", ["fused", "einsum", "baddbmm", "matmul"])
def test_attention_in_closed_form(way: str) -> None:
    counts = count(nn.Sequential(nn.Identity(), _Attention(way)), (1, 1, 2, 2))
    assert counts.total("attention") == BATCH * HEADS * QUERIES * KEYS * (WIDTH + VALUES)
    assert counts.total("attention", ("1",)) == counts.total("attention")
    assert counts.total("attention", ("0",)) == 0


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 4, 6), (2, 3, 4, 6)])
def test_linear_layers_are_no_attention(shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        layer = nn.Linear(6, 5)
    counts = count(layer, shape)
    assert counts.total("attention") == 0
    assert counts.total("linear") == torch.Size(shape[:-1]).numel() * 6 * 5


def test_attention_of_pytorch_is_counted() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x)[0]

    with torch.device("meta"):
        layer = Layer()
    assert count(layer, (2, 10, 12)).total("attention") == 2 * 2 * 10 * 10 * 12
