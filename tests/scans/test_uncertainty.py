"""Channel uncertainty by definition, ranks with and without ties and regions, and UD-Mamba's four orders."""

import math

import pytest
import torch
from torch import Tensor

from scanseg.errors import UsageError
from scanseg.scans import (
    SCANS,
    UNCERTAINTIES,
    UncertaintyScan,
    channel_uncertainty,
    cross_scan,
    inverse,
    rank_tokens,
    raster,
    region_size,
    uncertainty_orders,
)


def _features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _by_definition(values: list[float], measure: str) -> float:
    count = len(values)
    mean = sum(values) / count
    if measure in ("std", "variance"):
        variance = sum((value - mean) ** 2 for value in values) / count
        return math.sqrt(variance) if measure == "std" else variance
    if measure == "mad":
        return sum(abs(value - mean) for value in values) / count
    if measure == "range":
        first, second = sorted(values)[-1:-3:-1]
        return first - second
    weights = [math.exp(value) for value in values]
    shares = [weight / sum(weights) for weight in weights]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("measure", UNCERTAINTIES)
def test_measures_equal_their_definition(measure: str) -> None:
    features = _features(2, 3, 2, 5)
    found = channel_uncertainty(features, measure)
    assert found.shape == (2, 3, 2)
    for place in [(0, 0, 0), (0, 2, 1), (1, 1, 0)]:
        assert found[place].item() == pytest.approx(
            _by_definition(features[place].tolist(), measure), rel=1e-5
        )


def test_the_sign_turns_only_the_range_around() -> None:
    features = _features(1, 4, 4, 6)
    plain = channel_uncertainty(features, "range")
    assert torch.equal(channel_uncertainty(features, "range", range_sign=-1), -plain)
    assert torch.equal(
        channel_uncertainty(features, "mad", range_sign=-1), channel_uncertainty(features, "mad")
    )


@pytest.mark.parametrize("measure", UNCERTAINTIES)
def test_one_channel_has_no_uncertainty(measure: str) -> None:
    assert not channel_uncertainty(_features(1, 2, 3, 1), measure).any()


def test_there_is_no_gradient_and_half_precision_is_widened() -> None:
    features = _features(1, 2, 2, 4).requires_grad_()
    assert not channel_uncertainty(features).requires_grad
    assert channel_uncertainty(features.bfloat16()).dtype == torch.float32
    assert channel_uncertainty(features.double()).dtype == torch.float64
    assert not UncertaintyScan()(features).requires_grad


def test_ranks_descend_and_ties_stay_in_raster_order() -> None:
    uncertainty = torch.tensor([[[1.0, 3.0, 2.0], [3.0, 2.0, 0.0]]])
    assert rank_tokens(uncertainty).tolist() == [[1, 3, 2, 4, 0, 5]]
    assert torch.equal(rank_tokens(torch.ones(2, 9, 11)), raster(99).expand(2, -1))


def test_the_skip_scan_takes_every_width_th_rank() -> None:
    orders = uncertainty_orders(raster(12), 4)[0].tolist()
    assert orders[1] == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert orders[0] == list(range(12))
    assert orders[2] == orders[0][::-1]
    assert orders[3] == orders[1][::-1]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 4), (8, 8)])
def test_with_raster_ranks_the_orders_are_the_cross_scan(height: int, width: int) -> None:
    assert torch.equal(uncertainty_orders(raster(height * width), width)[0], cross_scan(height, width))
    constant = torch.ones(1, height, width, 3)
    assert torch.equal(UncertaintyScan()(constant)[0], cross_scan(height, width))


@pytest.mark.parametrize("scans", [SCANS, ("skip_up",), ("sequential_down", "sequential_up"), SCANS[::-1]])
def test_any_subset_of_scans_can_be_recovered(scans: tuple[str, ...]) -> None:
    features = _features(3, 4, 5, 6)
    order = UncertaintyScan(scans=scans)(features)
    assert order.shape == (3, len(scans), 20)
    tokens = features.flatten(1, 2)[:, None].expand(-1, len(scans), -1, -1)
    read = tokens.take_along_dim(order[..., None], 2)
    assert torch.equal(read.take_along_dim(inverse(order)[..., None], 2), tokens)
    full = UncertaintyScan()(features)
    assert torch.equal(order, full[:, [SCANS.index(name) for name in scans]])


