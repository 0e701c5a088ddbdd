"""The kernels' host functions as functions that autograd differentiates, on tensors in main memory."""

import pytest
import torch
from triton.runtime import interpreter

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
    def forward(ctx, softplus, *tensors):
        given = Arguments(*tensors, softplus)
        tiles = -(-given.u.shape[2] // 16)
        states = torch.empty(given.u.shape[0], tiles, given.A.shape[1], given.u.shape[1])
        y = torch.empty_like(given.u)
        launch.forward(given, y, states)
        ctx.save_for_backward(*tensors, states)
        ctx.softplus = softplus
        return y

    @staticmethod
    def backward(ctx, dy):
        *tensors, states = ctx.saved_tensors
        return None, *launch.backward(Arguments(*tensors, ctx.softplus), dy, states)


class _OrderedScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, order, merge, softplus, *tensors):
        given = Arguments(*tensors, softplus)
        y, states = launch.ordered_forward(given, order, merge=merge, keep_states=True)
        ctx.save_for_backward(*tensors, order, states)
        ctx.merge, ctx.softplus = merge, softplus
        return y

    @staticmethod
    def backward(ctx, dy):
        *tensors, order, states = ctx.saved_tensors
        given = Arguments(*tensors, ctx.softplus)
        gradients = launch.ordered_backward(given, order, dy, states, merge=ctx.merge)
        return None, None, None, *gradients


def _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return _Scan.apply(delta_softplus, u, delta, A, B, C, D, z, delta_bias)


def _ordered_scan(u, delta, A, B, C, D, delta_bias, delta_softplus, *, order, merge):
    return _OrderedScan.apply(order, merge, delta_softplus, u, delta, A, B, C, D, None, delta_bias)


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
