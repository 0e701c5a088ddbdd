"""Starting the service: folders, tokens, addresses, limits."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scanseg.errors import UsageError
from scanseg.server.limits import Limits, parse_size, parse_span
from scanseg.server.middleware import allowed_hosts
from scanseg.server.models import describe_model, model_ids
from scanseg.server.settings import Settings, file_system, hold_lock
from scanseg.server.tokens import load_tokens
from scanseg.server.uploads import read_name, safe_name

pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained


def settings(host: str = "127.0.0.1", **more: object) -> Settings:
    return Settings(runs={}, data=Path("x"), host=host, **more)  # type: ignore[arg-type]


def test_a_token_is_made_once_and_only_its_owner_reads_it(tmp_path) -> None:
    path = tmp_path / "deep" / "token"
    tokens, shown = load_tokens(path)
    assert shown is not None
    assert len(shown) >= 43  # 256 bits in base 64
    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert load_tokens(path) == (tokens, None)
    assert all(shown not in owner for owner in tokens)


@pytest.mark.parametrize(
    "content", ["", "short", "has a space and is long enough for a token", "# only a comment"]
)
def test_weak_tokens_are_refused(tmp_path, content) -> None:
    (tmp_path / "token").write_text(content)
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(UsageError, match="22 letters"):
        load_tokens(tmp_path / "token")


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_an_open_token_file_is_refused(tmp_path) -> None:
    (tmp_path / "token").write_text("a" * 40)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(UsageError, match="read by others"):
        load_tokens(tmp_path / "token")


def test_names_under_which_it_answers() -> None:
    assert "evil" not in (allowed_hosts(settings()) or ())
    assert "localhost" in (allowed_hosts(settings()) or ())
    assert allowed_hosts(settings("192.168.1.5")) == {"192.168.1.5"}
    assert "scans.example" in (allowed_hosts(settings(names=("Scans.example",))) or ())
    assert allowed_hosts(settings("0.0.0.0")) is None
    assert "x" in (allowed_hosts(settings("0.0.0.0", names=("x",))) or ())


def test_an_open_address_makes_a_token(start: Callable[..., object], tmp_path) -> None:
    server = start(tmp_path / "data", options=("--host", "0.0.0.0"))
    assert server.token
    assert f"#token={server.token}" in server.said
    with server.client() as api:
        assert api.get("/api/v1/version").json()["token_required"] is True
        assert api.get("/docs").status_code == 404
    assert server.stop() == 0
    assert server.token not in server.log.read_text()


def test_network_folders_are_recognised(tmp_path) -> None:
    mounts = tmp_path / "mounts"
    root = tmp_path.resolve()
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {root} nfs4 rw 0 0\n/dev/b {root}/local xfs rw 0 0\n")
    (tmp_path / "local").mkdir()
    assert file_system(tmp_path / "any", mounts) == "nfs4"
    assert file_system(tmp_path / "local", mounts) == "xfs"
    assert file_system(Path("/"), mounts) == "ext4"


def test_one_holder_of_a_lock(tmp_path) -> None:
    first = hold_lock(tmp_path / "lock")
    assert first is not None
    assert hold_lock(tmp_path / "lock") is None
    first.close()
    assert hold_lock(tmp_path / "lock") is not None


@pytest.mark.parametrize("text", ["", "2X", "-1", "1.5G", "0", "G", "9999999T"])
def test_wrong_sizes(text) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "h", "24", "0h", "1w", "-1h"])
def test_wrong_times(text) -> None:
    with pytest.raises(UsageError):
        parse_span(text)


def test_model_ids_are_safe_in_urls(tmp_path) -> None:
    assert list(model_ids([tmp_path / "Ünï/../A b!", tmp_path / "a-b"])) == ["a-b", "a-b-2"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/x.nii.gz", "x.nii.gz"),
        ("C:\\scans\\x.png", "x.png"),
        ("a\r\nSet-Cookie: x.png", "a\\r\\nSet-Cookie: x.png"),
        ("\u202egnp.x.png", "\\u202egnp.x.png"),
        ("x" * 500 + ".nii.gz", "..." + "x" * 190 + ".nii.gz"),
    ],
)
def test_names_are_text(name, shown) -> None:
    assert safe_name(name) == shown
    assert read_name(None, "nii.gz") == ("image.nii.gz", ".nii.gz")


def test_a_run_without_check_has_no_cohort(run_3d, tmp_path) -> None:
    whole = describe_model("m", run_3d)
    assert set(whole.cohort) == {1, 2}
    assert whole.size_unit == "ml"
    assert whole.licence
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run_3d / name).read_bytes())
    (tmp_path / "check.json").write_text("[]")
    bare = describe_model("m", tmp_path)
    assert (bare.cohort, bare.validation, bare.licence) == ({}, {}, "")


def test_the_web_process_reads_no_images(server, done) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    for library in ("libtorch", "imagecodecs", "_imaging", "libtiff", "llvmlite"):
        assert library not in maps


def test_limits_are_sane() -> None:
    limits = Limits()
    assert limits.tries == 2
    assert limits.upload_bytes == 2 << 30
    assert (limits.header_s, limits.idle_s, limits.slowest_bytes_s) == (10, 10, 50_000)


def test_a_folder_that_is_no_model_is_named(start: Callable[..., object], tmp_path) -> None:
    from typer.testing import CliRunner

    from scanseg.cli.app import app

    answer = CliRunner().invoke(
        app, ["serve", "--json", "-m", str(tmp_path), "--data-dir", str(tmp_path / "d"), "--port", "0"]
    )
    assert answer.exit_code == 1
    assert "E-MODEL-MISSING" in answer.stdout
