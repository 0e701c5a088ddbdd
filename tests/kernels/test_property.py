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


def decays(generator, *shape):
    """Returns exponents per step between 1e-4 and 20, even on a logarithmic scale."""
    return SLOWEST * (FASTEST / SLOWEST) ** torch.rand(*shape, generator=generator)


def errors(delta, generator):
    """Returns each channel's largest error relative to its largest true value."""
    _, channels, length = delta.shape
    states = 1 + length % 3
    u = torch.randn(1, channels, length, generator=generator)
    B, C = (torch.randn(1, states, length, generator=generator) for _ in range(2))
    A = -torch.ones(channels, states)
    with torch.no_grad():
        truth = selective_scan_reference(*(t.double() for t in (u, delta, A, B, C)))
        y = selective_scan(u, delta, A, B, C, backend="cpu")
    assert y.isfinite().all()
    return ((y - truth).abs().amax(-1) / truth.abs().amax(-1))[0]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("length", LENGTHS)
def test_any_length_and_decay(length):
    """Half of the channels with a new decay at every step, half with one per fifty steps."""
    generator = torch.Generator().manual_seed(length)
    free = decays(generator, 1, CASES // 2, length)
    runs = decays(generator, 1, CASES // 2, -(-length // 50)).repeat_interleave(50, -1)[..., :length]
    assert errors(torch.cat([free, runs], 1), generator).max() < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("length", [100, 10_000, 65_536])
def test_a_constant_decay_is_as_good_as_float32_can_hold_it(length):
    """One rounding of the decay, 2**-25 below 1, adds up over the steps that the state remembers."""
    generator = torch.Generator().manual_seed(length)
    decay = decays(generator, 1, CASES, 1)
    remembered = (1 / decay[0, :, 0]).clamp(max=length)
    # The polynomial may add another rounding.
    bound = 1e-6 + 2 * 2**-25 * remembered
    assert (errors(decay.expand(1, CASES, length), generator) < bound).all()
