"""DICOM over TLS: who has no certificate of the authority, or no TLS, is kept out; nobody blocks the port."""

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from scanseg.errors import Error, UsageError

pytest.importorskip("pynetdicom", reason="DICOM needs pip install 'scanseg[dicom]'")

from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.scp import Listener, ListenOptions, serve_dicom
from scanseg.dicomnet.send import echo, send_files
from scanseg.dicomnet.tls import TlsFiles, receiver_context, require_for_sending, tls_files


def certificate(folder: Path, name: str, *, signed_by: str | None = None) -> tuple[Path, Path]:
    """Makes a certificate for 127.0.0.1, by itself or by an authority, and returns it and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("certificates are made by the command openssl, which is not installed")
    path, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={name}", "-out", str(path), "-keyout", str(key)]
    if signed_by is None:
        command += ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    else:
        command += ["-CA", str(folder / f"{signed_by}.pem"), "-CAkey", str(folder / f"{signed_by}.key")]
        command += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return path, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, two sides that it signed, and a stranger of another authority."""
    folder = tmp_path_factory.mktemp("pki")
    certificate(folder, "authority")
    certificate(folder, "other")
    for name in ("receiver", "sender"):
        certificate(folder, name, signed_by="authority")
    certificate(folder, "stranger", signed_by="other")
    return folder


def files(pki: Path, name: str, authority: str | None = "authority") -> TlsFiles:
    return TlsFiles(pki / f"{name}.pem", pki / f"{name}.key", authority and pki / f"{authority}.pem")


@pytest.fixture
def listener(pki: Path, tmp_path: Path):
    options = ListenOptions(tls=files(pki, "receiver"), quiet_s=0.3, idle_s=3.0)
    received: list[int] = []
    with serve_dicom(
        0, lambda one: received.append(one.files), inbox=tmp_path / "inbox", options=options
    ) as found:
        found.received = received
        yield found


def peer(listener: Listener) -> Peer:
    return Peer("SCANSEG", "127.0.0.1", listener.port)


def test_a_series_comes_whole(listener, pki, tmp_path, write_series) -> None:
    paths = write_series(tmp_path / "case", np.arange(3000, dtype=np.int16).reshape(3, 20, 50), np.eye(4))
    send_files(paths, peer(listener), tls=files(pki, "sender"))
    end = time.monotonic() + 20
    while not listener.received and time.monotonic() < end:
        time.sleep(0.05)
    assert listener.received == [3]


@pytest.mark.parametrize("case", ["no TLS", "another authority", "a receiver of another authority"])
def test_strangers_are_kept_out(listener, pki, case) -> None:
    tls = {
        "no TLS": None,
        "another authority": files(pki, "stranger"),
        "a receiver of another authority": files(pki, "sender", "other"),
    }[case]
    with pytest.raises(Error) as caught:
        echo(peer(listener), tls=tls, timeout_s=3.0)
    assert caught.value.code == "E-DICOM-SEND"
    echo(peer(listener), tls=files(pki, "sender"))


def test_who_shows_no_certificate_is_kept_out(listener, pki) -> None:
    context = ssl.create_default_context(cafile=str(pki / "authority.pem"))

    def ask() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", listener.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.recv(1)

    with pytest.raises(ssl.SSLError, match="certificate required"):
        ask()


def test_who_says_nothing_keeps_nobody_out(listener, pki) -> None:
    with socket.create_connection(("127.0.0.1", listener.port), 5):
        started = time.monotonic()
        echo(peer(listener), tls=files(pki, "sender"))
        assert time.monotonic() - started < 2.5  # before the silent one is cut off


def test_old_versions_are_refused(pki) -> None:
    assert receiver_context(files(pki, "receiver")).minimum_version == ssl.TLSVersion.TLSv1_2
    assert receiver_context(files(pki, "receiver")).verify_mode == ssl.CERT_REQUIRED
    assert receiver_context(files(pki, "receiver", None)).verify_mode == ssl.CERT_NONE


def test_files_that_do_not_fit_are_named(pki, tmp_path) -> None:
    for broken in (
        TlsFiles(pki / "receiver.pem", pki / "sender.key"),
        TlsFiles(tmp_path / "missing.pem", pki / "sender.key"),
        TlsFiles(pki / "receiver.pem", pki / "receiver.key", pki / "receiver.key"),
    ):
        with pytest.raises(Error) as caught:
            receiver_context(broken)
        assert caught.value.code == "E-DICOM-TLS"
    assert tls_files(None, None, None) is None
    for given in ((pki / "a", None, None), (None, pki / "a", None), (None, None, pki / "a")):
        with pytest.raises(UsageError):
            tls_files(*given)
    with pytest.raises(UsageError):
        require_for_sending(None, Peer("A", "b", 1))
