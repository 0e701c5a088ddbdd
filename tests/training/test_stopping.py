"""A training is stopped from another process, and nobody else is."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scanseg.errors import TrainingError
from scanseg.training import lock
from scanseg.training.lock import LOCK, exclusive, read_owner
from scanseg.training.stopping import ask_to_stop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
# As the training loop: what it does is finished, then it ends.
HOLDER = """
import sys, time
from pathlib import Path
from scanseg.training.interrupts import Interrupts
from scanseg.training.lock import exclusive
with exclusive(Path(sys.argv[1])), Interrupts() as interrupts:
    print("held", flush=True)
    while interrupts.requested is None:
        time.sleep(0.01)
    time.sleep(0.2)
    Path(sys.argv[1], "saved").touch()
    interrupts.leave()
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait(10)


def test_it_ends_in_order(holder, tmp_path) -> None:
    owner = read_owner(tmp_path)
    assert owner is not None
    assert (owner.is_running, owner.pid, owner.ended) == (True, holder.pid, "")
    ask_to_stop(tmp_path, owner)
    holder.wait(10)
    assert (tmp_path / "saved").exists()
    after = read_owner(tmp_path)
    assert after is not None
    assert (after.is_running, after.how, after.since) == (False, "stopped", owner.since)
    assert after.ended > after.since
    with pytest.raises(TrainingError) as caught:
        ask_to_stop(tmp_path, after)
    assert caught.value.code == "E-TRAIN-IDLE"


def test_a_run_that_nobody_trains(tmp_path) -> None:
    assert read_owner(tmp_path) is None
    with pytest.raises(TrainingError, match="Nobody trains this run"):
        ask_to_stop(tmp_path, None)


@pytest.mark.parametrize("changes", [{"host": "another-machine"}, {"pid": os.getpid()}])
def test_no_other_process_is_met(holder, tmp_path, changes) -> None:
    facts = {"pid": holder.pid, "host": socket.gethostname(), "since": "x", **changes}
    (tmp_path / LOCK).write_text(json.dumps(facts))
    if "pid" in changes and not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell which files a process has open")
    with pytest.raises(TrainingError) as caught:
        ask_to_stop(tmp_path, read_owner(tmp_path))
    assert caught.value.code == "E-TRAIN-ELSEWHERE"
    assert str(tmp_path) not in caught.value.message
    assert holder.poll() is None


def test_how_a_training_ended_is_noted(tmp_path) -> None:
    with exclusive(tmp_path):
        pass
    assert read_owner(tmp_path).how == "finished"
    with pytest.raises(TrainingError), exclusive(tmp_path):
        raise TrainingError("no path of /home/a in it", code="E-TRAIN-NONFINITE")
    owner = read_owner(tmp_path)
    assert (owner.how, owner.code, owner.is_running) == ("failed", "E-TRAIN-NONFINITE", False)
    assert "/home" not in (tmp_path / LOCK).read_text()
    with pytest.raises(MemoryError), exclusive(tmp_path):
        raise MemoryError
    assert (read_owner(tmp_path).how, read_owner(tmp_path).code) == ("failed", "")
    with pytest.raises(SystemExit), exclusive(tmp_path):
        raise SystemExit(143)
    assert read_owner(tmp_path).how == "stopped"


def test_a_kill_leaves_no_word(holder, tmp_path) -> None:
    holder.kill()
    holder.wait(10)
    owner = read_owner(tmp_path)
    assert (owner.is_running, owner.ended, owner.how) == (False, "", "")


def test_an_end_while_it_is_read_is_no_kill(tmp_path, monkeypatch) -> None:
    holding = exclusive(tmp_path)
    holding.__enter__()
    is_locked = lock._is_locked

    def end_first(*arguments) -> bool:
        holding.__exit__(None, None, None)
        return is_locked(*arguments)

    monkeypatch.setattr(lock, "_is_locked", end_first)
    owner = read_owner(tmp_path)
    assert (owner.is_running, owner.how) == (False, "finished")


def test_reading_does_not_take_the_lock(tmp_path) -> None:
    with exclusive(tmp_path):
        assert all(read_owner(tmp_path).is_running for _ in range(100))
    for _ in range(100):
        with exclusive(tmp_path):
            assert read_owner(tmp_path).is_running
        assert not read_owner(tmp_path).is_running
