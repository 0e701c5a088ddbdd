"""What all routes share: the store and its thread, the workers, the tools, and the way a job is shown."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import io
import logging
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scanseg.files import write_text
from scanseg.server.intake import Intake
from scanseg.server.jobs import FINAL, Job, Received, Slot, Store, new_id
from scanseg.server.models import ServedModel, describe_model
from scanseg.server.next_steps import tables_for
from scanseg.server.problems import Refusal, not_found
from scanseg.server.settings import Settings
from scanseg.server.showing import job_document
from scanseg.server.supervise import Line, News, Supervisor
from scanseg.server.tools import Tools
from scanseg.server.uploads import store_body

logger = logging.getLogger("scanseg.server")
_SWEEP_S = 20.0


class Service:
    """Everything behind the routes.

    Args:
        settings: Validated.

    Raises:
        ModelError: A run folder cannot be described.
        DataError: The job store is damaged, or the rule table of a model cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models: dict[str, ServedModel] = {
            name: describe_model(name, run) for name, run in settings.runs.items()
        }
        for model in self.models.values():
            tables_for([label.name for label in model.labels], model.run)  # a faulty table is named now
        self.jobs = Store(settings.data / "jobs.sqlite3")
        self.jobs.check()
        self._sweep_orphans()
        self.tools = Tools()
        self.news = News()
        self.broken: Line | None = None
        self.intake: Intake | None = None if settings.dicom is None else Intake(self, settings.dicom)
        self.stop: Callable[[], None] = _nothing
        self._database = ThreadPoolExecutor(1, "store")
        self.disk = ThreadPoolExecutor(8, "disk")
        self.supervisor = Supervisor(settings, self.news, self.store, self._on_broken)
        self.streams: Counter[str] = Counter()
        self._uploading: set[tuple[str, str]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    # -- life --------------------

    async def start(self) -> None:
        """Starts the workers, the sweeper and what takes series from the network."""
        if self.intake is not None:
            await self.intake.start()  # before the sweeper: it collects what is to be sent
        self.supervisor.start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Ends everything; running jobs are queued again."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self.intake is not None:
            await self.intake.close()
        await self.supervisor.close()
        self.tools.close()
        self._database.shutdown()
        self.disk.shutdown()
        self.jobs.close()

    def _on_broken(self, line: Line) -> None:
        self.broken = line
        self.stop()

    def _sweep_orphans(self) -> None:
        """Removes what a killed server left: folders without a row, and half uploads."""
        known = self.jobs.ids()
        for folder in self.settings.jobs.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for job_id in self.jobs.waiting():
            for part in (self.settings.folder(job_id) / "inputs").glob(".*.part"):
                part.unlink(missing_ok=True)

    async def _sweep(self) -> None:
        while True:
            limits = self.settings.limits
            try:
                for job_id in await self.store("expired", time.time(), limits.waiting_s):
                    await self.erase(job_id, keep_review=True)
                    logger.info("job %s erased, its time is over", job_id)
            except sqlite3.Error as error:
                logger.error("the job store cannot be used: %s", type(error).__name__)
            await asyncio.sleep(_SWEEP_S)

    # -- the store --------------------

    async def store(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls a method of the job store in its thread."""
        call = functools.partial(getattr(self.jobs, method), *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._database, call)

    async def job(self, job_id: str, owner: str, kind: str | None = None) -> Job:
        """Returns a job of an owner.

        Raises:
            Refusal: 404, for unknown ids and for those of others alike.
        """
        found: Job | None = await self.store("get", job_id, owner)
        if found is None or (kind is not None and found.kind != kind):
            raise not_found()
        return found

    def model(self, name: str | None) -> ServedModel:
        """Returns a model; without a name the only one.

        Raises:
            Refusal: 404 for an unknown name, 422 if several are served and none is named.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise Refusal(
                422,
                "Several models are served; say which one.",
                code="E-SERVE-MODEL",
                hint=f"One of: {', '.join(self.models)}.",
            )
        if name not in self.models:
            raise Refusal(
                404,
                "This model is not served.",
                code="E-SERVE-MODEL",
                hint=f"One of: {', '.join(self.models)}.",
            )
        return self.models[name]

    async def check_room(self, owner: str, coming_bytes: int = 0) -> None:
        """Raises a 429 refusal if an owner has too many open jobs or bytes."""
        limits = self.settings.limits
        if await self.store("open_jobs", owner) >= limits.queued:
            raise Refusal(
                429,
                f"You have {limits.queued} jobs that are not finished.",
                code="E-SERVE-QUEUE",
                hint="Wait for some of them, or cancel some.",
                headers={"Retry-After": "30"},
            )
        await self.check_room_bytes(owner, coming_bytes)

    def check_streams(self, owner: str) -> None:
        """Raises a 429 refusal if an owner has too many open event streams."""
        if self.streams[owner] >= self.settings.limits.streams:
            raise Refusal(
                429,
                f"You have {self.streams[owner]} open event streams.",
                code="E-SERVE-STREAMS",
                hint="Close some.",
                headers={"Retry-After": "10"},
            )

    async def check_room_bytes(self, owner: str, coming_bytes: int) -> None:
        """Raises a 429 refusal if an owner would have too many bytes on the disk."""
        if await self.store("stored_bytes", owner) + coming_bytes > self.settings.limits.stored_bytes:
            raise Refusal(
                429,
                "Your stored images have reached the limit of this server.",
                code="E-SERVE-STORED",
                hint="Delete finished predictions.",
                headers={"Retry-After": "60"},
            )

    # -- jobs --------------------

    async def create(
        self,
        *,
        kind: str,
        model: ServedModel,
        owner: str,
        options: dict[str, Any],
        slots: list[Slot],
        key: str | None = None,
        request: str | None = None,
        job_id: str | None = None,
        received: dict[str, Received] | None = None,
    ) -> Job:
        """Inserts a job; its folder is there when this returns.

        Raises:
            Refusal: 422 if the idempotency key was used for another request.
        """
        job_id = job_id or new_id(kind)
        folder = self.settings.folder(job_id)
        (folder / "inputs").mkdir(parents=True, exist_ok=True, mode=0o700)
        job: Job = await self.store(
            "create",
            job_id=job_id,
            kind=kind, model=model.id, owner=owner, name=slots[0].name if slots else "", options=options,
            slots=slots, expires_s=time.time() + self.settings.limits.ttl_s, received=received, key=key,
            request=request,
        )  # fmt: skip
        if job.id != job_id:
            shutil.rmtree(folder, ignore_errors=True)
            check_repetition(job, request)
        if job.state == "queued":
            self.supervisor.wake(job.model)
        return job

    async def receive(self, job: Job, slot: str, chunks: AsyncIterator[bytes]) -> Job:
        """Stores an input of a job.

        Raises:
            Refusal: 404 for an unknown slot, 409 if the input is there, coming, or no longer wanted.
        """
        place = next((one for one in job.slots if one.slot == slot), None)
        if place is None:
            raise Refusal(
                404,
                "This job has no such input.",
                code="E-SERVE-SLOT",
                hint=f"It has: {', '.join(one.slot for one in job.slots)}.",
            )
        if job.state != "waiting" or slot in job.inputs or (job.id, slot) in self._uploading:
            raise _taken()
        self._uploading.add((job.id, slot))
        try:
            target = self.settings.folder(job.id) / "inputs" / place.file
            with disk_errors():
                received = await store_body(chunks, target, self.disk)
            found: Job | None = await self.store("receive", job.id, slot, received)
        finally:
            self._uploading.discard((job.id, slot))
        if found is None:
            if await self.store("get", job.id) is None:
                shutil.rmtree(self.settings.folder(job.id), ignore_errors=True)
                raise not_found()
            raise _taken()
        if found.state == "queued":
            self.supervisor.wake(found.model)
        self.news.tell(job.id)
        return found

    async def erase(self, job_id: str, *, keep_review: bool = False) -> None:
        """Removes a job and all its files; one that waits to be sent outlives its time, not its deletion."""
        remove = functools.partial(shutil.rmtree, self.settings.folder(job_id), ignore_errors=True)
        try:
            await self.store("delete", job_id, keep_review=keep_review)
        except sqlite3.OperationalError:
            # On a full disk the row cannot go before its files have made room.
            await asyncio.get_running_loop().run_in_executor(self.disk, remove)
            await self.store("delete", job_id, keep_review=keep_review)
        await asyncio.get_running_loop().run_in_executor(self.disk, remove)
        if not keep_review:
            self.settings.outgoing(job_id).unlink(missing_ok=True)
        self.news.finished(job_id)

    async def settled(self, job: Job, wait_s: float) -> Job:
        """Returns a job when it is finished, at the latest after `wait_s`."""
        end_s = time.monotonic() + wait_s
        while not job.is_final and (left_s := end_s - time.monotonic()) > 0:
            await self.news.wait(job.id, min(left_s, 1.0))
            job = await self.job(job.id, job.owner)
        return job

    async def write_reviews(self) -> None:
        """Writes reviews.csv of the data folder anew."""
        text = reviews_csv(await self.store("reviews", None))
        write = functools.partial(write_text, self.settings.data / "reviews.csv", text)
        await asyncio.get_running_loop().run_in_executor(self.disk, write)

    async def show(self, job: Job) -> dict[str, Any]:
        """Returns a job as the API tells it."""
        progress, position = None, await self.store("position", job)
        eta_s = None
        found = self.news.progress.get(job.id)
        if job.state == "running" and found is not None:
            share = min(1.0, found["done"] / found["total"]) if found["total"] else 0.0
            progress = {**found, "fraction": round(share, 3)}
            eta_s = found["eta_s"]
        elif position is not None:
            each_s = await self.store("seconds_per_case", job.model)
            eta_s = None if each_s is None else round(each_s * position, 1)
        return job_document(job, progress=progress, position=position, eta_s=eta_s)


def check_repetition(job: Job, request: str | None) -> None:
    """Raises a 422 refusal if a key comes back with another request."""
    if job.request != request:
        raise Refusal(
            422,
            "This Idempotency-Key was used for another request.",
            code="E-SERVE-KEY",
            hint="Use a new key for a new request.",
        )


def reviews_csv(reviews: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Returns reviews as CSV: ids, no names. Cells that a spreadsheet would take for a formula are quoted."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["id", "model", "verdict", "comment", "at"])
    for job_id, model, review in reviews:
        comment = str(review.get("comment", ""))
        comment = f"'{comment}" if comment[:1] in ("=", "+", "-", "@", "\t", "\r") else comment
        writer.writerow([job_id, model, review.get("verdict", ""), comment, review.get("at", "")])
    return table.getvalue()


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what the disk says into refusals."""
    try:
        yield
    except FileNotFoundError:
        raise not_found() from None
    except OSError as error:
        raise Refusal(
            507,
            "The server could not store the upload.",
            code="E-SERVE-DISK",
            hint="Ask the operator for room; nothing was stored.",
        ) from error


def result_folder(service: Service, job: Job) -> Path:
    """Returns the folder of a finished job's files.

    Raises:
        Refusal: 409 if it is not done.
    """
    if job.state != "done":
        after = "failed" if job.state in FINAL else "is not finished"
        raise Refusal(
            409,
            f"There is no result: the job {after if job.state != 'cancelled' else 'was cancelled'}.",
            code="E-SERVE-STATE",
            hint="See its state with GET.",
        )
    return service.settings.folder(job.id) / "result"


def _nothing() -> None:
    """Until the server sets what stops it."""


def _taken() -> Refusal:
    return Refusal(
        409,
        "This input is already there or on its way.",
        code="E-SERVE-STATE",
        hint="Make a new prediction to send another file.",
    )
