"""The memory estimate against what autograd really keeps, and against a measured peak."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from scanseg.blocks.mamba import MambaBlock
from scanseg.networks import (
    NETWORKS,
    conv_feature_map_size,
    count_parameters,
    create_network,
    list_networks,
    training_memory_bytes,
)
from scanseg.networks.counting import SCANNING

_FACTS = ("spatial_dims", "in_channels", "out_channels", "patch_size")
_ARGUMENTS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "patch_size": (32, 48),
    "base_features": 4,
}


def _kept_bytes(module: Any, x: Tensor) -> int:
    """Bytes of the distinct storages autograd keeps, parameters left out."""
    ignored = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(x)
    del output
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", list_networks(spatial_dims=2))
@pytest.mark.parametrize("batch_size", [1, 3])
def test_activations_are_what_autograd_keeps(name: str, batch_size: int) -> None:
    known = NETWORKS[name].options
    wanted = {**_ARGUMENTS, "pad_to_fit": True, "hidden_size": 24, "mlp_dim": 48, "num_heads": 3}
    # Its width must be a multiple of 12.
    wanted["base_features"] = 12 if name == "swin_unetr" else 4
    arguments = {key: value for key, value in wanted.items() if key in _FACTS or key in known}
    estimate = training_memory_bytes(name, batch_size=batch_size, **arguments)
    network = create_network(name, deep_supervision=True, **arguments)
    # The estimate is that of plain attention; fused kernels keep less.
    with sdpa_kernel(SDPBackend.MATH):
        kept = _kept_bytes(network, torch.randn(batch_size, 1, 32, 48))
    assert estimate.activations_bytes == pytest.approx(kept, rel=0.02)
    assert estimate.parameters_bytes == 12 * count_parameters(network)
    assert (estimate.mamba_bytes > 0) == any(isinstance(part, SCANNING) for part in network.modules())


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc", "umamba_bot_v1", "umamba_enc_v1"])
def test_memory_grows_with_batch_and_shrinks_with_precision(name: str) -> None:
    one = training_memory_bytes(name, batch_size=1, **_ARGUMENTS)
    four = training_memory_bytes(name, batch_size=4, **_ARGUMENTS)
    assert four.activations_bytes == pytest.approx(4 * one.activations_bytes, rel=0.01)
    assert four.mamba_bytes == 4 * one.mamba_bytes
    assert four.parameters_bytes == one.parameters_bytes
    half = training_memory_bytes(name, batch_size=4, bytes_per_value=2, **_ARGUMENTS)
    assert half.mamba_bytes == four.mamba_bytes
    convolutions = four.activations_bytes - four.mamba_bytes
    assert half.activations_bytes - half.mamba_bytes == pytest.approx(convolutions / 2, rel=0.01)
    assert 0 < one.mamba_bytes < one.activations_bytes < one.total_bytes


def test_mamba_along_the_encoder_costs_more_than_in_the_bottleneck() -> None:
    arguments = {**_ARGUMENTS, "spatial_dims": 3, "patch_size": (32, 64, 64)}
    bot = training_memory_bytes("umamba_bot", batch_size=2, **arguments)
    enc = training_memory_bytes("umamba_enc_v1", batch_size=2, **arguments)
    assert enc.mamba_bytes > 100 * bot.mamba_bytes
    assert enc.mamba_bytes > 0.3 * enc.activations_bytes


def test_deep_supervision_keeps_little_more() -> None:
    on = conv_feature_map_size("umamba_bot", **_ARGUMENTS)
    off = conv_feature_map_size("umamba_bot", deep_supervision=False, **_ARGUMENTS)
    assert on - off == 3 * (16 * 24 + 8 * 12)


def test_feature_map_size_of_umamba_is_the_sum_over_its_convolutions() -> None:
    arguments = {**_ARGUMENTS, "strides": ((1, 1), (2, 2)), "kernel_sizes": ((3, 3), (3, 3))}
    fine, coarse = 32 * 48, 16 * 24
    stem_and_first = 2 * 3 * 4 * fine - 4 * fine
    first_stage = stem_and_first + 3 * 4 * fine + 2 * 4 * fine
    second_stage = 3 * 8 * coarse
    decoder = 4 * coarse + 3 * 4 * fine + 2 * 4 * fine + 3 * fine
    assert conv_feature_map_size("umamba_bot", **arguments) == first_stage + second_stage + decoder


def test_mamba_activations_are_what_autograd_keeps() -> None:
    block = MambaBlock(32)
    x = torch.randn(2, 512, 32, requires_grad=True)
    estimate = 2 * 4 * block.saved_values(512)
    assert estimate == pytest.approx(_kept_bytes(block, x), rel=0.03)


_PEAK = """
import torch
from scanseg.networks import create_network, training_memory_bytes

torch.set_num_threads(1)
arguments = dict(
    spatial_dims=2, in_channels=1, out_channels=2, patch_size=(128, 128), strides=((1, 1), *((2, 2),) * 3)
)
estimate = training_memory_bytes("{name}", batch_size=2, **arguments)
network = create_network("{name}", deep_supervision=True, **arguments)
optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

def step(edge):
    outputs = network(torch.randn(2, 1, edge, edge))
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)

def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

step(32)
before = resident("VmRSS:")
step(128)
print((resident("VmHWM:") - before) / (estimate.total_bytes - estimate.parameters_bytes))
"""


@pytest.mark.parametrize("name", ["nnunet_plain", "umamba_enc_v1"])
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the process from /proc")
def test_the_estimate_is_near_a_measured_peak(name: str) -> None:
    command = [sys.executable, "-c", _PEAK.format(name=name)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert 0.7 < float(run.stdout) < 1.4
