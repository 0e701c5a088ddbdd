"""What can be timed: cases, contenders, and the truth they are measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scanseg.benchmarking.cases import ORDERS, QUICK, SCANS, Case, OrderedCase, ScanCase
from scanseg.benchmarking.orders import ORDER_CONTENDERS, gathered
from scanseg.benchmarking.parity import Function
from scanseg.benchmarking.peers import SCAN_CONTENDERS, Contender, law
from scanseg.registry import Registry


@dataclass(frozen=True)
class Suite:
    """Cases and contenders that fit each other.

    Attributes:
        name: `scan` or `orders`.
        cases: By name.
        contenders: By name.
        law: Computes the truth from float64 tensors.
        baseline: The contender that the others are compared with.
        case_type: Makes a case from its fields.
    """

    name: str
    cases: Registry[Any]
    contenders: Registry[Contender]
    law: Function
    baseline: str
    case_type: Callable[..., Case]

    def choose_cases(self, names: Sequence[str]) -> list[Case]:
        """Returns cases by name; `all` and `quick` stand for several.

        Raises:
            UsageError: A name is unknown; the hint lists near ones.
        """
        chosen: dict[str, Case] = {}
        for name in names:
            several = {"all": list(self.cases), "quick": QUICK[self.name]}.get(name, [name])
            chosen |= {one: self.cases[one] for one in several}
        return list(chosen.values())

    def choose_contenders(self, names: Sequence[str] | None) -> list[Contender]:
        """Returns contenders by name, all by default, the baseline first in any case.

        Raises:
            UsageError: A name is unknown; the hint lists near ones.
        """
        wanted = list(self.contenders) if names is None else [self.contenders[name].name for name in names]
        return [self.contenders[name] for name in dict.fromkeys([self.baseline, *wanted])]


SUITES = {
    "scan": Suite("scan", SCANS, SCAN_CONTENDERS, law, "cpu", ScanCase),
    "orders": Suite("orders", ORDERS, ORDER_CONTENDERS, gathered, "fused", OrderedCase),
}
