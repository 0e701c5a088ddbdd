"""The gate that a time has to pass."""

import pytest
import torch

from scanseg.benchmarking.cases import ScanCase
from scanseg.benchmarking.contest import Settings, judge
from scanseg.benchmarking.parity import compare, parity_length
from scanseg.benchmarking.peers import Contender, law
from scanseg.benchmarking.suites import SUITES

CASE = ScanCase("tiny", "", batch=2, dim=4, length=37, state=3, groups=2, gate=True)


def slightly_wrong(**tensors):
    return law(**tensors) * 1.001


def wrong_gradient(**tensors):
    return law(**tensors | {"B": tensors["B"].detach() + 0 * tensors["B"]})


def not_finite(**tensors):
    y = law(**tensors).clone()
    y[0, 0, -1] = float("nan")
    return y


def wrong_shape(**tensors):
    return law(**tensors)[..., :1]


def broken(**tensors):
    raise RuntimeError("no such instruction")


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (slightly_wrong, "off by 1.0e-03"),
        (wrong_gradient, "gradient of B"),
        (not_finite, "not finite"),
        (wrong_shape, "fails"),
        (broken, "no such instruction"),
    ],
)
def test_a_wrong_contender_is_refused(function, fault: str) -> None:
    entry = judge(SUITES["scan"], CASE, [Contender("wrong", "", function)], Settings())[0]
    assert fault in entry.skipped


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["first", "last"])
def test_the_reference_passes(dtype: str, layout: str) -> None:
    entry = judge(SUITES["scan"], CASE, [Contender("law", "", law, layout, dtype)], Settings())[0]
    assert entry.skipped == ""
    assert entry.parity is not None
    assert entry.parity.length == CASE.length


def test_the_worst_tensor_is_named() -> None:
    truth = {"output": torch.tensor([1.0, 2.0]), "gradient of u": torch.tensor([10.0, -20.0])}
    values = {"output": torch.tensor([1.0, 2.0]), "gradient of u": torch.tensor([10.0, -19.0])}
    parity = compare(values, truth, tolerance=0.06, length=2)
    assert (parity.agrees, parity.tensor, parity.worst) == (True, "gradient of u", pytest.approx(0.05))
    assert not compare(values, truth, tolerance=0.04, length=2).agrees
    missing = compare({"output": truth["output"]}, truth, tolerance=1.0, length=2)
    assert (missing.agrees, missing.worst) == (False, None)


def test_long_cases_are_compared_on_fewer_steps() -> None:
    long = ScanCase("long", "", batch=8, dim=3072, length=65536, state=16)
    assert 16 <= parity_length(long, slow=True) <= parity_length(long) < long.length
    assert parity_length(CASE) == parity_length(CASE, slow=True) == CASE.length
