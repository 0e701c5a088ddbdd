"""Weight gradients of 3D convolutions on processors, two to three times as fast as oneDNN's for AVX2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class FastConvolutions(TorchFunctionMode):
    """In this context, 3D convolutions compute their weight gradient as a convolution where that is faster.

    The gradient of a weight is the correlation of the input with the gradient of the output: a convolution
    whose batch is the input channels and whose channels are the batch. oneDNN has a fast kernel for that, but
    without AVX-512 only a slow one for the gradient itself. Values agree up to rounding, 1e-5 of the largest.

    Only float32 on a processor without AVX-512, stride 1, kernels wider than 1 on all three axes, no groups,
    no dilation, no autocast; all else runs as outside. Applies to the calling thread.

    Example:
        >>> x, convolution = torch.randn(1, 2, 4, 5, 6), torch.nn.Conv3d(2, 3, 3, padding=1)
        >>> with FastConvolutions():
        ...     y = convolution(x)
        >>> y.sum().backward()
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replaces `torch.conv3d` where `is_faster`."""
        if func is torch.conv3d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if groups == 1 and set(stride) | set(dilation) == {1} and is_faster(x, weight, padding):
                return _Convolution.apply(x, weight, bias, tuple(padding))  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def is_faster(x: Tensor, weight: Tensor, padding: Sequence[int] | str) -> bool:
    """Returns whether the weight gradient of such a convolution is faster as a convolution.

    The answer depends on sizes and the processor, never on a clock, so that a training can be repeated.

    Args:
        x: Input, (B, C, z, y, x).
        weight: (C_out, C, *kernel).
        padding: As the convolution got it.
    """
    return (
        weight.requires_grad
        and torch.is_grad_enabled()
        and not isinstance(padding, str)
        and x.dim() == 5
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape[2:]) > 1
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


class _Convolution(torch.autograd.Function):
    """A convolution of stride 1 with the other weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return torch.conv3d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        dx = dweight = None
        if wants_x:
            ones, zeros = [1, 1, 1], [0, 0, 0]
            dx = torch.ops.aten.convolution_backward(
                dy, x, weight, None, ones, ctx.padding, ones, False, zeros, 1, (True, False, False)
            )[0]
        if wants_weight:
            dweight = torch.conv3d(x.transpose(0, 1), dy.transpose(0, 1), padding=ctx.padding).transpose(0, 1)
        return dx, dweight, dy.sum((0, 2, 3, 4)) if wants_bias else None, None
