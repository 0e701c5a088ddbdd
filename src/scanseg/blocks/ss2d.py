"""SS2D: selective scans of a map in several orders, each with its own parameters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scanseg.blocks.dims import layers
from scanseg.blocks.mamba import DT_FLOOR, DT_MAX, DT_MIN, autocast_off, narrow_linear
from scanseg.kernels import ordered_scan
from scanseg.kernels.arguments import KEPT_EVERY
from scanseg.scans import CrossScan, ScanOrder

# What the weights alpha do: nothing there, on what enters a scan, on what leaves it, there but unused.
REWEIGHTINGS = ("off", "before", "after", "idle")


class SS2D(nn.Module):
    """Projection, depthwise convolution, K selective scans, norm, gate, projection.

    All maps are channel-last, and every projection stays at the tokens' own positions; only the scan follows
    the order. Like the Mamba block it runs in the precision of its parameters whatever the autocast.

    Args:
        features: Width C of a token.
        order: Which scans, and how they read a map.
        d_state: States N per channel.
        expand: Inner width D is `expand * features`.
        spatial_dims: 3 makes the depthwise convolution one of volumes (ours; VMamba is 2D); the order must
            then know volumes, too.
        reweight: `before` multiplies the sequence of scan k by a learnable alpha_k before everything in the
            scan, its step sizes and projections included; `after` multiplies its result; `idle` has the
            alphas and does not use them.

    Source: VMamba (Liu 2024), SS2D of its first version; names and shapes of the parameters equal those of
        its released weights. The alphas are those of UD-Mamba: `before` its equations 11 and 12, `after` its
        released code (f8aa3b8).
    """

    def __init__(
        self,
        features: int,
        *,
        order: ScanOrder | None = None,
        d_state: int = 16,
        expand: int = 2,
        reweight: str = "off",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.order: ScanOrder = CrossScan() if order is None else order
        self.scans = len(self.order.names)
        self.features, self.d_state, self.d_inner = features, d_state, expand * features
        self.dt_rank, self.reweight = math.ceil(features / 16), reweight
        k, inner = self.scans, self.d_inner
        self.in_proj = nn.Linear(features, 2 * inner, bias=False)
        self.spatial_dims = spatial_dims
        self.conv2d = layers(spatial_dims).conv(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(k, self.dt_rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(k, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(k, inner))
        self.A_logs = nn.Parameter(torch.empty(k * inner, d_state))
        self.Ds = nn.Parameter(torch.ones(k * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, features, bias=False)
        self.alpha = None if reweight == "off" else nn.Parameter(torch.ones(k))
        self.reset_state_space()

    @torch.no_grad()
    def reset_state_space(self) -> None:
        """Draws the projections and step sizes and sets A and D as VMamba starts them.

        softplus(dt_projs_bias) is log-uniform in [1e-3, 1e-1], dt_projs_weight uniform within
        +-dt_rank^-0.5, x_proj_weight like a linear layer's, A = -(1 .. d_state) in every channel, D = 1.
        """
        nn.init.uniform_(self.x_proj_weight, -(self.d_inner**-0.5), self.d_inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        spread = math.log(DT_MAX) - math.log(DT_MIN)
        dt = torch.exp(torch.rand_like(self.dt_projs_bias) * spread + math.log(DT_MIN)).clamp(min=DT_FLOOR)
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_logs.device)
        self.A_logs.copy_(torch.log(states).expand_as(self.A_logs))
        nn.init.ones_(self.Ds)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """Maps (B, *spatial, C) to the same shape.

        Args:
            x: The map.
            factor: Further weights of the scans, (K,), multiplied with the alphas.
        """
        with autocast_off(x.device):
            inner, gate = self._project(x)
            return self._leave(self.scan(inner, factor, merge=True), gate)

    def forward_with_scans(self, x: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns what `forward` does, and each scan before they are added, (B, K, D, L)."""
        with autocast_off(x.device):
            inner, gate = self._project(x)
            scans = self.scan(inner, factor, merge=False)
            return self._leave(scans.sum(1), gate), scans

    def inner(self, x: Tensor) -> Tensor:
        """Returns what the scans read and the order is made from, (B, *spatial, D)."""
        with autocast_off(x.device):
            return self._project(x)[0]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.to(self.in_proj.weight.dtype)
        # Two products, not one: the halves of one would be strided, and the convolution would copy its half.
        first, second = self.in_proj.weight.chunk(2)
        convolved = self.conv2d(F.linear(x, first).movedim(-1, 1)).movedim(1, -1)
        return F.silu(convolved), F.linear(x, second)

    def scan(self, inner: Tensor, factor: Tensor | None = None, *, merge: bool = True) -> Tensor:
        """Returns the scans of `inner` (B, *spatial, D): their sum (B, D, L), or each (B, K, D, L)."""
        tokens = inner.flatten(1, -2)
        projection, skip = self._weights(factor)
        small = F.linear(tokens, projection.flatten(0, 1)).view(*tokens.shape[:2], self.scans, -1)
        parts = [self.dt_rank, self.d_state, self.d_state]
        dt, b, c = torch.split(small, parts, dim=-1)  # type: ignore[no-untyped-call]
        delta = [narrow_linear(dt[:, :, k], weight) for k, weight in enumerate(self.dt_projs_weight)]
        at_least_float32 = torch.promote_types(self.A_logs.dtype, torch.float32)
        return ordered_scan(
            tokens.transpose(1, 2),
            torch.cat(delta, -1).transpose(1, 2),
            -torch.exp(self.A_logs.to(at_least_float32)),
            b.permute(0, 2, 3, 1),
            c.permute(0, 2, 3, 1),
            D=skip.to(at_least_float32),
            delta_bias=self.dt_projs_bias.flatten().to(at_least_float32),
            delta_softplus=True,
            order=self.order(inner),
            merge=merge,
        )

    def _weights(self, factor: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the projection to step sizes, B and C and the skip D with the alphas in them.

        A scan is linear in its input, in B and in C, so a factor on its input, which also scales what is
        projected from it, is alpha on the step sizes, alpha^2 on B, alpha on C and alpha on D. A factor on
        its result is alpha on C and D. So no sequence is copied.
        """
        if self.alpha is None or self.reweight == "idle":
            return self.x_proj_weight, self.Ds
        alpha = (self.alpha if factor is None else self.alpha * factor)[:, None]
        one = torch.ones_like(alpha)
        step, b = (alpha, alpha.square()) if self.reweight == "before" else (one, one)
        sizes = (self.dt_rank, self.d_state, self.d_state)
        rows = torch.cat(
            [part.expand(-1, size) for part, size in zip((step, b, alpha), sizes, strict=True)], 1
        )
        return self.x_proj_weight * rows[..., None], (self.Ds.view(self.scans, -1) * alpha).flatten()

    def _leave(self, y: Tensor, gate: Tensor) -> Tensor:
        normed = self.out_norm(y.transpose(1, 2).view_as(gate))
        return self.out_proj(normed * F.silu(gate))  # type: ignore[no-any-return]

    def macs(self, length: int) -> dict[str, int]:
        """Returns multiply-accumulates of one map: `linear`, `conv`, `scan` (9 L D N each)."""
        small = self.dt_rank + 2 * self.d_state
        per_token = 3 * self.features + self.scans * (small + self.dt_rank)
        return {
            "linear": length * self.d_inner * per_token,
            "conv": length * self.d_inner * 3**self.spatial_dims,
            "scan": 9 * length * self.scans * self.d_inner * self.d_state,
        }

    def saved_values(self, length: int, batch: int = 1) -> int:
        """Returns how many values, counted as float32, stay in memory for the backward pass.

        Per token: the input C; D each for the projection, the convolution's output before and after SiLU, the
        scans' sum, the norm's output, the gate before and after SiLU and their product; two statistics; the
        small projections; step sizes K D; the order. Per 16 tokens the states of each scan. Once: A and its
        exponential, and the weights with the alphas in them.
        """
        k, inner = self.scans, self.d_inner
        small = self.dt_rank + 2 * self.d_state
        tokens = batch * length * (self.features + (8 + k) * inner + 2 + k * small)
        orders = 2 * k * length * (1 if isinstance(self.order, CrossScan) else batch)
        states = batch * k * inner * self.d_state * math.ceil(length / KEPT_EVERY)
        weights = 2 * k * inner * self.d_state
        if self.reweight in ("before", "after"):
            weights += k * small * inner + k * inner
        return tokens + orders + states + weights
