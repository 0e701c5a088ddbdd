"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of larger real datasets; skips where it is absent."""
    folder = Path(os.environ.get("SCANSEG_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder} (set SCANSEG_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def demo_data() -> Path:
    """The small real datasets that ship in the package."""
    return REPOSITORY / "src" / "scanseg" / "demo_data"
