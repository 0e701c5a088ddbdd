"""Sends DICOM files to another application entity by C-STORE.

Source: PS3.4 B (storage service class); PS3.7 C (status codes).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scanseg.data.dicom_header import quiet
from scanseg.dicomnet.peers import Peer
from scanseg.dicomnet.tls import TlsFiles, sender_context
from scanseg.errors import Error
from scanseg.optional import require

if TYPE_CHECKING:
    from pynetdicom.association import Association

_VERIFICATION = "1.2.840.10008.1.1"
_WARNINGS = (0xB000, 0xB006, 0xB007)


def echo(
    peer: Peer, *, ae_title: str = "SCANSEG", timeout_s: float = 10.0, tls: TlsFiles | None = None
) -> None:
    """Asks a peer whether it is there and talks to us.

    Raises:
        Error: It does not answer, or refuses.
    """
    with _association(peer, ae_title, timeout_s, [(_VERIFICATION, [])], tls) as association:
        status = association.send_c_echo()
        if "Status" not in status or status.Status != 0:
            raise _failed(peer, "does not answer an echo")


def send_files(
    paths: Sequence[Path],
    peer: Peer,
    *,
    ae_title: str = "SCANSEG",
    timeout_s: float = 60.0,
    tls: TlsFiles | None = None,
) -> None:
    """Sends DICOM files as they are; returns when the peer has acknowledged every one.

    Args:
        paths: Files with file meta information.
        peer: Who stores them.
        ae_title: What we are called.
        timeout_s: For every wait on the network.
        tls: Encrypts, shows our certificate, and checks that of the peer, which must name its host.

    Raises:
        Error: The peer cannot be reached, has another certificate, does not take their kind, or refuses one;
            or a file is damaged, and then none is sent.
        UsageError: pynetdicom is not installed.
    """
    require("pynetdicom", extra="dicom", purpose="Sending DICOM")
    kinds: dict[str, set[str]] = {}
    for path in paths:
        kind, syntax = _kind_and_syntax(path)
        kinds.setdefault(kind, set()).add(syntax)
    # One syntax a context: the peer then cannot choose one that a file does not have.
    contexts = [(kind, [syntax]) for kind, syntaxes in kinds.items() for syntax in sorted(syntaxes)]
    with _association(peer, ae_title, timeout_s, contexts, tls) as association:
        for path in paths:
            try:
                with quiet():
                    status = association.send_c_store(path)
            except (ValueError, RuntimeError, AttributeError):
                raise _failed(peer, "takes no files of this kind") from None
            if "Status" not in status:
                raise _failed(peer, "stopped answering")
            if status.Status != 0 and status.Status not in _WARNINGS:
                raise _failed(peer, f"refused a file with status 0x{status.Status:04X}")


def _kind_and_syntax(path: Path) -> tuple[str, str]:
    """Returns what the file meta information says."""
    from pydicom import dcmread

    try:
        with quiet():
            meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
            return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except OSError:
        raise
    except Exception:  # pydicom raises many kinds of them where a file is damaged
        raise Error(
            "A file that was to be sent is damaged, or no DICOM file.",
            code="E-DICOM-DAMAGED",
            hint="Make it again, or delete it; the others can be sent without it.",
        ) from None


@contextmanager
def _association(
    peer: Peer,
    ae_title: str,
    timeout_s: float,
    contexts: Sequence[tuple[str, list[str]]],
    tls: TlsFiles | None = None,
) -> "Iterator[Association]":
    """Yields an open association and releases it."""
    from pynetdicom import AE

    entity = AE(ae_title=ae_title)
    for kind, syntaxes in contexts:
        entity.add_requested_context(kind, syntaxes or None)
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = timeout_s
    entity.connection_timeout = timeout_s
    tls_args = None if tls is None else (sender_context(tls), peer.host)
    found = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls_args)
    if not found.is_established:
        if found.is_rejected:
            raise _failed(peer, "refused the association")
        raise _failed(peer, "takes no files of this kind" if found.rejected_contexts else "cannot be reached")
    try:
        yield found
    finally:
        if found.is_established:
            found.release()


def _failed(peer: Peer, why: str) -> Error:
    return Error(
        f"The DICOM peer {peer.ae_title} at {peer.host}:{peer.port} {why}.",
        code="E-DICOM-SEND",
        hint="Check its address, port and AE title, that it knows ours, and whether both sides use TLS.",
    )
