"""Workers that hang or take too long are killed; those that work are left alone."""

import asyncio
import time
from typing import Any

import pytest

from scanseg.server.limits import Limits
from scanseg.server.settings import Settings
from scanseg.server.supervise import News, Supervisor


def judged(tmp_path, *, ran_s: float, silent_s: float) -> tuple[bool, list[tuple[Any, ...]]]:
    """Whether the worker of a job was killed, and what the store was told."""

    async def run() -> tuple[bool, list[tuple[Any, ...]]]:
        told: list[tuple[Any, ...]] = []

        async def store(method: str, *arguments: Any, **named: Any) -> None:
            told.append((method, *arguments))

        settings = Settings(runs={"m": tmp_path}, data=tmp_path, limits=Limits(job_s=100, lease_s=30))
        supervisor = Supervisor(settings, News(), store, lambda line: None)
        line = supervisor.lines["m"]
        line.process = await asyncio.create_subprocess_exec("sleep", "30")
        line.jobs.append("p_1")
        now_s = time.time()
        await supervisor._judge("p_1", "m", now_s - ran_s, now_s - silent_s)
        try:
            await asyncio.wait_for(line.process.wait(), 2 if ran_s > 100 or silent_s > 30 else 0.2)
            return True, told
        except TimeoutError:
            line.process.kill()
            await line.process.wait()
            return False, told

    return asyncio.run(run())


@pytest.mark.parametrize(("ran_s", "silent_s", "killed"), [(50, 1, False), (50, 31, True), (101, 1, True)])
def test_the_watch(tmp_path, ran_s, silent_s, killed) -> None:
    found, told = judged(tmp_path, ran_s=ran_s, silent_s=silent_s)
    assert found is killed
    # A silent worker may not be its job's fault; one that takes too long is.
    assert [one[:2] for one in told] == ([("fail", "p_1")] if ran_s > 100 else [])
