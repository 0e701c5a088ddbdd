"""report.pdf: made by a process of its own, refused in words where it cannot be made."""

import asyncio
import io
import zipfile
from pathlib import Path

import pytest

from scanseg.client import Client
from scanseg.errors import UsageError
from scanseg.reporting.pdf import load_weasyprint, write_pdf
from scanseg.server.printing import Printer
from scanseg.server.problems import Refusal

pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained


def needs_weasyprint() -> None:
    try:
        load_weasyprint()
    except UsageError as error:
        pytest.skip(str(error))


def test_the_service_gives_the_report_on_paper(api, server, done, tmp_path: Path) -> None:
    needs_weasyprint()
    base = f"/api/v1/predictions/{done}"
    answer = api.get(f"{base}/report.pdf")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == f'attachment; filename="{done}_report.pdf"'
    (tmp_path / "report.html").write_bytes(api.get(f"{base}/report.html").content)
    expected = write_pdf(tmp_path / "report.html", tmp_path / "report.pdf").read_bytes()
    assert answer.content == expected
    with Client(server.url, server.token) as client:
        assert client.result(done).save_report(tmp_path / "saved.pdf").read_bytes() == expected
    assert api.get(base).json()["links"]["report_pdf"] == f"{base}/report.pdf"
    assert api.get(f"{base}/result").json()["files"]["report_pdf"]["href"] == f"{base}/report.pdf"
    archive = zipfile.ZipFile(io.BytesIO(api.get(f"{base}/all.zip").content))
    assert archive.read(f"{done}/report.pdf") == expected
    assert api.get("/api/v1/predictions/p_unknown/report.pdf").status_code == 404


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Prints a page; `hidden` is what takes the place of WeasyPrint in the process that prints."""

    def run(
        hidden: str | None = None, page: str = "<p>x</p>", limit_s: float = 60.0, file: str = "weasyprint.py"
    ) -> Path:
        if hidden is not None:
            (tmp_path / file).write_text(hidden)
            monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
        (tmp_path / "report.html").write_text(page)

        async def ask() -> Path:
            printer = Printer(limit_s)
            found = await asyncio.gather(
                *(printer.pdf(tmp_path / "report.html", tmp_path / "report.pdf") for _ in range(2))
            )
            return found[0]

        return asyncio.run(ask())

    return run


def test_two_requests_are_one_process(printed, tmp_path: Path) -> None:
    needs_weasyprint()
    assert printed().read_bytes().startswith(b"%PDF-")
    assert [path.name for path in tmp_path.glob("*.pdf")] == ["report.pdf"]


@pytest.mark.parametrize(
    ("file", "hidden", "status", "word"),
    [
        ("sitecustomize.py", "import sys\nsys.modules['weasyprint'] = None", 404, "not installed"),
        ("weasyprint.py", "raise OSError('cannot load library libpango-1.0-0')", 404, "Pango"),
        ("weasyprint.py", "import os\nos._exit(1)", 404, "cannot be made a PDF"),
        ("weasyprint.py", "import time\ntime.sleep(60)", 503, "in time"),
    ],
    ids=["package", "libraries", "crash", "slow"],
)
def test_what_cannot_be_made_is_refused_in_words(
    printed, file: str, hidden: str, status: int, word: str
) -> None:
    with pytest.raises(Refusal) as caught:
        printed(hidden, limit_s=30.0 if status == 404 else 3.0, file=file)
    found = caught.value
    assert (found.status, found.code) == (status, "E-SERVE-PDF" if status == 404 else "E-SERVE-TOOLS")
    assert word in found.message
    assert "report.html" in found.hint


def test_a_page_with_an_address_is_refused(printed, tmp_path: Path) -> None:
    needs_weasyprint()
    with pytest.raises(Refusal, match="cannot be made a PDF"):
        printed(page="<img src='file:///etc/hostname'>")
    assert not list(tmp_path.glob("*.pdf"))
