"""Patches: which values meet in which token."""

import torch
from torch import nn

from scanseg.blocks.patch import PatchEmbed, PatchExpand, PatchMerging


def test_embedding_cuts_squares() -> None:
    embed = PatchEmbed(2, 5, patch=4)
    embed.norm = nn.Identity()  # type: ignore[assignment]
    image = torch.randn(1, 2, 8, 12)
    square = image[0, :, 4:8, 8:12]
    expected = (embed.proj.weight * square).sum((1, 2, 3)) + embed.proj.bias
    tokens = embed(image)
    assert tokens.shape == (1, 2, 3, 5)
    torch.testing.assert_close(tokens[0, 1, 2], expected)


def test_merging_joins_four_neighbours_column_by_column() -> None:
    merge = PatchMerging(1)
    merge.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        merge.reduction.weight.copy_(torch.tensor([[1000.0, 100.0, 10.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
    x = torch.tensor([[1.0, 3.0], [2.0, 4.0]])[None, :, :, None]
    assert merge(x).flatten().tolist() == [1234.0, 4.0]


def test_expanding_lays_the_parts_out_row_by_row() -> None:
    expand = PatchExpand(1, 2, scale=2)
    expand.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        expand.expand.weight.copy_(torch.arange(8.0)[:, None])
    y = expand(torch.tensor([1.0, 10.0]).view(1, 1, 2, 1))
    assert y.shape == (1, 2, 4, 2)
    assert y[0, :, :2].flatten(1).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(y[0, :, 2:], 10 * y[0, :, :2])


def test_parameters_of_the_expanding_layers() -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(PatchExpand(768, 384)) == 1_180_416
    assert count(PatchExpand(96, 96, scale=4)) == 147_648
    assert count(PatchMerging(96)) == 74_496
    assert count(PatchEmbed(3, 96)) == 4_896


def test_volumes_are_treated_alike() -> None:
    tokens = PatchEmbed(2, 6, patch=4, spatial_dims=3)(torch.randn(1, 2, 4, 8, 8))
    assert tokens.shape == (1, 1, 2, 2, 6)
    merge, expand = PatchMerging(1, spatial_dims=3), PatchExpand(8, 1, spatial_dims=3)
    merge.norm = expand.norm = merge.reduction = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 4, 2, 6, 1)
    merged = merge(x)
    assert merged.shape == (1, 2, 1, 3, 8)
    # Merging lists the neighbours with the first axis fastest, expanding with the last.
    with torch.no_grad():
        expand.expand.weight.copy_(torch.eye(8).view(2, 2, 2, 8).permute(2, 1, 0, 3).reshape(8, 8))
    assert torch.equal(expand(merged), x)
