"""Cases and their inputs."""

import pytest
import torch

from scanseg.benchmarking.cases import ORDERS, SCANS, ScanCase, sizes
from scanseg.benchmarking.suites import SUITES
from scanseg.kernels.arguments import Arguments, check_arguments

CASE = ScanCase("tiny", "", batch=2, dim=4, length=6, state=3, groups=2, gate=True)


def test_inputs_are_a_function_of_the_seed() -> None:
    one, same, other = CASE.inputs(1), CASE.inputs(1), CASE.inputs(2)
    assert all(torch.equal(one.tensors[name], same.tensors[name]) for name in one.tensors)
    assert not torch.equal(one.tensors["u"], other.tensors["u"])
    assert not torch.equal(one.tensors["u"], one.tensors["delta"])


def test_the_operator_takes_the_inputs() -> None:
    t = CASE.inputs(0).tensors
    check_arguments(
        Arguments(t["u"], t["delta"], t["A"], t["B"], t["C"], t["D"], t["z"], t["delta_bias"], True)
    )


def test_layouts_have_equal_values_and_other_strides() -> None:
    first, last = CASE.inputs(0).prepared("float32"), CASE.inputs(0).prepared("float32", "last")
    assert all(torch.equal(first.tensors[name], last.tensors[name]) for name in first.tensors)
    assert first.tensors["u"].stride() == (24, 6, 1)
    assert last.tensors["u"].stride() == last.dy.stride() == (24, 1, 4)
    assert last.tensors["B"].stride() == (36, 18, 1, 3)


def test_only_sequences_are_rounded() -> None:
    kinds = {name: tensor.dtype for name, tensor in CASE.inputs(0).prepared("bfloat16").tensors.items()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"u", "delta", "B", "C", "z"}


@pytest.mark.parametrize("suite", list(SUITES))
def test_a_case_survives_the_way_to_another_process(suite: str) -> None:
    for case in SUITES[suite].cases.values():
        assert SUITES[suite].case_type(name=case.name, summary=case.summary, **sizes(case)) == case


def test_shortened() -> None:
    assert SCANS["umamba_stage0"].shortened(64).length == 64
    assert CASE.shortened(99) == CASE
    map_ = ORDERS["cross_64x64"].shortened(200)
    assert (map_.height, map_.width, map_.length) == (3, 64, 192)
