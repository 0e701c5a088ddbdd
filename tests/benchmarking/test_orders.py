"""Several scans in their own orders: each way to compute them against the definition, in float64."""

import pytest
import torch

from scanseg.benchmarking.cases import OrderedCase
from scanseg.benchmarking.contest import Settings, judge
from scanseg.benchmarking.orders import ORDER_CONTENDERS, gathered
from scanseg.benchmarking.suites import SUITES
from scanseg.kernels.reference import selective_scan_reference
from scanseg.scans.orders import cross_scan

CASES = [
    OrderedCase("cross", "", batch=2, dim=3, height=4, width=5, state=2, order="cross"),
    OrderedCase("sorted", "", batch=2, dim=3, height=4, width=5, state=2, order="sorted"),
]


def by_definition(case: OrderedCase) -> torch.Tensor:
    t = case.inputs(0).prepared("float64").tensors
    order = t["order"].expand(case.batch, 4, case.length)
    y = torch.zeros(case.batch, case.dim, case.length, dtype=torch.float64)
    for image in range(case.batch):
        for way in range(4):
            rows, path = slice(way * case.dim, (way + 1) * case.dim), order[image, way]
            scanned = selective_scan_reference(
                t["u"][image : image + 1][..., path],
                t["delta"][image : image + 1, rows][..., path],
                t["A"][rows],
                t["B"][image : image + 1, way][..., path],
                t["C"][image : image + 1, way][..., path],
                t["D"][rows],
                None,
                t["delta_bias"][rows],
                True,
            )
            y[image, :, path] += scanned[0]
    return y


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_law_is_the_definition(case: OrderedCase) -> None:
    y = gathered(**case.inputs(0).prepared("float64").tensors)
    assert torch.allclose(y, by_definition(case), atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", list(ORDER_CONTENDERS))
def test_contenders_agree_with_float64(name: str, case: OrderedCase) -> None:
    contender = ORDER_CONTENDERS[name]
    if reason := contender.why_not():
        pytest.skip(reason)
    assert judge(SUITES["orders"], case, [contender], Settings())[0].skipped == ""


def test_orders_are_permutations() -> None:
    for order in (cross_scan(3, 4), *(case.inputs(0).tensors["order"] for case in CASES)):
        assert torch.equal(order.sort(-1).values, torch.arange(order.shape[-1]).expand_as(order))
