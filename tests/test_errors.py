"""Errors survive the way between processes and list every finding."""

import copy
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from scanseg.errors import DataError, DatasetError, Error, Finding, UsageError


def fail() -> None:
    raise DataError("The file is cut.", code="E-TEST-CUT", hint="Copy it again.")


def test_errors_cross_processes() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool, pytest.raises(DataError) as caught:
        pool.submit(fail).result()
    assert (caught.value.code, caught.value.hint) == ("E-TEST-CUT", "Copy it again.")


def test_a_copy_keeps_the_findings() -> None:
    findings = [Finding("E-A-B", "error", "wrong", "case_1"), Finding("W-A-B", "warning", "odd", "case_2")]
    error = copy.copy(DatasetError(findings, what="Dataset"))
    assert error.findings == tuple(findings)
    assert "case_1" in error.message
    assert "case_2" not in error.message


@pytest.mark.parametrize(("kind", "code"), [(Error, 1), (UsageError, 2), (DataError, 3), (DatasetError, 3)])
def test_exit_codes(kind: type[Error], code: int) -> None:
    assert kind.exit_code == code


def test_a_usage_error_is_a_value_error() -> None:
    assert issubclass(UsageError, ValueError)
