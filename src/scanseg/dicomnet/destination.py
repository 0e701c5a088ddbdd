"""Where segmentations go: another application entity by C-STORE, or a DICOMweb service by STOW-RS."""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from scanseg.dicomnet.peers import Peer, is_loopback, parse_peer
from scanseg.dicomnet.send import send_files
from scanseg.dicomnet.tls import TlsFiles
from scanseg.dicomnet.web import Web, store
from scanseg.errors import DataError, UsageError

Destination = Peer | Web
_MOST_SECRET_BYTES = 16_384


def parse_destination(text: str, *, secret_file: Path | None = None) -> Destination:
    """Returns `AE@host:port` as a peer, and `https://...` as a DICOMweb service.

    Args:
        text: What the user wrote. Not encrypted `http://` is taken for this machine alone.
        secret_file: For a service: a file with a token, or with `name:password`.

    Raises:
        UsageError: It is neither, carries a password, or a peer was given a secret.
        DataError: The file cannot be read or holds no single line of text.

    Example:
        >>> parse_destination("https://pacs.example.org/dicom-web")
        Web('https://pacs.example.org/dicom-web')
    """
    if not text.lower().startswith(("http://", "https://")):
        if secret_file is not None:
            raise UsageError(
                "A token or password is for a DICOMweb service; a DICOM peer takes none.",
                code="E-DICOM-WEB",
                hint="Give --send-to https://..., or leave the secret out.",
            )
        return parse_peer(text)
    parts = urlsplit(text)
    if parts.username or parts.password or not parts.hostname:
        raise UsageError(
            "The address of a DICOMweb service needs a host and must hold no name or password.",
            code="E-DICOM-WEB",
            hint="Write name:password or the token to a file and give that as --send-secret.",
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise UsageError(
            "A DICOMweb service on another machine needs https://: segmentations name the patient.",
            code="E-DICOM-WEB",
        )
    secret = "" if secret_file is None else _secret(secret_file)
    name, colon, password = secret.partition(":")
    if colon:
        return Web(text, user=(name, password))
    return Web(text, token=secret)


def sender(
    destination: Destination, *, ae_title: str, tls: TlsFiles | None
) -> Callable[[Sequence[Path]], None]:
    """Returns a function that sends files and raises `Error` unless every one was taken.

    Args:
        destination: Who gets them.
        ae_title: What we are called by a peer.
        tls: For a peer; a DICOMweb service is checked against the authorities of the system.
    """

    def send(paths: Sequence[Path]) -> None:
        if isinstance(destination, Web):
            store(destination, paths)
        else:
            send_files(paths, destination, ae_title=ae_title, tls=tls)

    return send


def _secret(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(_MOST_SECRET_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        content = ""
    if not content or not content.isprintable():
        raise DataError(
            "The file of --send-secret cannot be read, or is no single line of text.",
            code="E-DICOM-SECRET",
            hint="Write the token, or name:password, into it and nothing else.",
        )
    return content
