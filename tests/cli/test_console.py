"""How progress, findings and errors are shown."""

import json

import pytest

from scanseg.cli.console import Output
from scanseg.errors import DatasetError, Finding
from scanseg.progress import Eta, Progress, track


def report_all(output: Output) -> None:
    with output.progress() as report:
        for done in range(0, 4):
            report(Progress("train", done, 3, 10.0 - done, "epoch 1", {"loss": 0.5}))
        report(Progress("train", 3, 3, 0.0, "epoch 1, validating", {"loss": 0.5}))


def test_without_a_terminal_few_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    report_all(Output())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Training 0/3")
    assert lines[-1].startswith("Training 3/3")
    assert len(lines) == 2


def test_json_progress_is_one_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    report_all(Output(json=True))
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.err.splitlines()]
    assert [event["done"] for event in events] == [0, 1, 2, 3, 3]
    assert events[0] == {
        "event": "progress",
        "stage": "train",
        "done": 0,
        "total": 3,
        "eta_s": 10.0,
        "message": "epoch 1",
        "loss": 0.5,
    }
    assert captured.out == ""


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    report_all(output)
    output.say("text")
    output.table("title", ("a",), [("b",)])
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_markup_in_names_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.findings([Finding("E-A-B", "error", "bad [red]name[/red]", "case[1]", "do [this]")])
    text = capsys.readouterr().out
    assert "case[1]: bad [red]name[/red]" in text
    assert "Fix: do [this]" in text


def test_an_error_with_findings_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("E-A-B", "error", "wrong", "case_1", "mend it")]
    Output(json=True).error(DatasetError(findings, what="Dataset"))
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "E-DATASET-REFUSED"
    assert document["findings"][0]["case_id"] == "case_1"


def test_track_reports_from_none_to_all() -> None:
    seen: list[Progress] = []
    assert list(track("abc", stage="check", report=seen.append)) == ["a", "b", "c"]
    assert [progress.done for progress in seen] == [0, 1, 2, 3]
    assert seen[-1].eta_s == 0


def test_eta_is_unknown_before_the_first_unit() -> None:
    eta = Eta(10, done=4)
    assert eta(4) is None
    assert eta(5) is not None
