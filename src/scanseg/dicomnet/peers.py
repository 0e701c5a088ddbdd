"""Other application entities: what they are called and where they listen."""

import ipaddress
import re
from dataclasses import dataclass

from scanseg.errors import UsageError

_PEER = re.compile(r"^(?P<title>[^@\\]{1,16})@(?P<host>[^@\s]+):(?P<port>\d{1,5})$")


@dataclass(frozen=True)
class Peer:
    """An application entity: title (up to 16 characters), host and port."""

    ae_title: str
    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Returns `AE@host:port` as a peer.

    Raises:
        UsageError: It has another form.

    Example:
        >>> parse_peer("PACS@10.0.0.7:104")
        Peer(ae_title='PACS', host='10.0.0.7', port=104)
    """
    match = _PEER.match(text)
    if match is None or not 0 < int(match["port"]) < 65_536:
        raise UsageError(
            f"A DICOM peer must be TITLE@HOST:PORT with a title of 1 to 16 characters, got {text!r}.",
            code="E-DICOM-PEER",
            hint="For example PACS@127.0.0.1:4242.",
        )
    return Peer(check_title(match["title"]), match["host"].strip("[]"), int(match["port"]))


def check_title(title: str) -> str:
    """Returns an application entity title if it is one.

    Raises:
        UsageError: Not 1 to 16 printable ASCII characters, or a backslash is among them.
    """
    if not 0 < len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise UsageError(
            f"An AE title must be 1 to 16 printable ASCII characters without a backslash, got {title!r}.",
            code="E-DICOM-PEER",
        )
    return title.strip()


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
