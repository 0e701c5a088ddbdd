"""Metrics lines, and forecasts of the time left."""

import json
import sys

import pytest
import torch

from scanseg.errors import UsageError
from scanseg.training.events import MetricsLog, Stopwatch, memory_used, peak_memory_bytes


def test_lines_of_lost_epochs_are_dropped(tmp_path):
    log = MetricsLog(tmp_path)
    log.keep(3)
    for epoch in (1, 2, 3):
        log.write({"epoch": epoch, "step": 10 * epoch, "pseudo_dice": None})
    with log.path.open("a") as stream:
        stream.write('{"epoch": 4, "st')
    log.keep(2)
    assert [json.loads(line)["epoch"] for line in log.path.read_text().splitlines()] == [1, 2]


def test_nan_is_not_written(tmp_path):
    log = MetricsLog(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"epoch": 1, "loss": float("nan")})


def test_tensorboard_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("scanseg.optional.is_installed", lambda module: False)
    with pytest.raises(UsageError, match=r"pip install 'scanseg\[tensorboard\]'"):
        MetricsLog(tmp_path, tensorboard=True)


def test_the_first_step_and_outliers_do_not_count():
    watch = Stopwatch()
    assert watch.pace() is None
    watch.note("step", 60.0)
    assert watch.pace() is None
    for seconds in (1.0, 1.0, 30.0, 1.0):
        watch.note("step", seconds)
    watch.note("validation", 0.5)
    watch.note("save", 2.0)
    pace = watch.pace()
    assert (pace.step_s, pace.validation_s, pace.overhead_s) == (1.0, 0.5, 2.0)
    assert pace.epoch_s(10, 4) == 14.0


def test_the_forecast_follows_a_slower_machine():
    watch = Stopwatch()
    for seconds in [1.0] * 100 + [3.0] * 20:
        watch.note("step", seconds)
    assert watch.pace().step_s == 3.0


def test_peak_memory():
    assert 10_000_000 < peak_memory_bytes("cpu") < 100_000_000_000


def test_what_is_told_about_memory():
    told = memory_used(torch.device("cpu"))
    assert told["memory_kind"] == "process"
    assert 0 < told["peak_memory_bytes"] < told["total_memory_bytes"]
