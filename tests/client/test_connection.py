"""Requests to a real socket: refusals, nonsense, and answers that break off."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scanseg.client import Client, ServiceError

PROBLEM = {"code": "E-SERVE-UNKNOWN", "detail": "No such job.", "hint": "List them.", "status": 404}


class Answers(BaseHTTPRequestHandler):
    """`/problem`, `/nonsense`, `/whole`, `/broken`; repeats other paths; a PUT tells the length it got."""

    def do_GET(self) -> None:
        kind = self.path.rpartition("/")[2]
        status, body = {
            "problem": (404, json.dumps(PROBLEM).encode()),
            "nonsense": (502, b"<html>"),
            "whole": (200, b"content"),
            "broken": (200, b"content"),
        }.get(kind, (200, json.dumps({"path": self.path}).encode()))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (kind == "broken")))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        count = len(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"id": "p_1", "state": "queued", "bytes": count}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "code", "hint", "status"),
    [("/problem", "E-SERVE-UNKNOWN", "List them.", 404), ("/nonsense", "E-CLIENT-HTTP", "", 502)],
)
def test_refusals_are_errors_with_their_code(url, tmp_path, path, code, hint, status) -> None:
    with Client(url) as client, pytest.raises(ServiceError) as caught:
        client.download(path, tmp_path / "a")
    assert (caught.value.code, caught.value.hint, caught.value.status) == (code, hint, status)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_absent(url, tmp_path: Path) -> None:
    with Client(url) as client:
        assert client.download("/whole", tmp_path / "whole").read_bytes() == b"content"
        with pytest.raises(ServiceError) as caught:
            client.download("/broken", tmp_path / "whole")
        assert (caught.value.code, caught.value.status) == ("E-CLIENT-UNREACHABLE", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole").read_bytes() == b"content"


def test_a_file_is_sent_whole(url, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes((1 << 20) + 17))
    with Client(url) as client:
        assert client._connection.upload("/x", source)["bytes"] == (1 << 20) + 17


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9", timeout_s=5) as client, pytest.raises(ServiceError) as caught:
        client.version()
    assert caught.value.code == "E-CLIENT-UNREACHABLE"


def test_an_id_is_one_part_of_the_path(url) -> None:
    with Client(url) as client:
        asked = client.job("../../problem").facts["path"]
    assert asked == "/api/v1/predictions/..%2F..%2Fproblem"
