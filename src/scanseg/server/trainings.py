"""Routes that show the trainings of watched folders, and end one where the operator allows it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from scanseg.errors import DataError, TrainingError
from scanseg.server.predictions import owner
from scanseg.server.problems import Refusal, problem_of
from scanseg.server.run_folders import check_folders, find_runs
from scanseg.server.schemas import EVENTS, TrainingAnswer, TrainingCurves, TrainingList
from scanseg.server.service import Service
from scanseg.server.watching import FINAL, WatchedRun

logger = logging.getLogger("scanseg.server")
T = TypeVar("T")
After = Annotated[int, Query(ge=0, le=1 << 53, description="Only records of later epochs.")]
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
_KEPT_CURVES = 16
_EVERY_S = 1.0
_AT_LEAST_S = 10.0


class Trainings:
    """The runs of watched folders. All work on files is done in one thread of its own.

    Args:
        folders: Runs, or folders of runs.
        may_stop: Whether trainings may be ended over HTTP.

    Raises:
        UsageError: A folder is missing, or holds something else.
    """

    def __init__(self, folders: Sequence[Path], *, may_stop: bool) -> None:
        check_folders(folders)
        self.folders, self.may_stop = tuple(folders), may_stop
        self._thread = ThreadPoolExecutor(1, "trainings")
        self._runs: dict[str, WatchedRun] = {}
        self._viewed: dict[str, None] = {}

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def everything(self) -> list[dict[str, Any]]:
        """Returns all trainings without their curves, those changed last first."""
        return await self._call(self._everything)

    async def curves(self, training_id: str, after: int) -> tuple[dict[str, Any], int]:
        """Returns a training with the records of the epochs after `after`, and the generation of these.

        Raises:
            Refusal: 404, there is no such training, or no longer.
        """
        return await self._call(lambda: self._curves(training_id, after))

    async def samples(self, training_id: str) -> bytes:
        """Returns the picture of patches after the newest epoch, as PNG.

        Raises:
            Refusal: 404, there is no such training, or it has no picture.
        """
        return await self._call(lambda: self._samples(training_id))

    async def stop(self, training_id: str) -> dict[str, Any]:
        """Asks a training to end after the step at hand, and returns it.

        Raises:
            Refusal: 403 if that is not allowed here, 404 for an unknown id, 409 if it is not running or
                cannot be reached.
        """
        if not self.may_stop:
            raise Refusal(
                403,
                "Trainings cannot be stopped through this server.",
                code="E-WATCH-STOP",
                hint="Press Ctrl-C where the training runs, or start the server with --allow-training.",
            )
        return await self._call(lambda: self._stop(training_id))

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # -- in the thread --------------------

    def _everything(self) -> list[dict[str, Any]]:
        self._scan()
        shown = []
        for run in list(self._runs.values()):
            try:
                shown.append(run.look(curves=False))
            except DataError:
                continue  # Removed or closed since the scan.
            if run.id not in self._viewed and shown[-1]["state"] in FINAL:
                run.forget_curves()
        return shown

    def _curves(self, training_id: str, after: int) -> tuple[dict[str, Any], int]:
        run = self._run(training_id)
        facts = self._look(run)
        # A run that was begun anew has fewer epochs than the asker knows.
        after = after if after <= facts["epoch"] else 0
        return {**facts, "metrics_after": after, "metrics": run.tail.after(after)}, run.tail.generation

    def _samples(self, training_id: str) -> bytes:
        run = self._run(training_id)
        with self._dropping(run):
            picture = run.samples()
        if picture is None:
            raise Refusal(
                404,
                "This training has no picture of samples.",
                code="E-WATCH-SAMPLES",
                hint="It comes with the first epoch that ends with a validation; see links of the training.",
            )
        return picture

    def _stop(self, training_id: str) -> dict[str, Any]:
        run = self._run(training_id)
        self._look(run)
        try:
            run.stop()
        except TrainingError as error:
            raise Refusal(409, error.message, code=error.code, hint=error.hint) from None
        logger.info("training %s was asked to stop", run.id)
        return self._look(run)

    def _run(self, training_id: str) -> WatchedRun:
        if training_id not in self._runs:
            self._scan()
        found = self._runs.get(training_id)
        if found is None:
            raise Refusal(
                404,
                "There is no such training in the folders that are watched.",
                code="E-WATCH-UNKNOWN",
                hint="List them with GET /api/v1/trainings.",
            )
        self._viewed.pop(found.id, None)
        self._viewed[found.id] = None
        while len(self._viewed) > _KEPT_CURVES:
            oldest = next(iter(self._viewed))
            del self._viewed[oldest]
            if oldest in self._runs:
                self._runs[oldest].forget_curves()
        return found

    def _look(self, run: WatchedRun) -> dict[str, Any]:
        with self._dropping(run):
            return run.look(curves=True)

    @contextmanager
    def _dropping(self, run: WatchedRun) -> Iterator[None]:
        """Refuses what cannot be read, and forgets the run."""
        try:
            yield
        except DataError as error:
            self._runs.pop(run.id, None)
            self._viewed.pop(run.id, None)
            status = 404 if error.code == "E-WATCH-GONE" else 503
            raise Refusal(status, error.message, code=error.code, hint=error.hint) from None

    def _scan(self) -> None:
        found = [WatchedRun(path) for path in find_runs(self.folders)]
        self._runs = {run.id: self._runs.get(run.id, run) for run in found}


def training_routes(service: Service, trainings: Trainings) -> APIRouter:
    """Returns the routes under /api/v1/trainings."""
    routes = APIRouter(prefix="/api/v1/trainings", tags=["trainings"])

    @routes.get("", response_model=TrainingList)
    async def list_trainings() -> dict[str, Any]:
        """Lists the trainings in the folders that are watched, those changed last first."""
        return {"trainings": await trainings.everything(), "stop_allowed": trainings.may_stop}

    @routes.get("/{training_id}", response_model=TrainingCurves)
    async def get_training(training_id: str, after: After = 0) -> dict[str, Any]:
        """Tells how far a training is, with its curves."""
        return (await trainings.curves(training_id, after))[0]

    @routes.get(
        "/{training_id}/events", name="watch_training", response_class=StreamingResponse,
        responses=EVENTS,
    )  # fmt: skip
    async def watch_training(training_id: str, request: Request) -> StreamingResponse:
        """Sends the state at every change with the epochs that are new, as server-sent events."""
        who = owner(request)
        await trainings.curves(training_id, 0)
        service.check_streams(who)
        return StreamingResponse(
            _events(service, trainings, training_id, who),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    @routes.get("/{training_id}/samples.png", response_class=Response, responses=_PNG)
    async def get_training_samples(training_id: str) -> Response:
        """Gives a picture of held-out patches as the network segmented them after its newest epoch."""
        return Response(await trainings.samples(training_id), media_type="image/png")

    @routes.delete("/{training_id}", status_code=202, response_model=TrainingAnswer)
    async def stop_training(training_id: str) -> dict[str, Any]:
        """Ends a training as Ctrl-C does: its step is saved, no file is erased, the command continues it."""
        return await trainings.stop(training_id)

    return routes


async def _events(service: Service, trainings: Trainings, training_id: str, who: str) -> AsyncIterator[str]:
    """Yields the state and what the client lacks: records that were taken back are sent anew."""
    service.streams[who] += 1
    last, told_s, sent, generation = "", 0.0, 0, -1
    try:
        while True:
            try:
                facts, now = await trainings.curves(training_id, sent)
                if now != generation and facts["metrics_after"] > 0:
                    facts, now = await trainings.curves(training_id, 0)
            except Refusal as refusal:
                yield f"event: gone\ndata: {json.dumps(problem_of(refusal))}\n\n"
                return
            compared = json.dumps({**facts, "eta_s": None, "expected_end": None, "metrics_after": 0})
            if compared != last or time.monotonic() - told_s > _AT_LEAST_S:
                yield f"event: state\ndata: {json.dumps(facts)}\n\n"
                last = json.dumps(
                    {**facts, "eta_s": None, "expected_end": None, "metrics_after": 0, "metrics": []}
                )
                told_s, sent, generation = time.monotonic(), facts["epoch"], now
            if facts["state"] in FINAL:
                return
            await asyncio.sleep(_EVERY_S)
    finally:
        service.streams[who] -= 1
