"""The process that parses uploads: confined, replaced, and never believed to come back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from scanseg.data.image import read_image
from scanseg.errors import DataError
from scanseg.pipeline.serving import read_view
from scanseg.server.reading import Reader

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
pytestmark = pytest.mark.timeout(300)  # the first test waits for the model to be trained


@pytest.fixture
def reader():
    found = Reader()
    yield found
    found.close()


def test_what_crosses_is_what_was_read(reader, image_3d, tmp_path) -> None:
    answer = reader.read({"paths": [str(image_3d)], "out": str(tmp_path), "options": {}}, limit_s=60)
    assert answer["files"] == 1
    arrays, geometry = read_view(tmp_path)
    direct = read_image(image_3d)
    assert np.array_equal(arrays["image"], direct.array)
    assert np.array_equal(geometry.affine, direct.geometry.affine)
    assert (geometry.shape, geometry.spacing, geometry.format) == (
        direct.geometry.shape, direct.geometry.spacing, direct.geometry.format,
    )  # fmt: skip
    assert geometry.header == json.loads(json.dumps(dict(direct.geometry.header)))


def test_errors_cross_with_code_and_hint(reader, tmp_path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError) as direct:
        read_image(path)
    with pytest.raises(DataError) as crossed:
        reader.read({"paths": [str(path)], "out": str(tmp_path), "options": {}}, limit_s=60)
    found, expected = crossed.value, direct.value
    assert (found.code, found.message, found.hint) == (expected.code, expected.message, expected.hint)


def test_damaged_archives_are_refused_in_the_words_of_the_command_line(reader, tmp_path) -> None:
    path = tmp_path / "scan.zip"
    path.write_bytes(b"PK\3\4" + bytes(60))
    with pytest.raises(DataError) as direct:
        read_image(path)
    with pytest.raises(DataError) as crossed:
        reader.read({"paths": [str(path)], "out": str(tmp_path), "options": {}}, limit_s=60)
    found, expected = crossed.value, direct.value
    assert (found.code, found.hint) == (expected.code, expected.hint) == ("E-ZIP-FORMAT", expected.hint)
    assert found.message.endswith(expected.message.removeprefix("scan"))


def test_a_reader_that_hangs_or_dies_is_an_error(reader, image_3d, tmp_path) -> None:
    orders = {"paths": [str(image_3d)], "out": str(tmp_path), "options": {}}
    with pytest.raises(DataError) as late:
        reader.read(orders, limit_s=0.001)
    assert late.value.code == "E-SERVE-READ-TIME"
    reader.prepare()
    reader._process.send_signal(signal.SIGSTOP)
    threading.Timer(0.3, reader._process.kill).start()
    with pytest.raises(DataError) as dead:
        reader.read(orders, limit_s=60)
    assert dead.value.code == "E-SERVE-READ-CRASH"
    assert reader.read(orders, limit_s=60)["files"] == 1
    # One that died while nothing was to do is replaced.
    reader._process.kill()
    reader._process.wait()
    assert reader.read(orders, limit_s=60)["files"] == 1


def _start(parse: str, before: str = "") -> subprocess.Popen[str]:
    """Starts the reading process with other code in the place of `_parse`."""
    code = (
        "import os, sys, time\n"
        "from scanseg.server import reading\n"
        f"def parse(orders):\n    {parse}\n"
        f"reading._parse = parse\n{before}\n"
        "reading.main()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


@linux_only
def test_cases_do_not_meet() -> None:
    parse = "; ".join([
        "sys.seen = [*getattr(sys, 'seen', []), 1]",
        "sys.stdout.write('no\\n')",
        "found = {'seen': sys.seen, 'stdin': os.readlink('/proc/self/fd/0'), 'pid': os.getpid()}",
        "return found | {'open': os.listdir('/proc/self/fd')}",
    ])  # fmt: skip
    with _start(parse) as process:
        process.stdin.write("{}\n{}\n")
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
        assert process.stdout.read() == ""
    assert len({first.pop("pid"), second.pop("pid"), process.pid}) == 3
    assert first == second
    assert (first["seen"], first["stdin"]) == ([1], os.devnull)
    assert len(first["open"]) == 5  # three streams that lead nowhere, the answer, and the listing itself


@linux_only
def test_a_case_that_dies_takes_none_with_it() -> None:
    with _start("return os._exit(9) if orders else {}") as process:
        process.stdin.write('{"die": 1}\n{}\n')
        assert [process.stdout.readline() for _ in range(2)] == ["\n", "{}\n"]
        process.stdin.close()


def test_without_forks_a_process_reads_one_case() -> None:
    """As on macOS and Windows."""
    with _start("return {'pid': os.getpid()}", "reading._FORKS = False") as process:
        process.stdin.write("{}\n{}\n")
        assert process.stdout.readlines() == [f'{{"pid": {process.pid}}}\n']


def test_without_forks_every_case_gets_a_new_process(reader, image_3d, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("scanseg.server.reading._FORKS", False)
    seen = set()
    for number in range(2):
        reader.prepare()
        seen.add(reader._process.pid)
        (tmp_path / str(number)).mkdir()
        orders = {"paths": [str(image_3d)], "out": str(tmp_path / str(number)), "options": {}}
        assert reader.read(orders, limit_s=60)["files"] == 1
    assert len(seen) == 2


@linux_only
def test_parsing_ends_with_the_process_that_asked(tmp_path) -> None:
    note = tmp_path / "pid"
    with _start("open(orders['note'], 'w').write(str(os.getpid())); time.sleep(60)") as process:
        process.stdin.write(json.dumps({"note": str(note)}) + "\n")
        _until(lambda: note.is_file() and note.read_text())
        process.kill()
        child = Path("/proc", note.read_text())
        _until(lambda: not child.exists() or ") Z " in (child / "stat").read_text())


def _until(true) -> None:
    limit_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit_s
        time.sleep(0.02)


@linux_only
def test_nothing_is_parsed_before_the_limits_hold() -> None:
    code = (
        "import resource as r\n"
        "from scanseg.server import reading\n"
        "names = ('RLIMIT_CORE', 'RLIMIT_NOFILE', 'RLIMIT_AS', 'RLIMIT_FSIZE', 'RLIMIT_CPU')\n"
        "reading._parse = lambda orders: {name: r.getrlimit(getattr(r, name))[1] for name in names}\n"
        "reading.main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], input="{}\n", capture_output=True, text=True, check=True
    )
    limits = json.loads(answer.stdout)
    assert (limits["RLIMIT_CORE"], limits["RLIMIT_NOFILE"]) == (0, 64)
    assert 0 < limits["RLIMIT_AS"] <= 16 << 30
    assert 0 < limits["RLIMIT_FSIZE"] <= 16 << 30
    assert 0 < limits["RLIMIT_CPU"] <= 900


@linux_only
def test_it_is_confined() -> None:
    code = (
        "import json, resource, socket\n"
        "from scanseg.server.reading import confine\n"
        "missing = confine()\n"
        "def connect():\n"
        "    try: socket.create_connection(('127.0.0.1', 9), 1)\n"
        "    except ConnectionRefusedError: return 'reached'\n"
        "    except OSError as error: return 'unreachable'\n"
        "core, files = resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "status = open('/proc/self/status').read()\n"
        "print(json.dumps([missing, core[0], files[0], 'NoNewPrivs:\\t1' in status, connect()]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    missing, core, files, no_new_privileges, network = json.loads(answer.stdout)
    assert (core, files) == (0, 64)
    assert no_new_privileges or "no new privileges" in missing
    assert network == "unreachable" or "no network" in missing


def test_stray_output_of_libraries_does_not_disturb(image_3d: Path, tmp_path: Path) -> None:
    orders = json.dumps({"paths": [str(image_3d)], "out": str(tmp_path), "options": {}})
    answer = subprocess.run(
        [sys.executable, "-m", "scanseg.server.reading"], input=orders + "\n", capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert len(answer.stdout.splitlines()) == 1
    assert json.loads(answer.stdout)["files"] == 1
