"""Two thousand random scans against float64: any length, any decay, finite and accurate."""

import pytest
import torch

from scanseg.kernels import selective_scan
from scanseg.kernels.reference import selective_scan_reference

# Each channel of a scan is a case of its own; 20 lengths with 100 channels each.
LENGTHS = (
    1,
    2,
    7,
    15,
    16,
    17,
    31,
    64,
    100,
    255,
    256,
    257,
    1000,
    1024,
    4095,
    4096,
    10_000,
    16_384,
    30_001,
    65_536,
)
CASES = 100
SLOWEST, FASTEST = 1e-4, 20.0


def decays(length, generator):
    """Returns step sizes (1, CASES, length): a third constant, a third any at every step, a third in runs."""

    def between(*shape):
        return SLOWEST * (FASTEST / SLOWEST) ** torch.rand(*shape, generator=generator)

    third = CASES // 3
    constant = between(1, third, 1).expand(1, third, length)
    free = between(1, third, length)
    runs = between(1, CASES - 2 * third, -(-length // 50)).repeat_interleave(50, -1)[..., :length]
    return torch.cat([constant, free, runs], 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_and_decay(length):
    generator = torch.Generator().manual_seed(length)
    states = 1 + length % 3
    u = torch.randn(1, CASES, length, generator=generator)
    B, C = (torch.randn(1, states, length, generator=generator) for _ in range(2))
    delta = decays(length, generator)
    A = -torch.ones(CASES, states)
    with torch.no_grad():
        truth = selective_scan_reference(*(t.double() for t in (u, delta, A, B, C)))
        y = selective_scan(u, delta, A, B, C, backend="cpu")
    assert y.isfinite().all()
    error = (y - truth).abs().amax(-1) / truth.abs().amax(-1)
    assert error.max() < 1e-4, f"channel {error.argmax().item()}"
