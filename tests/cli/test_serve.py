"""`scanseg serve`: what an address asks for."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from scanseg.cli.app import app


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
