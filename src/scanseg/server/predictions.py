"""Routes that make, watch and end jobs: predictions and evaluations."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from scanseg.server.jobs import Job, Received, Slot, new_id
from scanseg.server.models import ServedModel
from scanseg.server.problems import Refusal
from scanseg.server.samples import samples_for
from scanseg.server.schemas import (
    EVENTS,
    JobAnswer,
    JobList,
    NewEvaluation,
    NewPrediction,
    NewReview,
    Options,
    Review,
)
from scanseg.server.service import Service, check_repetition, disk_errors, result_folder
from scanseg.server.showing import stamp
from scanseg.server.uploads import ending_of, read_name, safe_name, store_body

Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the end of the job.")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
Name = Annotated[
    str | None,
    Header(alias="X-Scanseg-Name", max_length=3000, description="File name, percent-encoded UTF-8."),
]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def job_routes(service: Service) -> APIRouter:
    """Returns the routes under /api/v1 for predictions and evaluations."""
    routes = APIRouter(prefix="/api/v1")
    _add_creation(routes, service)
    _add_evaluation(routes, service)
    _add_one_call(routes, service)
    for kind in ("prediction", "evaluation"):
        _add_job(routes, service, kind)
    _add_reviews(routes, service)
    return routes


def owner(request: Request) -> str:
    """Returns who asks, as the middleware found out."""
    found: str = request.state.owner
    return found


def _add_creation(routes: APIRouter, service: Service) -> None:
    @routes.post("/predictions", status_code=201, response_model=JobAnswer, tags=["predictions"])
    async def create_prediction(
        order: NewPrediction, request: Request, response: Response, key: Key = None
    ) -> dict[str, Any]:
        """Orders a prediction; its inputs are uploaded next."""
        model = service.model(order.model)
        who = owner(request)
        fingerprint = _fingerprint(order.model_dump())
        if (found := await _repeated(service, who, key, fingerprint)) is not None:
            return await _created(service, found, response)
        await service.check_room(who)
        making = partial(
            service.create, kind="prediction", model=model, owner=who, options=order.options.model_dump(),
            key=key, request=fingerprint,
        )  # fmt: skip
        if order.sample is not None:
            job = await _from_sample(service, model, order, making)
        else:
            job = await making(slots=_slots(order, model))
        return await _created(service, job, response)


def _add_evaluation(routes: APIRouter, service: Service) -> None:
    @routes.post("/evaluations", status_code=201, response_model=JobAnswer, tags=["evaluations"])
    async def create_evaluation(
        order: NewEvaluation, request: Request, response: Response, key: Key = None
    ) -> dict[str, Any]:
        """Orders the comparison of a mask with a reference; the files are uploaded next."""
        who = owner(request)
        fingerprint = _fingerprint(order.model_dump())
        if (found := await _repeated(service, who, key, fingerprint)) is not None:
            return await _created(service, found, response)
        await service.check_room(who)
        slots = [_slot("reference", order.reference.name)]
        options: dict[str, Any] = {}
        if order.prediction is not None:
            source = await service.job(order.prediction, who, "prediction")
            result_folder(service, source)
            model, options = service.model(source.model), {"prediction": source.id}
        else:
            model = service.model(order.model)
            slots.append(_slot("mask", order.mask.name))
        job = await service.create(
            kind="evaluation", model=model, owner=who, options=options, slots=slots, key=key,
            request=fingerprint,
        )  # fmt: skip
        return await _created(service, job, response)


def _add_one_call(routes: APIRouter, service: Service) -> None:
    @routes.put(
        "/predictions", status_code=202, response_model=JobAnswer, tags=["predictions"], openapi_extra=_BODY
    )
    async def predict_in_one_call(
        request: Request,
        response: Response,
        model: Annotated[str | None, Query(max_length=100)] = None,
        format: Annotated[str | None, Query(max_length=10)] = None,
        tta: bool = False,
        step_size: Annotated[float, Query(ge=0.1, le=1.0)] = 0.5,
        probabilities: bool = False,
        uncertainty: bool = True,
        nan_fill: Annotated[float | None, Query(ge=-1e30, le=1e30)] = None,
        spacing: Annotated[str | None, Query(max_length=100, description="z,y,x in mm")] = None,
        wait: Wait = 0,
        name: Name = None,
        key: Key = None,
    ) -> dict[str, Any]:
        """Uploads one file, or a zip archive of all channels, and queues it."""
        chosen, who = service.model(model), owner(request)
        options = checked_options(
            tta=tta, step_size=step_size, probabilities=probabilities, uncertainty=uncertainty,
            nan_fill=nan_fill, spacing=parse_spacing(spacing),
        )  # fmt: skip
        text, ending = read_name(name, format)
        fingerprint = _fingerprint({"model": chosen.id, "options": options, "ending": ending})
        found = await _repeated(service, who, key, fingerprint)
        if found is None:
            _check_count(chosen, 1, ending)
            await service.check_room(who, int(request.headers.get("content-length", "0")))
            found = await _received_whole(
                service, chosen, who, options, Slot("0", text, ending), request.stream(), key, fingerprint
            )
        response.headers["Location"] = f"/api/v1/predictions/{found.id}"
        return await service.show(await service.settled(found, wait))


async def _received_whole(
    service: Service,
    model: ServedModel,
    who: str,
    options: dict[str, Any],
    slot: Slot,
    chunks: AsyncIterator[bytes],
    key: str | None,
    fingerprint: str,
) -> Job:
    """Stores a body first and makes its row then: an interrupted upload leaves nothing."""
    job_id = new_id("prediction")
    folder = service.settings.folder(job_id)
    (folder / "inputs").mkdir(parents=True, mode=0o700)
    try:
        with disk_errors():
            received = await store_body(chunks, folder / "inputs" / slot.file, service.disk)
        return await service.create(
            kind="prediction", model=model, owner=who, options=options, slots=[slot], key=key,
            request=fingerprint, job_id=job_id, received={"0": received},
        )  # fmt: skip
    except BaseException:
        if await service.store("get", job_id) is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _add_job(routes: APIRouter, service: Service, kind: str) -> None:
    base = f"/{kind}s/{{job_id}}"
    tags: list[Any] = [f"{kind}s"]

    @routes.put(
        f"{base}/inputs/{{slot}}", status_code=202, response_model=JobAnswer, tags=tags, openapi_extra=_BODY,
        name=f"upload_{kind}_input",
    )  # fmt: skip
    async def upload_input(job_id: str, slot: str, request: Request, wait: Wait = 0) -> dict[str, Any]:
        """Uploads one input; the last one queues the job."""
        who = owner(request)
        job = await service.job(job_id, who, kind)
        await service.check_room_bytes(who, int(request.headers.get("content-length", "0")))
        job = await service.receive(job, slot, request.stream())
        return await service.show(await service.settled(job, wait))

    @routes.get(base, response_model=JobAnswer, tags=tags, name=f"get_{kind}")
    async def get_job(job_id: str, request: Request, wait: Wait = 0) -> dict[str, Any]:
        """Tells the state."""
        job = await service.job(job_id, owner(request), kind)
        return await service.show(await service.settled(job, wait))

    _add_watch(routes, service, kind)
    _add_end(routes, service, kind)
    if kind == "prediction":
        _add_list(routes, service)


def _add_watch(routes: APIRouter, service: Service, kind: str) -> None:
    @routes.get(
        f"/{kind}s/{{job_id}}/events", tags=[f"{kind}s"], name=f"watch_{kind}",
        response_class=StreamingResponse,
        responses=EVENTS,
    )  # fmt: skip
    async def watch(job_id: str, request: Request) -> StreamingResponse:
        """Sends the state at every change, as server-sent events."""
        who = owner(request)
        await service.job(job_id, who, kind)
        service.check_streams(who)
        return StreamingResponse(
            _events(service, job_id, who), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )


def _add_end(routes: APIRouter, service: Service, kind: str) -> None:
    base = f"/{kind}s/{{job_id}}"
    tags: list[Any] = [f"{kind}s"]

    @routes.post(f"{base}/cancel", response_model=JobAnswer, tags=tags, name=f"cancel_{kind}")
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        """Stops a job that is not finished."""
        who = owner(request)
        await service.job(job_id, who, kind)
        if not await service.store("cancel", job_id, ttl_s=service.settings.limits.ttl_s):
            raise Refusal(409, "The job is finished already.", code="E-SERVE-STATE")
        service.news.finished(job_id)
        return await service.show(await service.job(job_id, who))

    @routes.delete(base, status_code=204, tags=tags, name=f"delete_{kind}")
    async def delete(job_id: str, request: Request) -> None:
        """Stops a job and erases every trace of it."""
        job = await service.job(job_id, owner(request), kind)
        await service.erase(job.id)
        if job.review is not None:
            await service.write_reviews()


def _add_list(routes: APIRouter, service: Service) -> None:
    @routes.get("/predictions", response_model=JobList, tags=["predictions"])
    async def list_predictions(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, le=1 << 60)] = None,
    ) -> dict[str, Any]:
        """Lists own predictions, newest first."""
        jobs = await service.store("page", owner(request), kind="prediction", limit=limit + 1, before=before)
        shown = [await service.show(job) for job in jobs[:limit]]
        return {"predictions": shown, "next": jobs[limit - 1].seq if len(jobs) > limit else None}


def _add_reviews(routes: APIRouter, service: Service) -> None:
    @routes.put("/predictions/{job_id}/review", response_model=Review, tags=["reviews"])
    async def review(job_id: str, verdict: NewReview, request: Request) -> dict[str, Any]:
        """Stores what a reader thinks of a mask."""
        job = await service.job(job_id, owner(request), "prediction")
        result_folder(service, job)
        comment = "".join(c if c.isprintable() or c == "\n" else " " for c in verdict.comment)
        found = {"verdict": verdict.verdict, "comment": comment, "at": stamp(time.time())}
        await service.store("review", job_id, found)
        await service.write_reviews()
        service.news.tell(job_id)
        return found


async def _events(service: Service, job_id: str, who: str) -> AsyncIterator[str]:
    service.streams[who] += 1
    last, told_s = "", 0.0
    try:
        while True:
            job: Job | None = await service.store("get", job_id, who)
            if job is None:
                yield "event: gone\ndata: {}\n\n"
                return
            text = json.dumps(await service.show(job))
            if text != last or time.monotonic() - told_s > 10:
                yield f"event: state\ndata: {text}\n\n"
                last, told_s = text, time.monotonic()
            if job.is_final:
                return
            await service.news.wait(job_id, 2.0)
            # News can come many times a second; a page needs fewer.
            await asyncio.sleep(0.1)
    finally:
        service.streams[who] -= 1


# -- orders --------------------


def _fingerprint(order: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()


async def _repeated(service: Service, who: str, key: str | None, fingerprint: str) -> Job | None:
    found: Job | None = None if key is None else await service.store("by_key", who, key)
    if found is not None:
        check_repetition(found, fingerprint)
    return found


async def _created(service: Service, job: Job, response: Response) -> dict[str, Any]:
    response.headers["Location"] = f"/api/v1/{job.kind}s/{job.id}"
    return await service.show(job)


def _slot(slot: str, name: str) -> Slot:
    text = safe_name(name)
    return Slot(slot, text, ending_of(text))


def _slots(order: NewPrediction, model: ServedModel) -> list[Slot]:
    slots = [_slot(str(index), one.name) for index, one in enumerate(order.inputs)]
    _check_count(model, len(slots), slots[0].suffix if slots else "")
    return slots


def _check_count(model: ServedModel, count: int, ending: str) -> None:
    """Raises if there are not as many files as channels; one file may hold all of them."""
    if count == 0 or (count != len(model.channels) and count != 1):
        raise Refusal(
            422,
            f"The model reads {len(model.channels)} channels ({', '.join(model.channels)}), got {count}.",
            code="E-SERVE-CHANNELS",
            hint="Give one entry of inputs per channel in that order, or one zip archive.",
        )


async def _from_sample(service: Service, model: ServedModel, order: NewPrediction, making: Any) -> Job:
    sample = next((one for one in samples_for(model) if one.id == order.sample), None)
    if sample is None or order.inputs:
        raise Refusal(
            422,
            "There is no such sample for this model, or inputs were given too.",
            code="E-SERVE-SAMPLE",
            hint="List samples with GET /api/v1/models/MODEL/samples.",
        )
    slot = Slot("0", sample.path.name, ending_of(sample.path.name))
    job_id = new_id("prediction")
    folder = service.settings.folder(job_id) / "inputs"
    folder.mkdir(parents=True, mode=0o700)
    with disk_errors():
        received: Received = await store_body(_chunks(sample.path), folder / slot.file, service.disk)
    job: Job = await making(slots=[slot], job_id=job_id, received={"0": received})
    return job


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """Samples are smaller than a megabyte, so reading them blocks nobody."""
    yield path.read_bytes()


def checked_options(**values: Any) -> dict[str, Any]:
    """Returns the options of a prediction from single values; a 422 refusal if one is out of range."""
    try:
        return Options(**values).model_dump()
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise Refusal(
            422,
            f"{where}: {error.errors()[0]['msg']}.",
            code="E-SERVE-INVALID",
            hint="See the description of the options.",
        ) from None


def parse_spacing(text: str | None) -> list[float] | None:
    """Returns voxel sizes from `z,y,x`; a 422 refusal if these are no numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise Refusal(
            422,
            "spacing must be two or three numbers joined by commas.",
            code="E-SPACING-FORM",
            hint="3,0.8,0.8",
        ) from None
