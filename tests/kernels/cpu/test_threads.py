"""Threads: the same bits on any number of them; no harm from fork, spawn, workers and concurrent calls."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from scanseg.kernels import selective_scan
from scanseg.kernels.arguments import Arguments
from scanseg.kernels.cpu import threads
from scanseg.kernels.cpu.jobs import runs_per_group
from scanseg.kernels.cpu.run import _WORTH_THREADS, sizes_of


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _large_scan(cases, seed: int = 0):
    scan = cases.random_scan(batch=1, dim=256, length=400, state=16, seed=seed)
    assert scan.tensors["u"].numel() * 16 > _WORTH_THREADS
    return scan


def _pool_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("scanseg-scan")]


@pytest.mark.parametrize("layout", ["first", "last"])
def test_two_threads_give_the_bits_of_one(cases, two_threads, layout):
    scan = cases.random_scan(batch=1, dim=256, length=400, state=16, layout=layout)
    two = scan.run(selective_scan)
    assert _pool_threads()
    torch.set_num_threads(1)
    one = scan.run(selective_scan)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_cut_into_jobs_feeds_eight_threads_where_channels_allow():
    def jobs(batch: int, dim: int, groups: int) -> int:
        u, B = torch.empty(batch, dim, 4), torch.empty(batch, groups, 16, 4)
        sizes = sizes_of(Arguments(u, u, torch.empty(dim, 16), B, B, None, None, None, False))
        return batch * groups * runs_per_group(sizes)

    assert jobs(1, 1, 1) == 1
    assert jobs(2, 256, 1) >= 8
    assert jobs(1, 768, 4) >= 8
    assert jobs(12, 1024, 1) >= 12


def test_every_job_runs_once(two_threads):
    done = []
    threads.run_jobs(lambda first, last: done.extend(range(first, last)), 100, 3)
    assert sorted(done) == list(range(100))


def test_an_error_in_a_helper_is_raised(two_threads):
    def fail_elsewhere(first: int, last: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("in a helper")
        time.sleep(0.01)

    with pytest.raises(MemoryError, match="in a helper"):
        threads.run_jobs(fail_elsewhere, 200, 2)


def test_concurrent_calls_from_python_threads(cases, two_threads):
    scans = [_large_scan(cases, seed) for seed in range(3)]
    expected = [scan.run(selective_scan)["A"] for scan in scans]
    results: list[torch.Tensor | None] = [None] * 3

    def work(i: int) -> None:
        for _ in range(3):
            results[i] = scans[i].run(selective_scan)["A"]

    callers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert all(torch.equal(result, truth) for result, truth in zip(results, expected, strict=True))


def _checksum() -> float:
    # NumPy adds: PyTorch's own OpenMP regions would hang in a worker forked from a process that used them.
    generator = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(1, 256, 400, generator=generator) for _ in range(2))
    B, C = (torch.randn(1, 16, 400, generator=generator) for _ in range(2))
    A = -torch.rand(256, 16, generator=generator)
    return selective_scan(u, delta, A, B, C, delta_softplus=True).numpy().sum(dtype=float).item()


FORK = """
import os, threading, torch
from scanseg.kernels import selective_scan
from scanseg.kernels.op import backward_operator, scan_operator

torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
u, delta = (torch.randn(1, 256, 400, generator=generator) for _ in range(2))
B, C = (torch.randn(1, 16, 400, generator=generator) for _ in range(2))
A = -torch.rand(256, 16, generator=generator)
def run():
    y, states = scan_operator(u, delta, A, B, C, None, None, None, True, True)
    return [y, *backward_operator(y, states, u, delta, A, B, C, None, None, None, True)]
parent = run()
assert any(t.name.startswith("scanseg-scan") for t in threading.enumerate()), "no pool in the parent"
child = os.fork()
if child == 0:
    same = all(torch.equal(a, b) for a, b in zip(parent, run()))
    alone = threading.active_count() == 1
    os._exit(0 if same and alone else 3)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_scans_without_threads():
    # In a process of its own, because PyTorch's OpenMP threads do not survive a fork of pytest's.
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=250)
    assert done.stdout.strip() == "child 0", done.stdout + done.stderr


class _Scans(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[float, int]:
        torch.set_num_threads(2)  # even where a worker raises PyTorch's number
        return _checksum(), len(_pool_threads())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_data_loader_worker_scans_without_threads(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    loader = DataLoader(_Scans(), batch_size=None, num_workers=1, multiprocessing_context=method, timeout=250)
    for checksum, started in loader:
        assert checksum == _checksum()
        assert started == 0
