"""Which backend runs, why not the others, and that a forced one never falls back."""

import builtins
import logging

import pytest
import torch

from scanseg.errors import UsageError
from scanseg.kernels import backends, selective_scan


def test_every_backend_says_whether_it_runs_or_why_not():
    found = {status.name: status for status in backends.list_backends()}
    assert list(found) == ["cuda", "cpu", "reference"]
    for status in found.values():
        assert status.detail
        assert status.available == (status.reason == "")
    assert found["reference"].available
    assert found["cpu"].available
    assert "channels at a time" in found["cpu"].detail


def test_the_detail_says_where_compiled_code_is_kept():
    backends.warm_up()
    detail = next(s.detail for s in backends.list_backends() if s.name == "cpu")
    assert "compiled, kept in " in detail


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float32, "cpu"),
        (torch.bfloat16, "cpu"),
        (torch.float16, "cpu"),
        (torch.float64, "reference"),
    ],
    ids=str,
)
def test_processor_tensors(dtype, expected):
    assert backends.select(torch.zeros(1, 1, 1, dtype=dtype)) == expected


@pytest.mark.parametrize(
    ("backend", "tensor", "words"),
    [
        ("cpu", torch.zeros(1, 1, 1, dtype=torch.float64), "float32, got float64"),
        ("cuda", torch.zeros(1, 1, 1), "takes tensors on cuda, got cpu"),
    ],
)
def test_a_forced_backend_that_cannot_run_is_refused(backend, tensor, words):
    with pytest.raises(UsageError, match=words) as caught:
        backends.select(tensor, backend)
    assert caught.value.code == "E-SCAN-BACKEND"
    assert "scanseg doctor" in caught.value.hint


def test_an_unknown_backend_names_its_neighbours():
    with pytest.raises(UsageError, match="Did you mean cpu"):
        backends.select(torch.zeros(1, 1, 1), "cpuu")


def test_without_numba_the_reference_runs_and_says_so(monkeypatch, caplog):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "numba":
            raise ImportError("Numba needs NumPy 1.0")
        return real(name, *arguments, **options)

    monkeypatch.setattr(backends, "_known", {})
    monkeypatch.setattr(backends, "_warned", set())
    monkeypatch.setattr(builtins, "__import__", refuse)
    u = torch.ones(1, 1, 3)
    with caplog.at_level(logging.WARNING):
        selective_scan(u, u, -torch.ones(1, 1), u, u)
        selective_scan(u, u, -torch.ones(1, 1), u, u)
    assert len(caplog.records) == 1
    assert "slow reference loop on cpu" in caplog.text
    assert "numba cannot be imported: Numba needs NumPy 1.0" in caplog.text
    with pytest.raises(UsageError, match="Numba needs NumPy"):
        selective_scan(u, u, -torch.ones(1, 1), u, u, backend="cpu")


@pytest.mark.parametrize(
    ("hip", "capabilities", "triton", "words"),
    [
        ("7.0", [], True, "built for AMD GPUs"),
        (None, [], True, "no CUDA device"),
        (None, [(9, 0), (7, 5)], True, "capability 8.0 or newer, found 7.5"),
        (None, [(9, 0)], False, "triton is not installed"),
    ],
)
def test_why_there_is_no_gpu_kernel(monkeypatch, hip, capabilities, triton, words):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(backends, "is_installed", lambda module: triton)
    assert words in backends.BACKENDS["cuda"].why_not()
