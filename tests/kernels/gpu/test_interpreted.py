"""The GPU kernels on the processor: runs the tests in `interpreted/` under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scanseg.optional import is_installed

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not is_installed("triton"), reason="triton is not installed")
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_interpreted(name):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(FOLDER / name),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
