"""Memory of a call, and children that do not answer."""

import subprocess
import sys

import pytest

from scanseg.benchmarking.child import run_in_child
from scanseg.benchmarking.memory import available_bytes
from scanseg.benchmarking.probe import probe

MIB = 2**20
CASE = {"name": "tiny", "summary": "", "batch": 1, "dim": 4, "length": 200, "state": 2}
REQUEST = {"suite": "scan", "limit_bytes": None, "threads": 1, "seed": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the high-water mark be reset")
def test_the_peak_is_what_was_allocated_at_once() -> None:
    # In a process of its own, as it is used: threads of other tests may give memory back meanwhile.
    script = """
import torch
from scanseg.benchmarking.memory import peak_extra_bytes

def call():
    one = torch.ones(2**24)
    two = one + 1
    del one, two
    torch.ones(2**24)

print(peak_extra_bytes(call), peak_extra_bytes(lambda: None))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    peak, nothing = map(int, answer.stdout.split())
    assert 126 * MIB < peak < 140 * MIB
    assert nothing < 4 * MIB


def test_available_memory_is_plausible() -> None:
    free = available_bytes()
    assert free is None or 2**24 < free < 2**50


def test_a_slow_contender_is_shortened_and_a_fast_one_is_not() -> None:
    slow = list(probe(contender="reference", cases=[CASE], limit_s=0.0, **REQUEST))
    assert [answer["length"] for answer in slow] == [16]
    patient = list(probe(contender="reference", cases=[CASE], limit_s=1e3, **REQUEST))
    assert patient[0]["length"] == CASE["length"]
    cautious = list(probe(contender="reference", cases=[CASE], limit_s=1e3, **REQUEST | {"limit_bytes": -1}))
    assert cautious[0]["length"] < CASE["length"] or cautious[0]["peak_bytes"] is None


def test_a_child_that_fails_says_why() -> None:
    request = REQUEST | {"contender": "nobody", "cases": [CASE], "limit_s": 1.0}
    answers = list(run_in_child("probe", request, timeout_s=100))
    assert len(answers) == 1
    assert "nobody" in answers[0]["failed"]


def test_a_silent_child_is_ended() -> None:
    request = REQUEST | {"contender": "cpu", "cases": [CASE], "limit_s": 1.0}
    answers = list(run_in_child("probe", request, timeout_s=0.01))
    assert answers == [{"failed": "no answer within 0 s"}]
