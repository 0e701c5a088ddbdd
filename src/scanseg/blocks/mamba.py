"""The Mamba-1 block on sequences, and the layer that applies it to feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scanseg.errors import UsageError
from scanseg.kernels import causal_conv1d, selective_scan
from scanseg.kernels.arguments import KEPT_EVERY

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class MambaBlock(nn.Module):
    """Mamba-1: input projection, causal convolution, selective scan with gate, output projection.

    Everything stays channel-last, as linear layers leave it; the scan is given transposed views. The block
    runs in the precision of its parameters (float32 unless the module was converted) whatever the autocast,
    because scan outputs reach 1e4 and more, and half precision then overflows or loses the small steps.

    Args:
        d_model: Width C of a token.
        d_state: States N per channel.
        d_conv: Taps of the causal convolution.
        expand: Inner width is `expand * d_model`.

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023); names,
        shapes and initialisation of the parameters equal those of `mamba_ssm.Mamba`, so its state_dict loads.
    """

    def __init__(self, d_model: int, *, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.reset_state_space()

    @torch.no_grad()
    def reset_state_space(self) -> None:
        """Draws the step sizes and sets A and D as Mamba starts them.

        softplus(dt_proj.bias) is log-uniform in [1e-3, 1e-1], dt_proj.weight uniform within +-dt_rank^-0.5,
        A = -(1 .. d_state) in every channel, D = 1.
        """
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        spread = math.log(DT_MAX) - math.log(DT_MIN)
        dt = torch.exp(torch.rand_like(self.dt_proj.bias) * spread + math.log(DT_MIN)).clamp(min=DT_FLOOR)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        self.A_log.copy_(torch.log(states).expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (B, L, C) to tokens (B, L, C); token t depends on tokens up to t only."""
        with autocast_off(x.device):
            inner, gate = self.in_proj(x.to(self.in_proj.weight.dtype)).chunk(2, dim=-1)
            inner = causal_conv1d(
                inner.transpose(1, 2), self.conv1d.weight[:, 0], self.conv1d.bias, silu=True
            ).transpose(1, 2)
            dt, b, c = self.x_proj(inner).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
            # The bias of dt_proj is added inside the scan, before the softplus.
            delta = narrow_linear(dt, self.dt_proj.weight)
            y = selective_scan(
                inner.transpose(1, 2),
                delta.transpose(1, 2),
                -torch.exp(_at_least_float32(self.A_log)),
                b.transpose(1, 2),
                c.transpose(1, 2),
                D=_at_least_float32(self.D),
                z=gate.transpose(1, 2),
                delta_bias=_at_least_float32(self.dt_proj.bias),
                delta_softplus=True,
            )
            return self.out_proj(y.transpose(1, 2))  # type: ignore[no-any-return]

    def macs(self, length: int) -> dict[str, int]:
        """Returns multiply-accumulates of one sequence: `linear`, `conv` (causal), `scan` (9 L D N)."""
        rank_states = self.dt_rank + 2 * self.d_state
        per_token = 3 * self.d_model + rank_states + self.dt_rank
        return {
            "linear": length * self.d_inner * per_token,
            "conv": length * self.d_inner * self.d_conv,
            "scan": 9 * length * self.d_inner * self.d_state,
        }

    def saved_values(self, length: int) -> int:
        """Returns how many values one sequence leaves in memory for the backward pass.

        The input C, both halves of the projection 2 D, the convolution's output, delta and the scan's output
        D each, the small projection, and the states the scan keeps.
        """
        states = self.d_inner * self.d_state * math.ceil(length / KEPT_EVERY)
        small = self.dt_rank + 2 * self.d_state
        return length * (self.d_model + 5 * self.d_inner + small) + states


def narrow_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Returns `F.linear(x, weight)` with a faster gradient of the weight where x (..., few) is narrow.

    Autograd keeps the memory layout of the second factor in its gradient. With the transposed weight it
    multiplies a tall by a narrow matrix, which takes libraries 15 times as long on processors.
    """
    return x @ weight.mT.contiguous()


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Returns a context in which autocast is off on `device`; does nothing on devices without autocast."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class MambaLayer(nn.Module):
    """LayerNorm and Mamba over a feature map (B, C, *spatial); same shape out.

    Args:
        d_model: Width of a token: the channels, or the elements of the map for channel tokens.
        map_size: None for patch tokens: every voxel is a token of its channels, read in row-major order (last
            axis fastest), any size. The spatial size for channel tokens: every channel is a token of its
            voxels, and no other size is accepted.
        patch_size: The plan's patch, named in the error of a channel-token layer that gets another size.
        residual: Adds the input to the output (ours; the paper and the released code do not).
        out_norm: LayerNorm on the output (ours; bounds the scan's outputs).
        checkpoint: Keep only the input for the backward pass, which computes the layer again.
        d_state, d_conv, expand: See MambaBlock.

    Source: U-Mamba, section 2.2 and figure 1a; channel tokens only in the released code (28459e3).
    """

    def __init__(
        self,
        d_model: int,
        *,
        map_size: Sequence[int] | None = None,
        patch_size: Sequence[int] = (),
        residual: bool = False,
        out_norm: bool = False,
        checkpoint: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.map_size = None if map_size is None else tuple(map_size)
        self.patch_size = tuple(patch_size)
        self.residual = residual
        self.norm = nn.LayerNorm(d_model)
        self.mamba = MambaBlock(d_model, d_state=d_state, d_conv=d_conv, expand=expand)
        self.out_norm = nn.LayerNorm(d_model) if out_norm else nn.Identity()

    @property
    def token(self) -> str:
        """`patch` or `channel`."""
        return "patch" if self.map_size is None else "channel"

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, *spatial) to the same shape.

        Raises:
            UsageError: A channel-token layer is given a map of another size than it was built for.
        """
        if self.map_size is not None and tuple(x.shape[2:]) != self.map_size:
            raise UsageError(
                f"This network reads channels as tokens, so it only accepts the patch size it was built for, "
                f"{self.patch_size} (a map of {self.map_size} here); it got a map of {tuple(x.shape[2:])}.",
                code="E-NETWORK-PATCH",
                hint="Feed patches of the plan's size, or use umamba_enc_v1 or umamba_bot: any size.",
            )
        with autocast_off(x.device):
            tokens = x.to(self.norm.weight.dtype).flatten(2)
            if self.map_size is None:
                tokens = tokens.transpose(1, 2)
            if self.checkpoint and torch.is_grad_enabled():
                y: Tensor = checkpoint(self._mix, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                y = self._mix(tokens)
            if self.map_size is None:
                y = y.transpose(1, 2)
            # The convolutions that follow are fastest on the layout they came in.
            y = y.reshape(x.shape).contiguous()
            return x + y if self.residual else y

    def _mix(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.out_norm(self.mamba(self.norm(tokens)))
        return y
