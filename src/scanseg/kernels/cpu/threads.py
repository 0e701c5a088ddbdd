"""Threads for compiled kernels that release the interpreter lock; started on the first use that needs them.

Numba's own threading layers either abort in a forked process or on concurrent calls, and a second OpenMP
team beside PyTorch's fights it for cores. Plain Python threads do neither: jobs take long beside a hand-over.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import get_worker_info

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_forked = False


def threads_for(jobs: int) -> int:
    """Returns how many threads to use: PyTorch's number, at most `jobs`.

    One in a DataLoader worker and in any forked process, which shares its parent's cores.
    """
    if _forked or get_worker_info() is not None:
        return 1
    return max(1, min(torch.get_num_threads(), jobs))


def run_jobs(kernel: Callable[[int, int], None], jobs: int, threads: int) -> None:
    """Calls `kernel(first, last)` until the jobs [0, jobs) are done; the calling thread takes part.

    With one thread no other thread is started. An exception in any thread is raised here.
    """
    if threads == 1:
        kernel(0, jobs)
        return
    numbers = itertools.count()

    def work() -> None:
        while (job := next(numbers)) < jobs:
            kernel(job, job + 1)

    helpers = [_pool().submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        # A helper that has not started has nothing left to do.
        if not helper.cancel():
            helper.result()


def _pool() -> ThreadPoolExecutor:
    global _executor
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="scanseg-scan")
        return _executor


def _forget() -> None:
    """Forgets the threads, which do not exist in a forked process, and the lock, which one may have held."""
    global _executor, _lock, _forked
    _executor, _lock, _forked = None, threading.Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
