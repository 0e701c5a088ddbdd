"""The committed results: every page follows from its JSON, and nothing in it names a place."""

from pathlib import Path

import pytest

from scanseg.benchmarking.document import load_document
from scanseg.benchmarking.tables import to_markdown

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_page_and_document_agree(path: Path) -> None:
    document = load_document(path)
    assert document.complete
    assert path.with_suffix(".md").read_text() == to_markdown(document)
    assert path.with_suffix(".png").is_file()
    assert "/" not in document.command.replace("benchmarks/results", "")
    for case in document.cases:
        for result in case.results:
            assert bool(result.timings) != bool(result.skipped)
            assert result.parity is None or result.skipped or result.parity.agrees
