"""The kernels compile for GPUs that are not there, and a thread holds all steps of a tile of its channels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scanseg.optional import is_installed

KERNELS = {
    "ends_kernel",
    "carry_kernel",
    "outputs_kernel",
    "laters_kernel",
    "gradients_kernel",
    "convolve_kernel",
    "inner_gradients_kernel",
    "input_gradients_kernel",
}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(not is_installed("triton"), reason="triton is not installed")
def test_every_kernel_compiles(tmp_path):
    script = Path(__file__).parent / "compile_kernels.py"
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(script), "90", "last", "bfloat16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    kernels = json.loads(done.stdout)
    assert {kernel["name"] for kernel in kernels} == KERNELS
    for kernel in kernels:
        assert kernel["binary"] > 0
        warps = (kernel["block"] or 32) // 32
        layout = (
            f"sizePerThread = [1, 1], threadsPerWarp = [1, 32], warpsPerCTA = [1, {warps}], order = [1, 0]"
        )
        assert all(tile == layout for tile in kernel["tiles"]), kernel
    assert any(kernel["tiles"] for kernel in kernels)
