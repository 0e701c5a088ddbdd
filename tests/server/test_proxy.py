"""The service behind nginx with our configuration, by TLS."""

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
MAIN = """daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
pytestmark = pytest.mark.timeout(300)


@dataclass
class Proxied:
    """A server and the proxy in front of it."""

    server: Any
    plain: str
    secure: str
    trust: ssl.SSLContext

    def client(self, **headers: str) -> httpx.Client:
        mine = {"Authorization": f"Bearer {self.server.token}"}
        return httpx.Client(
            base_url=self.secure, headers={**mine, **headers}, verify=self.trust, trust_env=False, timeout=60
        )


@pytest.fixture(scope="module")
def proxied(
    start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Proxied]:
    program, openssl = (
        shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin"),
        shutil.which("openssl"),
    )
    if program is None or openssl is None:
        pytest.skip("nginx or openssl is not installed (make system-packages)")
    folder = tmp_path_factory.mktemp("proxy")
    request = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    names = ("-out", str(folder / "fullchain.pem"), "-keyout", str(folder / "key.pem"))
    subprocess.run([*request, *names], check=True, capture_output=True, timeout=30)
    options = ("--allow-host", "localhost", "--token-file", str(folder / "token"))
    server, plain, secure = start(folder / "data", options=options), free_port(), free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl": f"listen 127.0.0.1:{secure} ssl",
        "scanseg.example.org": "localhost",
        "/etc/ssl/scanseg/": f"{folder}/",
        "http://127.0.0.1:8000": server.url,
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    with subprocess.Popen(command) as nginx:
        server.wait_ready()
        trust = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
        yield Proxied(server, f"http://localhost:{plain}", f"https://localhost:{secure}", trust)
        nginx.terminate()


def test_all_of_a_prediction_through_the_proxy(
    proxied: Proxied, image_3d: Path, reference_mask: bytes
) -> None:
    with proxied.client() as api:
        job = api.put(
            "/api/v1/predictions", content=image_3d.read_bytes(), headers={"X-Scanseg-Name": "a.nii.gz"}
        )
        assert job.status_code == 202
        states = []
        with api.stream("GET", job.json()["links"]["events"]) as events:
            for line in events.iter_lines():
                if line.startswith("data:"):
                    states.append(line)
        assert '"done"' in states[-1]
        own = job.json()["links"]["self"]
        assert api.get(f"{own}/mask").content == reference_mask
        assert api.delete(own).status_code == 204


def test_events_come_at_once(proxied: Proxied) -> None:
    """Not only when the answer is complete: the first one comes while the job waits for its file."""
    with proxied.client() as api:
        job = api.post("/api/v1/predictions", json={"inputs": [{"name": "a.nii.gz"}]}).json()
        began_s = time.monotonic()
        with api.stream("GET", f"{job['links']['self']}/events") as events:
            first = next(line for line in events.iter_lines() if line.startswith("data:"))
        assert '"waiting"' in first
        assert time.monotonic() - began_s < 5
        api.delete(job["links"]["self"])


def test_what_the_proxy_adds_and_what_it_leaves(proxied: Proxied) -> None:
    moved = httpx.get(f"{proxied.plain}/api/v1/models", trust_env=False)
    assert (moved.status_code, moved.headers["location"]) == (301, "https://localhost/api/v1/models")
    with proxied.client(Origin="https://localhost") as api:
        answer = api.get("/api/v1/models")
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert api.get("/", headers={"Authorization": ""}).status_code == 200
    with proxied.client(Origin="https://evil.example") as api:
        assert api.get("/api/v1/models").json()["code"] == "E-SERVE-ORIGIN"
    with proxied.client(Host="evil.example") as api:
        assert api.get("/api/v1/models").json()["code"] == "E-SERVE-HOST"
    with proxied.client(Authorization="Bearer wrong") as api:
        assert api.get("/api/v1/models").status_code == 401
