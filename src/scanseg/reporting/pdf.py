"""Reports as PDF: the same HTML file, laid out on A4 by WeasyPrint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType

from scanseg.errors import DataError, UsageError
from scanseg.files import written_aside
from scanseg.optional import require


def load_weasyprint() -> ModuleType:
    """Returns WeasyPrint, which loads Pango and HarfBuzz when it is imported.

    Raises:
        UsageError: The package is not installed, or the libraries that it draws text with are not.
    """
    try:
        return require("weasyprint", extra="pdf", purpose="Writing PDF files")
    except ImportError as error:
        raise UsageError(
            f"Writing PDF files needs WeasyPrint, which cannot be imported ({type(error).__name__}).",
            code="E-EXTRA-MISSING",
            hint="Run: pip install --force-reinstall 'scanseg[pdf]'",
        ) from error
    except OSError as error:
        raise UsageError(
            "Writing PDF files needs the libraries Pango and HarfBuzz, which cannot be loaded.",
            code="E-PDF-LIBRARY",
            hint="On Debian, as root: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0",
        ) from error


def write_pdf(page: Path, target: Path) -> Path:
    """Writes an HTML report as PDF; equal pages give equal bytes.

    Nothing is fetched: a page that names any address but `data:` is refused. The rules for paper are those of
    the page's own style. The file holds no time; its identifier is made from the page.

    Args:
        page: HTML file, UTF-8.
        target: The PDF; written aside and renamed.

    Returns:
        `target`.

    Raises:
        UsageError: As `load_weasyprint`.
        DataError: The page is not there, or cannot be laid out.
    """
    library = load_weasyprint()
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The report {page} cannot be read.", code="E-PDF-PAGE") from error
    fetcher = library.urls.URLFetcher(allowed_protocols=("data",), allow_redirects=False, fail_on_errors=True)
    identifier = hashlib.sha256(text.encode()).hexdigest()[:32]
    with written_aside(target) as temporary:
        try:
            library.HTML(string=text, url_fetcher=fetcher, media_type="print").write_pdf(
                temporary, pdf_identifier=identifier.encode(), pdf_tags=True
            )
        except (library.urls.FatalURLFetchingError, ValueError, MemoryError) as error:
            raise DataError(
                f"The report {page} cannot be laid out ({type(error).__name__}).",
                code="E-PDF-PAGE",
                hint="Open the HTML file in a browser and print it from there.",
            ) from error
    return target
