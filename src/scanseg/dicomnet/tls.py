"""TLS for DICOM associations.

Source: PS3.15 B.12 and B.13 (BCP 195 profiles): TLS 1.2 or newer, both sides show a certificate.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.dicomnet.peers import Peer
from scanseg.errors import Error, UsageError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side.

    Attributes:
        certificate: Ours, with those between it and the authority behind it.
        key: Its private key, not encrypted.
        authority: Who signs the certificates of the other side. A receiver with one takes no association
            without such a certificate; a sender without one trusts the authorities of the system.
    """

    certificate: Path
    key: Path
    authority: Path | None = None


def tls_files(certificate: Path | None, key: Path | None, authority: Path | None) -> TlsFiles | None:
    """Returns the files, None where none is given.

    Raises:
        UsageError: Certificate and key are not given together.
    """
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise UsageError(
            "DICOM over TLS needs a certificate and its key, got one of them or an authority alone.",
            code="E-DICOM-TLS",
            hint="Give both as PEM files; the authority is an addition to them.",
        )
    return TlsFiles(certificate, key, authority)


def require_for_sending(files: TlsFiles | None, peer: object) -> None:
    """Does nothing where there are files and a peer; a DICOMweb service has its own TLS.

    Raises:
        UsageError: Nothing could be sent by TLS.
    """
    if files is None or not isinstance(peer, Peer):
        raise UsageError(
            "Sending by TLS needs a certificate, its key, and who gets the segmentations.",
            code="E-DICOM-TLS",
            hint="Give the certificate and key as PEM files, and --send-to TITLE@HOST:PORT.",
        )


def receiver_context(files: TlsFiles) -> ssl.SSLContext:
    """Returns the context of a receiver; see `TlsFiles`.

    Raises:
        Error: A file cannot be read, or certificate and key do not belong together.
    """
    context = _LateContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, files)
    context.verify_mode = ssl.CERT_NONE if files.authority is None else ssl.CERT_REQUIRED
    return context


def sender_context(files: TlsFiles) -> ssl.SSLContext:
    """Returns the context of a sender, which checks certificate and host name of its peer.

    Raises:
        Error: As `receiver_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, files)
    if files.authority is None:
        context.load_default_certs()
    return context


class _LateContext(ssl.SSLContext):
    """Leaves the handshake to the first read, in the thread of the association and under its time limit.

    pynetdicom wraps connections where it accepts them: who connects in silence would keep out all others.
    """

    def wrap_socket(self, sock: Any, server_side: bool = False, *_: Any, **__: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, server_side=server_side, do_handshake_on_connect=False)


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    what = "certificate or key"
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
        if files.authority is not None:
            what = "authority"
            context.load_verify_locations(files.authority)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it does not fit"
        raise Error(
            f"The TLS {what} cannot be used ({why}).",
            code="E-DICOM-TLS",
            hint="Give PEM files: a certificate, its key without a password, the authority's certificate.",
        ) from None
