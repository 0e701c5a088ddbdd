"""The lock of a run folder."""

import os
import subprocess
import sys
import time

import pytest

from scanseg.errors import TrainingError
from scanseg.training.lock import exclusive

HOLDER = """
import sys, time
from pathlib import Path
from scanseg.training.lock import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(tmp_path):
    owner = rf"process {os.getpid()} on .* since 20"
    with exclusive(tmp_path), pytest.raises(TrainingError, match=owner):
        exclusive(tmp_path).__enter__()
    with exclusive(tmp_path):
        pass


def test_a_killed_process_frees_it_at_once(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TrainingError, match=rf"process {holder.pid} on "):
        exclusive(tmp_path).__enter__()
    holder.kill()
    holder.wait()
    started_s = time.monotonic()
    with exclusive(tmp_path):
        assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}'])
def test_what_lies_in_the_file_does_not_matter(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with exclusive(tmp_path):
        pass