@pytest.mark.parametrize(("height", "width", "region"), [(8, 8, 2), (8, 8, 4), (6, 10, 4), (5, 3, 2)])
def test_regions_are_read_as_wholes_from_the_most_uncertain_average(
    height: int, width: int, region: int
) -> None:
    uncertainty = _features(2, height, width).abs()
    for sample, ranked in zip(uncertainty, rank_tokens(uncertainty, region=region), strict=True):
        places = [(int(token) // width, int(token) % width) for token in ranked]
        squares = [(row // region, column // region) for row, column in places]
        visited = list(dict.fromkeys(squares))
        means = []
        for square in visited:
            inside = [place for place, where in zip(places, squares, strict=True) if where == square]
            assert inside == sorted(inside)
            first = squares.index(square)
            assert squares[first : first + len(inside)] == [square] * len(inside)
            means.append(sum(sample[place].item() for place in inside) / len(inside))
        assert means == sorted(means, reverse=True)
        assert len(set(places)) == height * width


def test_a_region_of_one_is_the_pixel_and_one_of_the_whole_map_the_raster() -> None:
    uncertainty = _features(2, 6, 4)
    assert torch.equal(rank_tokens(uncertainty, region=1), uncertainty.flatten(1).argsort(descending=True))
    for region in (6, 64):
        assert torch.equal(rank_tokens(uncertainty, region=region), raster(24).expand(2, -1))


def test_standard_deviation_and_variance_rank_alike_and_mad_does_not() -> None:
    features = 1 + 1e-4 * _features(2, 48, 48, 16)
    std, variance, mad = (UncertaintyScan(measure=name)(features) for name in ("std", "variance", "mad"))
    assert torch.equal(std, variance)
    assert not torch.equal(std, mad)


def test_region_rules_follow_the_stage() -> None:
    sides = [64, 32, 16, 8]
    for rule, expected in (
        ("proportional", [side // 8 for side in sides]),
        ("inverse", [64 // side for side in sides]),
    ):
        assert [region_size(rule, stage=stage, stages=4) for stage in range(4)] == expected
    assert region_size(4, stage=2, stages=4) == 4


@pytest.mark.parametrize("region", [0, -2, 1.5, True, "dynamic", None])
def test_other_regions_are_refused(region: object) -> None:
    with pytest.raises(UsageError, match="region"):
        region_size(region, stage=0, stages=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"measure": "deviation"}, "uncertainty"),
        ({"range_sign": 0}, "range_sign"),
        ({"scans": ()}, "scans"),
        ({"scans": ("skip_down", "skip_down")}, "scans"),
        ({"scans": ("cross",)}, "scans"),
    ],
)
def test_unknown_values_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        UncertaintyScan(**options)  # type: ignore[arg-type]


def test_volumes_skip_at_the_interval_of_the_last_side_and_rank_cubes() -> None:
    features = _features(2, 4, 2, 6, 3)
    order = UncertaintyScan()(features)
    assert order.shape == (2, 4, 48)
    assert torch.equal(order[:, 1], order[:, 0].view(2, 8, 6).transpose(1, 2).flatten(1))
    cubes = rank_tokens(channel_uncertainty(features), region=2)
    for sample in cubes:
        places = [(int(t) // 12 // 2, int(t) % 12 // 6 // 2, int(t) % 6 // 2) for t in sample]
        assert len(set(places)) == 6
        assert [len(set(places[start : start + 8])) for start in range(0, 48, 8)] == [1] * 6
    assert torch.equal(rank_tokens(channel_uncertainty(features), region=9), raster(48).expand(2, -1))
