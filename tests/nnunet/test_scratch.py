"""Arrays in temporary files."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from scanseg.errors import Error
from scanseg.nnunet import scratch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_holds_zeros_and_keeps_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    made = scratch.zeros((3, 70, 41), dtype, memory_bytes=0, folder=tmp_path)
    assert made.shape == (3, 70, 41)
    assert made.dtype == dtype
    assert not made.any()
    expected = torch.randn(3, 70, 41, generator=torch.Generator().manual_seed(0)).to(dtype)
    made.copy_(expected)
    # A view, a numpy view and the whole lead to the same file.
    for array in (made[1:, 5:], made[2].numpy(), made):
        scratch.release(array)
        assert torch.equal(made, expected)


def test_release_leaves_arrays_in_memory_alone() -> None:
    """The system call would zero them."""
    tensor, array = torch.ones(2**20), np.ones(2**20)
    scratch.release(tensor)
    scratch.release(array)
    assert tensor.all()
    assert array.all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_is_unnamed_private_and_goes_with_the_last_view(tmp_path: Path) -> None:
    def open_files() -> list[str]:
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [os.readlink(link) for link in links if str(tmp_path) in os.readlink(link)]

    view = scratch.zeros((4, 5000), torch.float32, memory_bytes=100, folder=tmp_path).numpy()[1:]
    assert len(open_files()) == 1
    assert list(tmp_path.iterdir()) == []
    view[0] = 1
    assert view.sum() == 5000
    del view
    gc.collect()
    assert open_files() == []
    assert len(scratch._MAPPINGS) == 0


def test_small_arrays_and_none_stay_in_memory(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert scratch.zeros((10, 10), torch.float32, memory_bytes=400, folder=absent).shape == (10, 10)
    assert scratch.zeros((0, 10), torch.float32, memory_bytes=-1, folder=absent).shape == (0, 10)


def test_a_full_disk_is_refused_before(tmp_path: Path) -> None:
    """More than any disk holds; nothing is written."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(Error) as caught:
        scratch.zeros((free,), torch.float32, memory_bytes=0, folder=tmp_path)
    assert caught.value.code == "E-PREDICT-DISK"
    assert "TMPDIR" in caught.value.hint
    assert abs(shutil.disk_usage(tmp_path).free - free) < free / 2


@pytest.mark.skipif(sys.platform != "linux", reason="uses a limit on file sizes")
def test_space_that_cannot_be_reserved_is_refused(tmp_path: Path) -> None:
    """A quota shows only when the space is taken; a limit on file sizes stands for it."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(Error) as caught:
            scratch.zeros((2**20,), torch.float32, memory_bytes=0, folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "E-PREDICT-DISK"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "a file", "read-only"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "folder"
    if kind == "a file":
        folder.write_text("")
    if kind == "read-only":
        folder = Path("/proc") if sys.platform == "linux" else folder
    with pytest.raises(Error) as caught:
        scratch.zeros((9,), torch.float32, memory_bytes=0, folder=folder)
    assert caught.value.code == "E-PREDICT-FOLDER"
    assert str(folder) in caught.value.message


def test_the_environment_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert scratch._default_folder() == tmp_path


def test_other_systems_reserve_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system: Any = SimpleNamespace(platform="darwin")
    monkeypatch.setattr(scratch, "sys", system)
    monkeypatch.setattr(scratch, "_CHUNK_BYTES", 1000)
    made = scratch.zeros((1234,), torch.float32, memory_bytes=0, folder=tmp_path)
    assert not made.any()
    made += 1
    scratch.release(made)
    assert made.sum() == 1234
