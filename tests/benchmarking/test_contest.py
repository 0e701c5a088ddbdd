"""A real contest of small size, from parity to the document and its files."""

import json
from pathlib import Path

import pytest

from scanseg.benchmarking.cases import ScanCase
from scanseg.benchmarking.contest import Settings, run_contest
from scanseg.benchmarking.document import CaseResult, Document, load_document
from scanseg.benchmarking.machine import machine_facts
from scanseg.benchmarking.peers import SCAN_CONTENDERS, Contender, law
from scanseg.benchmarking.suites import SUITES
from scanseg.benchmarking.tables import ratio_table, to_markdown
from scanseg.errors import DataError
from scanseg.progress import Progress

CASE = ScanCase("tiny", "a small one", batch=2, dim=16, length=600, state=4)


@pytest.fixture(scope="module")
def contest() -> tuple[CaseResult, list[Progress]]:
    wrong = Contender("wrong", "a wrong one", lambda **tensors: 1.01 * law(**tensors))
    absent = Contender("absent", "an absent one", law, why_not=lambda: "it is absent")
    chosen = [SCAN_CONTENDERS["cpu"], SCAN_CONTENDERS["reference"], wrong, absent]
    if reason := chosen[0].why_not():
        pytest.skip(reason)
    results: list[CaseResult] = []
    seen: list[Progress] = []
    settings = Settings(case_s=0.5)
    run_contest(SUITES["scan"], [CASE], chosen, settings, finished=results.append, report=seen.append)
    return results[0], seen


@pytest.fixture(scope="module")
def document(contest) -> Document:
    return Document(
        kind="scan",
        command="scanseg bench",
        started="now",
        seed=0,
        machine=machine_facts(),
        cases=[contest[0]],
    )


def test_only_the_right_ones_have_times(contest) -> None:
    results = contest[0].results
    assert {r.contender for r in results if r.timings} == {"cpu", "reference"}
    reasons = {r.contender: r.skipped for r in results if r.skipped}
    assert reasons["absent"] == "it is absent"
    assert reasons["wrong"].startswith("wrong: ")
    assert set(reasons) == {"absent", "wrong"}


def test_each_contender_meets_the_baseline_at_its_own_length(contest) -> None:
    by_length: dict[int | None, list[str]] = {}
    for result in contest[0].results:
        by_length.setdefault(result.length, []).append(result.contender)
    assert all("cpu" in names for length, names in by_length.items() if length is not None)
    reference = next(r for r in contest[0].results if r.contender == "reference")
    assert reference.agreement is not None
    assert reference.agreement.length == reference.length
    assert set(reference.ratios) >= {"forward", "forward and backward"}
    # A loop in Python against compiled code.
    assert reference.ratios["forward"] > 5
    baseline = next(r for r in contest[0].results if r.contender == "cpu")
    assert baseline.ratios["forward"] == 1


def test_progress_goes_from_none_to_all(contest) -> None:
    done = [progress.done for progress in contest[1]]
    assert done[0] == 0
    assert done == sorted(done)
    assert done[-1] == contest[1][-1].total


def test_the_document_is_the_same_when_read_again(document: Document, tmp_path: Path) -> None:
    document.save(tmp_path)
    assert load_document(tmp_path / "scan.json") == document
    assert (tmp_path / "scan.md").read_text() == to_markdown(document)
    assert (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


def test_every_figure_of_the_table_is_in_the_json(document: Document) -> None:
    result = document.model_dump(mode="json")["cases"][0]["results"][0]
    assert set(result["timings"]["forward"]) == {"median_ms", "low_ms", "high_ms", "cpu_ms", "calls"}
    assert {"parity", "agreement", "ratios", "peak_extra_bytes", "threads", "skipped"} <= set(result)
    page = to_markdown(document)
    assert "`wrong` was not timed" in page
    assert "scanseg bench" in page
    assert [row[0] for row in ratio_table(document)[1]][:1] == ["reference"]


def test_a_file_of_another_form_is_refused(document: Document, tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(document.model_dump(mode="json") | {"speed": "high"}))
    with pytest.raises(DataError, match="no result"):
        load_document(path)


def test_the_facts_of_the_machine_name_no_place() -> None:
    facts = machine_facts()
    assert facts["torch"] != "not installed"
    assert int(facts["usable cores"]) >= 1
    assert not [value for value in facts.values() if "/home" in value or str(Path.home()) in value]
