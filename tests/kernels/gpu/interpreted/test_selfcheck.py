"""The check that stands between the kernels and their users."""

from functools import partial

import pytest
import torch

from scanseg.kernels.gpu import launch, selfcheck


@pytest.fixture
def few_steps(monkeypatch):
    """The interpreter takes a quarter of a minute for the whole check."""
    monkeypatch.setattr(selfcheck, "_example", partial(selfcheck._example, length=3))


def test_right_kernels_have_no_fault():
    assert selfcheck.fault("cpu") == ""


def test_a_wrong_gradient_is_a_fault(monkeypatch, few_steps):
    right = launch.backward

    def wrong(*arguments):
        gradients = right(*arguments)
        gradients[3] = gradients[3] * 1.001
        return gradients

    monkeypatch.setattr(launch, "backward", wrong)
    assert "differ from the reference by 1.0e-03" in selfcheck.fault("cpu")


def test_nan_is_a_fault(monkeypatch, few_steps):
    right = launch.backward

    def wrong(*arguments):
        gradients = right(*arguments)
        gradients[3][0, 0, 0, 0] = torch.nan
        return gradients

    monkeypatch.setattr(launch, "backward", wrong)
    assert "differ from the reference by nan" in selfcheck.fault("cpu")


def test_a_kernel_that_does_not_compile_is_a_fault(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("ptxas: unknown target\nand more")

    monkeypatch.setattr(launch, "forward", broken)
    assert selfcheck.fault("cpu") == (
        "its kernels do not run on this GPU (RuntimeError: ptxas: unknown target)"
    )
