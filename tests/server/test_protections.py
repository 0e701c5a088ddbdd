"""Guards the guards: with any one protection taken away, a named test fails. See protections.toml.

A copy of the package lies in a temporary folder; one protection at a time is patched away in the text of the
copy, and its test runs against that copy in a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "scanseg"
FULL = os.environ.get("SCANSEG_FAULTS") == "full"
SAMPLE = (
    "requests of other pages", "token compare", "counted size", "commit before the answer",
    "bytes synced before the answer", "names in archives",
)  # fmt: skip


@dataclass(frozen=True)
class Protection:
    """An entry of the table.

    Attributes:
        file: Under src/scanseg.
        old: Text that stands there once; `new` in its place takes the protection away.
        test: Under tests; fails then.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


TABLE = [
    Protection(**entry)
    for entry in tomllib.loads((Path(__file__).parent / "protections.toml").read_text())["protection"]
]


def run(package: Path, tests: list[str]) -> int:
    """Exit status of pytest on some tests of ours with the package in another folder: 1 if one failed."""
    answer = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout",
            *(str(TESTS / test) for test in tests),
        ],
        env={
            **os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        cwd=TESTS.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode in (0, 1), f"{tests}: {answer.stdout[-2000:]}{answer.stderr[-2000:]}"
    return answer.returncode


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a copy of the package that the tests import."""
    folder = tmp_path_factory.mktemp("package")
    # With its bytecode and times: only the file that is patched is compiled again.
    shutil.copytree(SOURCE, folder / "scanseg", ignore=shutil.ignore_patterns("demo_data"))
    # Tests read images where they lie; only the package's own code must come from here.
    (folder / "scanseg" / "demo_data").symlink_to(SOURCE / "demo_data")
    command = [sys.executable, "-c", "import scanseg; print(scanseg.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(folder))
    return folder


def killed(package: Path, protection: Protection) -> bool:
    """Whether the test fails without the protection; the copy is whole again afterwards."""
    path = package / "scanseg" / protection.file
    text, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(text.replace(protection.old, protection.new), encoding="utf-8")
    try:
        return run(package, [protection.test]) == 1
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_table_fits_the_source() -> None:
    names = [protection.name for protection in TABLE]
    assert len(set(names)) == len(names) >= 60
    assert set(SAMPLE) <= set(names)
    for one in TABLE:
        text = (SOURCE / one.file).read_text(encoding="utf-8")
        assert text.count(one.old) == 1, f"{one.name}: {one.old!r} must stand once in {one.file}"
        compile(text.replace(one.old, one.new), one.file, "exec")
        file, _, test = one.test.partition("::")
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{one.name}: no {one.test}"


@pytest.mark.faults
@pytest.mark.timeout(14_400 if FULL else 600)
def test_without_a_protection_its_test_fails(package: Path, figure: Callable[..., None]) -> None:
    """Figure T7: how many of the protections are missed by nobody when they go; must be none."""
    chosen = TABLE if FULL else [one for one in TABLE if one.name in SAMPLE]
    if FULL:
        assert run(package, sorted({one.test for one in chosen})) == 0, "a test fails on the whole package"
    table = [
        {
            "protection": one.name,
            "file": one.file,
            "mutation": {"old": one.old, "new": one.new},
            "killed by": one.test if killed(package, one) else None,
        }
        for one in chosen
    ]
    missed = [row["protection"] for row in table if row["killed by"] is None]
    figure("T7", protections=len(table), caught=len(table) - len(missed), missed=missed, table=table)
    assert not missed, json.dumps(missed)
