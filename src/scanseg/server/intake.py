"""DICOM series from the network as predictions of the service; their segmentations go back.

    DATA/dicom/inbox/    series on their way in, see `scanseg.dicomnet.inbox`
    DATA/dicom/unsent/   an empty file, called like its job, where a segmentation is to be sent
    DATA/dicom/outbox/   segmentations that the peer has not taken yet

A series leaves the inbox only when its job is committed, and a job its mark only when its segmentation lies
in the outbox: a crash repeats a step, it leaves none out. The id of the series is the key of its job, so that
a series which is handed over twice is one job.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanseg.errors import Error, UsageError
from scanseg.files import sha256, sync_folder, written_aside
from scanseg.server.jobs import Job, Received, Slot, new_id
from scanseg.server.limits import check_disk
from scanseg.server.middleware import LOCAL
from scanseg.server.models import ServedModel
from scanseg.server.problems import Refusal
from scanseg.server.schemas import Options

if TYPE_CHECKING:
    from scanseg.dicomnet.inbox import Received as Series
    from scanseg.dicomnet.outbox import Outbox
    from scanseg.dicomnet.scp import Listener
    from scanseg.server.service import Service
    from scanseg.server.settings import DicomSettings

logger = logging.getLogger("scanseg.server")
_LOOK_EVERY_S = 2.0
_HINTS = {
    "E-DICOM-CALLERS": "Name them with --dicom-from TITLE, or listen with --dicom-host 127.0.0.1.",
    "E-DICOM-PORT": "Choose another one with --dicom-port; ports below 1024 need rights.",
    "E-DICOM-INBOX": "Another program may use it; choose another folder with --data-dir.",
}


class Intake:
    """Takes series and sends segmentations.

    Args:
        service: Gets the jobs. They belong to the first token, or to the local user where there is none.
        settings: Port, peers, model.

    Raises:
        UsageError: No model is named where several are served, or it does not read one 3D channel.
    """

    def __init__(self, service: Service, settings: DicomSettings) -> None:
        self._service, self._settings = service, settings
        self._model = _suitable(_chosen(service, settings.model))
        self._owner = next(iter(service.settings.tokens), LOCAL)
        self._folder = service.settings.dicom_folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None
        self._outbox: Outbox | None = None
        self._port = settings.port
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that is bound."""
        return self._port

    # -- life --------------------

    def open(self) -> None:
        """Starts to receive. Until `start`, series stay in the inbox.

        Raises:
            UsageError: As `serve_dicom`.
            Error: The port is taken.
        """
        from scanseg.dicomnet.scp import serve_dicom

        for name in ("unsent", "outbox"):
            (self._folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._listener = serve_dicom(
                self._settings.port,
                self._on_series,
                inbox=self._folder / "inbox",
                options=self._settings.listen,
            )
        except Error as error:
            hint = _HINTS.get(error.code, error.hint)
            raise type(error)(error.message, code=error.code, hint=hint) from None
        self._port = self._listener.port

    async def start(self) -> None:
        """Takes up what was to be sent when the last server ended, and lets series in."""
        if self._settings.send_to is not None:
            from scanseg.dicomnet.destination import sender
            from scanseg.dicomnet.outbox import Outbox

            for mark in sorted((self._folder / "unsent").iterdir()):
                if not await self._collected(mark.name):
                    self._watch(mark.name)
            listen = self._settings.listen
            tls = listen.tls if self._settings.send_tls else None
            send = sender(self._settings.send_to, ae_title=listen.ae_title, tls=tls)
            self._outbox = Outbox(self._folder / "outbox", send)
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Ends; what waits is taken up by the next start."""
        # In a thread: a series at hand is taken by the loop that runs this.
        await asyncio.to_thread(self.stop)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Frees the port and ends the threads."""
        self._loop = None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop(20.0)
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.stop(5.0)

    # -- in --------------------

    def _on_series(self, series: Series) -> None:
        """Takes a series, in the thread of the listener."""
        from scanseg.dicomnet.scp import NotNow

        loop = self._loop
        if loop is None:
            raise NotNow
        try:
            job = asyncio.run_coroutine_threadsafe(self.take(series), loop).result()
        except (Refusal, OSError, sqlite3.Error, CancelledError) as error:
            # The sender has been told that we have it, so it stays until there is room.
            if series.case_id not in self._told:
                why = error.code if isinstance(error, Refusal) else type(error).__name__
                logger.warning("series %s waits in the inbox (%s)", series.case_id, why)
                self._told.add(series.case_id)
            raise NotNow from None
        self._told.discard(series.case_id)
        logger.info("series %s is job %s", series.case_id, job.id)

    async def take(self, series: Series) -> Job:
        """Returns the job of a series; bytes and row survive a crash when this returns.

        Raises:
            Refusal: There is no room now.
            OSError: The disk failed.
        """
        service = self._service
        # A header of HTTP holds no line break: no request can use this key.
        key = f"dicom\n{series.case_id}"
        found: Job | None = await service.store("by_key", self._owner, key)
        if found is not None:
            return found
        size = sum(path.stat().st_size for path in series.folder.iterdir())
        await service.check_room(self._owner, size)
        check_disk(service.settings.data, service.settings.limits, size)
        job_id, slot = new_id("prediction"), Slot("0", series.case_id, ".zip")
        folder = service.settings.folder(job_id)
        try:
            packed: Received = await self._on_disk(_pack, series.folder, folder / "inputs" / slot.file)
            if self._settings.send_to is not None:
                await self._on_disk(_make_mark, self._mark(job_id))
            job = await service.create(
                kind="prediction", model=self._model, owner=self._owner, options=Options().model_dump(),
                slots=[slot], key=key, request="dicom", job_id=job_id, received={"0": packed},
            )  # fmt: skip
        except BaseException:
            if await service.store("get", job_id) is None:
                shutil.rmtree(folder, ignore_errors=True)
                self._mark(job_id).unlink(missing_ok=True)
            raise
        if self._settings.send_to is not None:
            self._watch(job_id)
        return job

    # -- out --------------------

    def _mark(self, job_id: str) -> Path:
        return self._folder / "unsent" / job_id

    def _watch(self, job_id: str) -> None:
        task = asyncio.create_task(self._collect_later(job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _collect_later(self, job_id: str) -> None:
        while True:
            await self._service.news.wait(job_id, _LOOK_EVERY_S)
            if await self._collected(job_id):
                return

    async def _collected(self, job_id: str) -> bool:
        try:
            return await self._collect(job_id)
        except (OSError, sqlite3.Error) as error:
            logger.error("job %s cannot be sent yet (%s)", job_id, type(error).__name__)
            return False

    async def _collect(self, job_id: str) -> bool:
        """Puts the segmentation of a finished job into the outbox; False while it is not finished."""
        job: Job | None = await self._service.store("get", job_id)
        if job is not None and not job.is_final:
            return False
        if job is not None and job.state == "done":
            source = self._service.settings.folder(job_id) / "result" / "segmentation.dcm"
            target = self._service.settings.outgoing(job_id)
            try:
                await self._on_disk(_copy, source, target)
            except FileNotFoundError:
                logger.warning("job %s left no segmentation to send", job_id)
            if await self._service.store("get", job_id) is None:  # deleted meanwhile, with every trace
                target.unlink(missing_ok=True)
        elif job is not None:
            logger.warning("job %s %s: nothing is sent", job_id, job.state)
        self._mark(job_id).unlink(missing_ok=True)
        return True

    async def _on_disk(self, work: Callable[..., Any], *paths: Path) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._service.disk, work, *paths)


def _chosen(service: Service, name: str) -> ServedModel:
    try:
        return service.model(name or None)
    except Refusal as error:
        hint = f"Name it with --dicom-model. {error.hint}"
        raise UsageError(error.message, code=error.code, hint=hint) from None


def _suitable(model: ServedModel) -> ServedModel:
    if model.spatial_dims == 3 and len(model.channels) == 1:
        return model
    raise UsageError(
        f"The model {model.id} reads {len(model.channels)} channels in {model.spatial_dims}D; a DICOM series "
        "is one channel in 3D.",
        code="E-SERVE-DICOM",
        hint="Choose another one with --dicom-model.",
    )


def _pack(folder: Path, archive: Path) -> Received:
    """Writes the files of a folder to a zip archive as they are."""
    with (
        written_aside(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as opened,
    ):
        for path in sorted(folder.iterdir()):
            opened.write(path, path.name)
    for made in (archive.parents[1], archive.parents[2]):
        sync_folder(made)
    return Received(archive.stat().st_size, sha256(archive))


def _make_mark(path: Path) -> None:
    path.touch(mode=0o600)
    sync_folder(path.parent)


def _copy(source: Path, target: Path) -> None:
    with written_aside(target) as temporary:
        shutil.copyfile(source, temporary)
