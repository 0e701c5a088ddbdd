"""The kept kernels: found again, announced once, and never in the way."""

import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import scanseg
from scanseg.kernels.cpu import cache

WARM_UP = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(message)s")
from scanseg.kernels import backends
print("numba", "numba" in sys.modules)
from scanseg.kernels.cpu import cache
print("before", cache.is_compiled())
backends.warm_up()
print("folder", cache.cache_folder())
"""


def _warm_up(package: Path, environment: dict[str, str]) -> str:
    variables = {**os.environ, "PYTHONPATH": str(package), **environment}
    done = subprocess.run(
        [sys.executable, "-c", WARM_UP], capture_output=True, text=True, timeout=250, env=variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def in_cache(monkeypatch, tmp_path):
    """Points the user's cache folder to an empty place."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_compiled_once_announced_once_and_found_again_after_a_new_installation(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
    source = Path(scanseg.__file__).parents[1]
    first = _warm_up(source, home)
    assert "numba False" in first, "importing the scan imported Numba"
    assert "before False" in first
    assert first.count("compiling the scan for this processor") == 1
    assert f"once; kept in {tmp_path / 'cache'}" in first

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(source / "scanseg" / "kernels", elsewhere / "scanseg" / "kernels")
    for name in ("__init__.py", "errors.py", "optional.py", "registry.py"):
        shutil.copy(source / "scanseg" / name, elsewhere / "scanseg" / name)
    second = _warm_up(elsewhere, home)
    assert "before True" in second
    assert "compiling" not in second


def test_the_folder_is_the_users_and_private(in_cache):
    folder = cache.cache_folder()
    assert folder is not None
    assert folder.parent == in_cache / "scanseg" / "kernels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not cache.is_compiled()


def test_a_folder_that_others_may_write_to_is_passed_over(in_cache):
    folder = cache.cache_folder()
    folder.chmod(0o777)
    assert cache.cache_folder() != folder


def test_the_folder_set_for_numba_comes_first(in_cache, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(in_cache / "numba"))
    assert cache.cache_folder().parent == in_cache / "numba" / "scanseg"


def test_without_a_writable_folder_there_is_none_and_the_announcement_says_so(in_cache, monkeypatch, caplog):
    blocked = in_cache / "file"
    blocked.write_text("no folder")
    monkeypatch.setattr(cache, "_candidates", lambda: [blocked])
    monkeypatch.setattr(cache, "_announced", False)
    assert cache.cache_folder() is None
    with caplog.at_level(logging.WARNING):
        cache._announce(None)
        cache._announce(None)
    assert len(caplog.records) == 1
    assert "in every process" in caplog.text
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_another_source_or_processor_has_another_folder(in_cache, monkeypatch, tmp_path):
    before = cache.cache_folder()
    copied = tmp_path / "cpu"
    shutil.copytree(Path(cache.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "_FOLDER", copied)
    assert cache.cache_folder() == before
    with (copied / "recurrence.py").open("a") as stream:
        stream.write("\n")
    assert cache.cache_folder() != before


def _double(x):
    return 2 * x


def _kept(function):
    """Returns the function compiled with our cache."""
    dispatcher = numba.njit(function)
    dispatcher._cache = cache._Cache(function)
    return dispatcher


def test_a_damaged_file_costs_a_warning_and_is_replaced(in_cache, caplog):
    assert _kept(_double)(4) == 8
    for file in in_cache.rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert _kept(_double)(4) == 8
    assert "cannot be read" in caplog.text
    again = _kept(_double)
    assert again(4) == 8
    assert sum(again.stats.cache_hits.values()) == 1


def test_a_full_disk_costs_a_warning_not_the_scan(in_cache, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    double = _kept(_double)
    monkeypatch.setattr(double._cache._cache_file, "save", full)
    with caplog.at_level(logging.WARNING):
        assert double(4) == 8
    assert "No space left" in caplog.text
