"""metrics.jsonl while it is written: in any pieces, damaged, replaced, endless."""

import json
import os
import random
from pathlib import Path

import pytest

from scanseg.server import metrics_tail
from scanseg.server.metrics_tail import MetricsTail


def line(epoch: int, loss: float = 0.5) -> bytes:
    record = {"epoch": epoch, "step": 10 * epoch, "train_loss": loss, "pseudo_dice_per_label": {"a": 0.5}}
    return json.dumps(record).encode() + b"\n"


def add(path: Path, content: bytes) -> None:
    with open(path, "ab") as stream:
        stream.write(content)


@pytest.mark.parametrize("seed", range(5))
def test_any_pieces_make_the_same_records(tmp_path, seed) -> None:
    generator = random.Random(seed)
    content = b"".join(line(epoch, epoch / 7) for epoch in range(1, 40))
    (tmp_path / "whole").write_bytes(content)
    whole, tail = MetricsTail(tmp_path / "whole"), MetricsTail(tmp_path / "pieces")
    whole.read()
    tail.read()
    assert (tail.records, tail.modified_s) == ([], None)
    while content:
        size = generator.randint(1, 300)
        add(tail.path, content[:size])
        content = content[size:]
        tail.read()
        assert tail.records == whole.records[: len(tail.records)]
        assert tail.damaged == 0
    assert tail.records == whole.records
    assert [record["epoch"] for record in tail.records] == list(range(1, 40))
    assert tail.records[6]["train_loss"] == 1.0
    assert tail.generation == 0


def test_only_what_was_added_is_read(tmp_path, monkeypatch) -> None:
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    add(tail.path, line(1))
    tail.read()
    taken: list[bytes] = []
    monkeypatch.setattr(tail, "_take", taken.append)
    add(tail.path, line(2))
    tail.read()
    assert taken == [line(2)]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"epoch": 2, "st',
        b"[1]",
        b'{"epoch": 0}',
        b'{"epoch": true}',
        b'{"epoch": "2"}',
        b"\xff\xfe\x00",
        b"[" * 5000,
        b'{"epoch": ' + b"9" * 5000 + b"}",
        b" " * 400_000 + b'{"epoch": 2}',
    ],
)
def test_a_damaged_line_is_counted_and_left_out(tmp_path, damage) -> None:
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    add(tail.path, line(1) + damage + b"\n" + line(3))
    tail.read()
    assert [record["epoch"] for record in tail.records] == [1, 3]
    assert (tail.damaged, tail.first_damaged) == (1, 2)


def test_a_line_without_end_needs_no_memory(tmp_path) -> None:
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    add(tail.path, line(1))
    for _ in range(5):
        add(tail.path, b"x" * 300_000)
        tail.read()
        assert len(tail._rest) <= metrics_tail.MOST_LINE_BYTES
    add(tail.path, b"\n" + line(2))
    tail.read()
    assert [record["epoch"] for record in tail.records] == [1, 2]
    assert (tail.damaged, tail.first_damaged) == (1, 2)


def test_a_run_that_goes_on_takes_epochs_back(tmp_path) -> None:
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    add(tail.path, line(1) + line(2) + line(3, 0.9))
    tail.read()
    add(tail.path, line(2, 0.1))
    tail.read()
    assert [(record["epoch"], record["train_loss"]) for record in tail.records] == [(1, 0.5), (2, 0.1)]
    assert tail.generation == 1


@pytest.mark.parametrize("content", [line(1, 0.1), line(1, 0.1) + line(2), b""])
def test_a_file_that_was_replaced_is_read_anew(tmp_path, content) -> None:
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    add(tail.path, line(1) + line(2))
    tail.read()
    other = tmp_path / "other"
    other.write_bytes(content)
    os.replace(other, tail.path)
    tail.read()
    assert [record["epoch"] for record in tail.records] == [1, 2][: content.count(b"\n")]
    assert tail.generation > 0
    tail.path.unlink()
    tail.read()
    assert (tail.records, tail.modified_s) == ([], None)


def test_more_than_the_bound_is_not_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(metrics_tail, "MOST_BYTES", 3 * len(line(1)))
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    for epoch in range(1, 9):
        add(tail.path, line(epoch))
        tail.read()
    assert [record["epoch"] for record in tail.records] == [1, 2, 3]
    assert tail.is_cut


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    tail = MetricsTail(tmp_path / "metrics.jsonl")
    tail.read()
    assert tail.records == []
