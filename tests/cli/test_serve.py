"""Options of `scanseg serve` that make no sense together are refused before a model is loaded."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scanseg.cli.app import app

pytest.importorskip("fastapi", reason="the service needs pip install 'scanseg[serve]'")
pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
PORT = ["--dicom-port", "11112"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--dicom-tls-cert", "a.pem"], "E-SERVE-DICOM"),
        (["--send-tls"], "E-SERVE-DICOM"),
        ([*PORT, "--dicom-tls-cert", "a.pem"], "E-DICOM-TLS"),
        ([*PORT, "--dicom-tls-ca", "a.pem"], "E-DICOM-TLS"),
        ([*PORT, "--send-tls", "--send-to", "PACS@127.0.0.1:104"], "E-DICOM-TLS"),
        ([*PORT, "--dicom-tls-cert", "a", "--dicom-tls-key", "b", "--send-tls"], "E-DICOM-TLS"),
        ([*PORT, "--send-to", "http://pacs.example.org/dicom-web"], "E-DICOM-WEB"),
        ([*PORT, "--send-to", "PACS@127.0.0.1:104", "--send-secret", "a"], "E-DICOM-WEB"),
        ([*PORT, "--send-secret", "a"], "E-DICOM-SECRET"),
    ],
)
def test_what_does_not_belong_together(tmp_path: Path, options: list[str], code: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    words = ["serve", "-m", str(run), "--data-dir", str(tmp_path / "data"), "--json", *options]
    answer = CliRunner().invoke(app, words)
    assert json.loads(answer.stdout)["error"]["code"] == code
    assert answer.exit_code != 0
