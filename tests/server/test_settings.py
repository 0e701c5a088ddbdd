"""The data folder and what holds without being asked for."""

import os
import subprocess
import sys

import pytest

from scanseg.errors import DataError, UsageError
from scanseg.server import settings
from scanseg.server.settings import Settings, lock_data, prepare_folder


def test_what_holds_without_being_asked_for(tmp_path) -> None:
    found = Settings(runs={}, data=tmp_path)
    assert (found.host, found.docs, found.names, found.dicom) == ("127.0.0.1", False, (), None)


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
def test_the_data_folder_is_closed_to_others(tmp_path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    prepare_folder(tmp_path / "data")
    for folder in (tmp_path / "data", *(tmp_path / "data").iterdir()):
        assert oct(folder.stat().st_mode & 0o777) == "0o700", folder


def test_a_network_folder_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(settings, "file_system", lambda folder: "nfs4")
    with pytest.raises(UsageError) as caught:
        prepare_folder(tmp_path / "data")
    assert caught.value.code == "E-SERVE-REMOTE"


def test_a_folder_has_one_server(tmp_path) -> None:
    first = lock_data(tmp_path)
    with pytest.raises(DataError) as caught:
        lock_data(tmp_path)
    assert caught.value.code == "E-SERVE-BUSY"
    first.close()
    lock_data(tmp_path).close()


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_no_core_dumps() -> None:
    resource = pytest.importorskip("resource", reason="limits of processes exist on POSIX systems only")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("core dumps are already forbidden to this process, and what starts it cannot allow them")
    code = (
        "import resource\n"
        "from scanseg.server.serving import set_process_limits\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))\n"
        "set_process_limits()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "(0, 0)\n"
