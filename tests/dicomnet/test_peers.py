"""Addresses of application entities."""

import pytest

from scanseg.dicomnet.peers import Peer, check_title, parse_peer
from scanseg.errors import UsageError


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("PACS@localhost:104", Peer("PACS", "localhost", 104)),
        ("A B@h.x:65535", Peer("A B", "h.x", 65535)),
        ("P@[::1]:11112", Peer("P", "::1", 11112)),
    ],
)
def test_peers(text, peer):
    assert parse_peer(text) == peer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PACS",
        "PACS@host",
        "@host:104",
        "PACS@host:0",
        "PACS@host:65536",
        "SEVENTEEN_LETTERS@h:1",
        "P@h h:1",
    ],
)
def test_what_is_no_peer(text):
    with pytest.raises(UsageError, match="TITLE@HOST:PORT"):
        parse_peer(text)


@pytest.mark.parametrize("title", ["", " ", "a\\b", "é", "x" * 17, "a\nb"])
def test_what_is_no_title(title):
    with pytest.raises(UsageError):
        check_title(title)
