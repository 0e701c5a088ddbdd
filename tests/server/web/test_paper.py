"""The report on paper: a file, or words that say why there is none."""

import pytest

from scanseg.errors import UsageError
from scanseg.reporting.pdf import load_weasyprint

from .test_page import saved

pytestmark = pytest.mark.timeout(300)  # the first test waits for the models to be trained


def test_the_report_for_paper_is_saved_or_refused_in_words(visit, site) -> None:
    with site.client() as client:
        order = {"model": "nuclei", "sample": "nuc_feffce59a1"}
        made = client.post("/api/v1/predictions", json=order).json()["id"]
        assert client.get(f"/api/v1/predictions/{made}?wait=60").json()["state"] == "done"
        one = visit()
        one.page.goto(f"{one.url}/#/cases/{made}")
        one.page.wait_for_selector("#get-report-pdf")
        try:
            load_weasyprint()
        except UsageError:
            one.expected = ("status of 404",)
            one.page.click("#get-report-pdf")
            one.page.wait_for_selector(".problem >> text=E-SERVE-PDF")
            return
        pdf = saved(one.page, "#get-report-pdf")
        assert pdf.startswith(b"%PDF-")
        assert pdf == client.get(f"/api/v1/predictions/{made}/report.pdf").content
