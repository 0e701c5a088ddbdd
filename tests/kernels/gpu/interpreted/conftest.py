"""The kernels' host functions as functions that autograd differentiates, on tensors in main memory."""

import pytest
import torch
from triton.runtime import interpreter

from scanseg.kernels import op, ordered
from scanseg.kernels.arguments import Arguments
from scanseg.kernels.gpu import launch

_prepared: set[int] = set()


def _call(self, *arguments, **options):
    if id(self.fn.__globals__) not in _prepared:
        _prepared.add(id(self.fn.__globals__))
        interpreter._patch_lang(self.fn)
    return self.rewrite()(*arguments, **options)


# As shipped, each call of a device function prepares the language anew, which takes more than half of the
# time.
interpreter.InterpretedFunction.__call__ = _call


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, softplus, order, merge, *tensors):
        given = Arguments(*tensors, softplus, order)
        if order is None:
            y, states = op._new_outputs(given.u, given.A, True)
        else:
            y, states = ordered._new_outputs(given.u, given.delta, given.A, order, merge, True)
        launch.forward(given, y, states)
        ctx.save_for_backward(*tensors, order, states)
        ctx.softplus = softplus
        return y

    @staticmethod
    def backward(ctx, dy):
        *tensors, order, states = ctx.saved_tensors
        return None, None, None, *launch.backward(Arguments(*tensors, ctx.softplus, order), dy, states)


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return _Scan.apply(delta_softplus, None, True, u, delta, A, B, C, D, z, delta_bias)


def _ordered_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, *, order, merge):
    return _Scan.apply(delta_softplus, order, merge, u, delta, A, B, C, D, None, delta_bias)


@pytest.fixture(scope="session")
def interpreted_scan():
    """`selective_scan` through the kernels."""
    return _scan


@pytest.fixture(scope="session")
def interpreted_ordered_scan():
    """`ordered_scan` through the kernels."""
    return _ordered_scan


@pytest.fixture
def poisoned():
    """Fills fresh memory with NaN, so that a value nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
