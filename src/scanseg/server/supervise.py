"""One worker process per model: started, listened to, restarted when it dies, killed when it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from scanseg.server.jobs import may_pass
from scanseg.server.problems import problem
from scanseg.server.settings import Settings

logger = logging.getLogger("scanseg.server")

CRASHED = problem(
    422,
    "E-SERVE-CRASHED",
    "The worker process ended while it worked on this image, more than once.",
    "The image may need more memory than the server has; crop or downsample it.",
)
TOO_LONG = problem(
    422,
    "E-SERVE-TIME",
    "The prediction took longer than this server allows.",
    "Use a larger step size without --tta, crop the image, or ask the operator for more time.",
)
_LONGEST_WAIT_S = 30.0


class News:
    """What changed, for those who wait for it. Progress lives here only; it need not survive anything."""

    def __init__(self) -> None:
        self.progress: dict[str, dict[str, Any]] = {}
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def tell(self, job_id: str) -> None:
        """Wakes everyone who waits for a job."""
        event = self._events.pop(job_id, None)
        if event is not None:
            event.set()

    async def wait(self, job_id: str, limit_s: float) -> None:
        """Returns when something about a job changed, at the latest after `limit_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._events[job_id].wait(), limit_s)

    def finished(self, job_id: str) -> None:
        """Forgets the progress of a job and wakes those who wait."""
        self.progress.pop(job_id, None)
        self.tell(job_id)


@dataclass
class Line:
    """A model's worker as seen from the web process.

    Attributes:
        state: `loading`, `ready`, `restarting` or `broken`.
        error: Why it is broken.
        heard_s: When it last said anything.
    """

    model: str
    state: str = "loading"
    device: str = ""
    error: dict[str, str] | None = None
    process: asyncio.subprocess.Process | None = None
    starts: int = 0
    was_ready: bool = False
    heard_s: float = 0.0
    jobs: list[str] = field(default_factory=list)


class Supervisor:
    """Keeps the workers of all models running.

    Args:
        settings: Models and limits.
        news: Told about progress.
        store: Runs a method of the job store in its thread.
        on_broken: Called when a model cannot be loaded at all.
    """

    def __init__(
        self,
        settings: Settings,
        news: News,
        store: Callable[..., Awaitable[Any]],
        on_broken: Callable[[Line], None],
    ) -> None:
        self.settings, self.news, self._store, self._on_broken = settings, news, store, on_broken
        self.lines = {model: Line(model) for model in settings.runs}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self) -> None:
        """Starts every worker, and the watch over them."""
        self._tasks = [asyncio.create_task(self._keep(line)) for line in self.lines.values()]
        self._tasks.append(asyncio.create_task(self._watch()))

    def wake(self, model: str) -> None:
        """Tells a worker that there is work."""
        process = self.lines[model].process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            with contextlib.suppress(ConnectionError, RuntimeError):
                process.stdin.write(b"\n")

    async def close(self) -> None:
        """Ends all workers; what they were at is queued again."""
        self._closing = True
        for line in self.lines.values():
            if line.process is not None and line.process.stdin is not None:
                line.process.stdin.close()
        for line in self.lines.values():
            if line.process is not None and line.process.returncode is None:
                try:
                    await asyncio.wait_for(line.process.wait(), 5)
                except TimeoutError:
                    _kill(line.process)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, line: Line) -> None:
        pause_s = 0.1
        while not self._closing:
            began_s = time.monotonic()
            await self._run_once(line)
            if self._closing:
                return
            await self._recover(line)
            if line.error is not None and not line.was_ready:
                line.state = "broken"
                self._on_broken(line)
                return
            line.state = "restarting"
            # A worker that lived a while is replaced at once; one that dies at its start ever more slowly.
            pause_s = 0.1 if time.monotonic() - began_s > 10 else min(_LONGEST_WAIT_S, pause_s * 3)
            logger.warning("worker of %s ended; the next one starts in %.1f s", line.model, pause_s)
            await asyncio.sleep(pause_s)

    async def _recover(self, line: Line) -> None:
        """Queues again what a dead worker was at; the next worker does the same for a dead server."""
        limits, told = self.settings.limits, False
        while True:
            try:
                await self._store(
                    "recover", line.model, tries=limits.tries, error=CRASHED, ttl_s=limits.ttl_s
                )
                break
            except sqlite3.OperationalError as error:
                if not may_pass(error):
                    raise
                if not told:
                    logger.error("the job store cannot be written: %s; trying on", error.sqlite_errorname)
                told = True
                await asyncio.sleep(1.0)
        for job_id in line.jobs:
            self.news.finished(job_id)
        line.jobs.clear()

    async def _run_once(self, line: Line) -> None:
        line.starts += 1
        line.error = None
        environment = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scanseg.server.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        line.process = process
        try:
            if process.stdin is not None and process.stdout is not None:
                process.stdin.write(json.dumps(self.settings.worker_orders(line.model)).encode() + b"\n")
                while text := await process.stdout.readline():
                    self._hear(line, text)
        except (ConnectionError, ValueError) as error:
            logger.error("worker of %s: %s", line.model, type(error).__name__)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    def _hear(self, line: Line, text: bytes) -> None:
        try:
            news = json.loads(text)
        except ValueError:
            return
        line.heard_s = time.time()
        job_id = str(news.get("id", ""))
        kind = news.get("event")
        if kind == "ready":
            line.state, line.device, line.was_ready = "ready", str(news["device"]), True
            logger.info("model %s is ready on %s", line.model, line.device)
        elif kind == "broken":
            line.error = {key: str(news[key]) for key in ("code", "message", "hint")}
        elif kind == "started":
            line.jobs.append(job_id)
            logger.info("job %s started", job_id)
            self.news.tell(job_id)
        elif kind == "progress":
            self.news.progress[job_id] = {key: news[key] for key in ("stage", "done", "total", "eta_s")}
            self.news.tell(job_id)
        elif kind == "finished":
            with contextlib.suppress(ValueError):
                line.jobs.remove(job_id)
            logger.info("job %s %s", job_id, news.get("state"))
            self.news.finished(job_id)

    async def _watch(self) -> None:
        """Kills workers whose job takes too long, or that give no sign of life."""
        limits = self.settings.limits
        while True:
            await asyncio.sleep(min(1.0, limits.lease_s / 4))
            try:
                for job_id, model, started_s, lease_s in await self._store("running"):
                    await self._judge(job_id, model, started_s, lease_s)
            except sqlite3.Error as error:
                logger.error("the job store cannot be read: %s", type(error).__name__)

    async def _judge(self, job_id: str, model: str, started_s: float, lease_s: float) -> None:
        limits, now_s = self.settings.limits, time.time()
        line = self.lines.get(model)
        if line is None or line.process is None or job_id not in line.jobs:
            return
        if now_s - started_s > limits.job_s:
            await self._store("fail", job_id, TOO_LONG, ttl_s=limits.ttl_s)
            logger.warning("job %s took too long; its worker is killed", job_id)
            _kill(line.process)
        elif now_s - max(lease_s, line.heard_s) > limits.lease_s:
            logger.warning("the worker of job %s gives no sign of life and is killed", job_id)
            _kill(line.process)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
