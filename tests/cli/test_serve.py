"""`scanseg serve`: what an address asks for; options that make no sense together are refused early."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scanseg.cli.app import app

pytest.importorskip("fastapi", reason="the service needs pip install 'scanseg[serve]'")
PORT = ["--dicom-port", "11112"]


def started_with(monkeypatch, tmp_path: Path, *options: str):
    """The settings with which the service would be started."""
    from scanseg.server import serving

    found = []
    monkeypatch.setattr(serving, "run", lambda settings, on_listening: found.append(settings))
    answer = CliRunner().invoke(
        app, ["serve", "-m", str(tmp_path), "--data-dir", str(tmp_path / "d"), *options]
    )
    assert answer.exit_code == 0, answer.output
    return found[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "scans.example"])
def test_an_address_that_others_reach_always_has_a_token(monkeypatch, tmp_path, host) -> None:
    found = started_with(monkeypatch, tmp_path, "--host", host)
    assert [len(token) >= 43 for token in found.tokens.values()] == [True]
    assert oct((tmp_path / "d" / "token").stat().st_mode & 0o777) == "0o600"


def test_without_options_it_is_closed(monkeypatch, tmp_path) -> None:
    found = started_with(monkeypatch, tmp_path)
    assert (found.host, found.tokens, found.docs, found.names) == ("127.0.0.1", {}, False, ())
    for host in ("127.0.0.1", "localhost", "::1"):
        assert started_with(monkeypatch, tmp_path, "--host", host).tokens == {}


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
    pytest.importorskip("pynetdicom", reason="DICOM networking needs pip install 'scanseg[dicom]'")
    run = tmp_path / "run"
    run.mkdir()
    words = ["serve", "-m", str(run), "--data-dir", str(tmp_path / "data"), "--json", *options]
    answer = CliRunner().invoke(app, words)
    assert json.loads(answer.stdout)["error"]["code"] == code
    assert answer.exit_code != 0
