"""Every formulation that is timed computes the scan."""

import pytest

from scanseg.benchmarking.cases import ScanCase
from scanseg.benchmarking.contest import Settings, judge
from scanseg.benchmarking.peers import SCAN_CONTENDERS
from scanseg.benchmarking.suites import SUITES
from scanseg.errors import UsageError

CASES = [
    ScanCase("plain", "", batch=2, dim=6, length=33, state=4),
    ScanCase("gated groups", "", batch=1, dim=8, length=32, state=1, groups=4, gate=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", list(SCAN_CONTENDERS))
def test_contenders_agree_with_float64(name: str, case: ScanCase) -> None:
    contender = SCAN_CONTENDERS[name]
    if reason := contender.why_not():
        pytest.skip(reason)
    entry = judge(SUITES["scan"], case, [contender], Settings())[0]
    assert entry.skipped == ""
    assert entry.parity is not None
    assert entry.parity.length == case.length


def test_unknown_names_have_neighbours() -> None:
    with pytest.raises(UsageError, match="mambapy"):
        SUITES["scan"].choose_contenders(["mambapi"])
    with pytest.raises(UsageError, match="stage_8x8"):
        SUITES["scan"].choose_cases(["stage_8x9"])


def test_the_baseline_always_runs_and_comes_first() -> None:
    chosen = SUITES["scan"].choose_contenders(["naive", "cpu", "naive"])
    assert [contender.name for contender in chosen] == ["cpu", "naive"]


def test_sets_of_shapes_are_opened() -> None:
    quick = [case.name for case in SUITES["scan"].choose_cases(["quick", "block"])]
    assert quick == ["block", "umamba_bottleneck_2d"]
    assert len(SUITES["scan"].choose_cases(["all"])) == len(SUITES["scan"].cases)
