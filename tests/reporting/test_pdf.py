"""Reports on paper, read back by a small reader of our own."""

import json
import re
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scanseg.cli.app import app
from scanseg.errors import DataError, UsageError
from scanseg.reporting.pdf import load_weasyprint, write_pdf
from scanseg.server.models import NOTICE

STYLE = (Path(__file__).parents[2] / "src/scanseg/reporting/templates/report.css").read_text()
A4_POINTS = (595.28, 841.89)


@pytest.fixture(autouse=True, scope="module")
def weasyprint() -> None:
    try:
        load_weasyprint()
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(tmp_path: Path):
    """Writes a page in the style of the reports."""

    def write(body: str) -> Path:
        path = tmp_path / "page.html"
        head = f"<!DOCTYPE html><html lang='en'><head><title>T</title><style>{STYLE}</style></head>"
        path.write_text(f"{head}<body><main>{body}</main></body></html>")
        return path

    return write


def parts_of(pdf: bytes) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Returns dictionaries and streams by object number; of what WeasyPrint writes, not of any PDF."""
    heads, streams = {}, {}
    for found in re.finditer(rb"(\d+) 0 obj\s*(<<.*?>>)\s*stream\r?\n", pdf, re.S):
        body = zlib.decompressobj().decompress(pdf[found.end() :])
        streams[int(found[1])] = body
        if b"/ObjStm" in found[2]:
            first, count = (int(re.search(rb"/%b (\d+)" % key, found[2])[1]) for key in (b"First", b"N"))
            numbers = [int(one) for one in body[:first].split()]
            starts = [*numbers[1 : 2 * count : 2], len(body) - first]
            for place in range(count):
                heads[numbers[2 * place]] = body[first + starts[place] : first + starts[place + 1]]
    return heads, streams


def page_texts(pdf: bytes) -> list[str]:
    """Returns the text of every page, by the tables that say which character a glyph stands for."""
    heads, streams = parts_of(pdf)
    tables: dict[bytes, dict[bytes, str]] = {}
    for head in heads.values():
        for name, number in re.findall(rb"/([a-zA-Z0-9]+) (\d+) 0 R", head):
            mapped = re.search(rb"/ToUnicode (\d+) 0 R", heads.get(int(number), b""))
            if mapped and b"/Type0" in heads[int(number)]:
                pairs = re.findall(rb"<([0-9a-f]{4})> <([0-9a-f]+)>\n", streams[int(mapped[1])])
                tables[name] = {glyph: bytes.fromhex(to.decode()).decode("utf-16-be") for glyph, to in pairs}
    texts = []
    for head in heads.values():
        if not re.search(rb"/Type /Page\b", head):
            continue
        content, text, table = streams[int(re.search(rb"/Contents (\d+)", head)[1])], "", {}
        for font, shown in re.findall(rb"/(\w+) [\d.]+ Tf|(\[[^\]]*\]) ?TJ", content):
            table = tables[font] if font else table
            for run in re.findall(rb"<([0-9a-f]*)>", shown):
                text += "".join(table[run[at : at + 4]] for at in range(0, len(run), 4))
        texts.append(text)
    return texts


def test_every_page_is_a4_and_says_what_it_is_not(page, tmp_path: Path) -> None:
    source = page("".join(f"<p>Paragraph {number} of many.</p>" for number in range(120)))
    pdf = write_pdf(source, tmp_path / "a.pdf").read_bytes()
    texts = [text.replace(" ", "") for text in page_texts(pdf)]
    assert pdf.startswith(b"%PDF-1.")
    assert len(texts) > 2
    for number, text in enumerate(texts, start=1):
        assert NOTICE.replace(" ", "") in text
        assert f"Page{number}of{len(texts)}" in text
    assert all(f"Paragraph{number}ofmany" in "".join(texts) for number in range(120))
    boxes = [re.search(rb"/MediaBox \[([^\]]+)\]", head) for head in parts_of(pdf)[0].values()]
    sizes = [tuple(float(part) for part in box[1].split()[2:]) for box in boxes if box]
    assert sizes == [pytest.approx(A4_POINTS, abs=0.01)] * len(texts)


def test_equal_pages_are_equal_files(page, tmp_path: Path) -> None:
    source = page("<p>One.</p>")
    code = (
        "import sys; from pathlib import Path; from scanseg.reporting.pdf import write_pdf\n"
        "write_pdf(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, source, tmp_path / "elsewhere.pdf"], check=True)
    pdf = write_pdf(source, tmp_path / "here.pdf").read_bytes()
    assert (tmp_path / "elsewhere.pdf").read_bytes() == pdf
    assert b"Date" not in pdf
    assert not any(b"Date" in head for head in parts_of(pdf)[0].values())
    assert write_pdf(page("<p>Two.</p>"), tmp_path / "other.pdf").read_bytes() != pdf


@pytest.mark.parametrize(
    "body",
    [
        "<img src='{url}'>",
        "<img src='file:///etc/hostname'>",
        "<style>@import '{url}';</style>",
        "<p style='background: url({url})'>x</p>",
        "<link rel='stylesheet' href='{url}'>",
    ],
    ids=["picture", "file", "import", "background", "link"],
)
def test_nothing_is_fetched(page, tmp_path: Path, body: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        with pytest.raises(DataError) as caught:
            write_pdf(page(body.format(url=url)), tmp_path / "a.pdf")
        assert caught.value.code == "E-PDF-PAGE"
        with pytest.raises(TimeoutError):
            listener.accept()
    assert not (tmp_path / "a.pdf").exists()


def test_nothing_is_fetched_for_a_drawing_in_the_page(page, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        inner = f"<image href='http://127.0.0.1:{listener.getsockname()[1]}/x' width='9' height='9'/>"
        drawing = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>{inner}</svg>"
        write_pdf(page(f'<img alt="x" src="data:image/svg+xml,{drawing}">'), tmp_path / "a.pdf")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_pictures_in_the_page_are_drawn(page, tmp_path: Path) -> None:
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    pdf = write_pdf(page(f"<img src='data:image/png;base64,{dot}' alt='dot'>"), tmp_path / "a.pdf")
    assert b"/Subtype /Image" in pdf.read_bytes()


@pytest.mark.parametrize(
    ("module", "code"),
    [(None, "E-EXTRA-MISSING"), ("raise OSError('no libpango')", "E-PDF-LIBRARY")],
    ids=["package", "libraries"],
)
def test_what_is_missing_is_named(tmp_path: Path, module: str | None, code: str) -> None:
    hide = "sys.modules['weasyprint'] = None" if module is None else f"sys.path.insert(0, {str(tmp_path)!r})"
    (tmp_path / "weasyprint.py").write_text(module or "")
    script = (
        f"import sys; {hide}\n"
        "from scanseg.errors import UsageError\n"
        "from scanseg.reporting.pdf import load_weasyprint\n"
        "try: load_weasyprint()\n"
        "except UsageError as error: print(error.code, '|', error.hint)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith(code)
    assert ("pip install 'scanseg[pdf]'" if module is None else "apt-get install libpango") in said


def test_a_run_has_a_report_for_paper(run_folder: Path) -> None:
    answer = CliRunner().invoke(app, ["report", str(run_folder), "--pdf", "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout) == {
        "report": str(run_folder / "report.html"),
        "pdf": str(run_folder / "report.pdf"),
    }
    text = "".join(page_texts((run_folder / "report.pdf").read_bytes()))
    assert "Hippocampus" in text
    assert (run_folder / "report.html").is_file()
