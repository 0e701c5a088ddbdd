"""Ctrl-C while a command works."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scanseg.files import read_json

ARGUMENTS = (
    "--network nnunet_plain --base-features 4 --batch-size 2 --patch-size 64x64 --iterations-per-epoch 2"
)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c_saves_and_the_same_command_continues(demo_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "scanseg", "train", str(demo_data / "nuclei"), "-o", str(run)]
    command += [*ARGUMENTS.split(), "--no-validate", "--no-tensorboard", "--threads", "1", "--epochs"]
    with subprocess.Popen([*command, "2000"], stderr=subprocess.PIPE, text=True) as process:
        limit_s = time.monotonic() + 90
        while not (run / "metrics.jsonl").is_file() and time.monotonic() < limit_s:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Run the same command again to continue" in text
    assert "Traceback" not in text
    assert not (run / "model.safetensors").exists()
    assert read_json(run / "config.json")["weights_sha256"] is None
