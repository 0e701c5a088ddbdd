"""Routes that hand out what a prediction made."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from scanseg.errors import DataError, Error
from scanseg.server import tools
from scanseg.server.jobs import Job
from scanseg.server.predictions import owner
from scanseg.server.printing import Printer
from scanseg.server.problems import Refusal
from scanseg.server.schemas import Snippets
from scanseg.server.service import Service, result_folder, reviews_csv
from scanseg.server.snippets import snippets

TYPES = {
    ".nii.gz": "application/gzip", ".nii": "application/octet-stream", ".nrrd": "application/octet-stream",
    ".mha": "application/octet-stream", ".png": "image/png", ".tif": "image/tiff", ".tiff": "image/tiff",
    ".dcm": "application/dicom", ".pdf": "application/pdf",
    ".html": "text/html; charset=utf-8", ".zip": "application/zip", ".json": "application/json",
}  # fmt: skip
MASK_FORMATS = ("nii.gz", "nii", "nrrd", "mha", "png", "tif")
Format = Annotated[str | None, Query(max_length=10, description=", ".join(MASK_FORMATS))]
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
_PDF: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}
}
_HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}


def file_routes(service: Service) -> APIRouter:
    """Returns the routes for results and files."""
    routes = APIRouter(prefix="/api/v1")
    _add_results(routes, service)
    _add_volumes(routes, service)
    _add_files(routes, service)
    _add_reports(routes, service, Printer())
    _add_slices(routes, service)
    _add_meshes(routes, service)
    return routes


def _add_results(routes: APIRouter, service: Service) -> None:
    for kind in ("prediction", "evaluation"):

        def make(kind: str) -> Callable[..., Any]:
            async def result(job_id: str, request: Request) -> dict[str, Any]:
                """Gives the findings."""
                job = await service.job(job_id, owner(request), kind)
                return await _document(service, job)

            return result

        routes.get(f"/{kind}s/{{job_id}}/result", tags=[f"{kind}s"], name=f"get_{kind}_result")(make(kind))

    @routes.get("/predictions/{job_id}/snippets", response_model=Snippets, tags=["predictions"])
    async def job_snippets(job_id: str, request: Request) -> dict[str, str]:
        """Tells how to repeat this prediction elsewhere."""
        job = await service.job(job_id, owner(request), "prediction")
        return snippets(
            service.model(job.model),
            job.options,
            base=base_url(request),
            suffix=job.slots[0].suffix,
            token=bool(service.settings.tokens),
        )

    @routes.get("/reviews.csv", tags=["reviews"], response_class=Response, responses={
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
    })  # fmt: skip
    async def own_reviews(request: Request) -> Response:
        """Gives own reviews as a table."""
        text = reviews_csv(await service.store("reviews", owner(request)))
        head = {"Content-Disposition": 'attachment; filename="reviews.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=head)


def base_url(request: Request) -> str:
    """Returns the server's address as the client sees it, also behind a proxy that does TLS."""
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else request.url.scheme
    return f"{scheme}://{request.headers['host']}"


async def _document(service: Service, job: Job) -> dict[str, Any]:
    path = result_folder(service, job) / "result.json"
    text = await asyncio.get_running_loop().run_in_executor(service.disk, partial(_text, path))
    found: dict[str, Any] = json.loads(text)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            "The result is no longer there.", code="E-SERVE-FILE", hint="Predict the image again."
        ) from error


def _add_volumes(routes: APIRouter, service: Service) -> None:
    base = "/predictions/{job_id}"

    @routes.get(f"{base}/mask", tags=["files"], response_class=FileResponse, responses=_BINARY)
    async def mask(job_id: str, request: Request, format: Format = None) -> FileResponse:
        """Gives the mask, in the format of the input or another."""
        job = await service.job(job_id, owner(request), "prediction")
        folder = result_folder(service, job)
        own = next(iter(sorted(folder.glob("mask.*"))), None)
        if own is not None and (format is None or own.name == f"mask.{format.lstrip('.')}"):
            return _file(own, f"{job.id}_{own.name}")
        return await _converted(service, job, "mask", format or "nii.gz", tools.make_mask)

    @routes.get(f"{base}/image", tags=["files"], response_class=FileResponse, responses=_BINARY)
    async def image(job_id: str, request: Request, format: Format = None) -> FileResponse:
        """Gives the image as it was read, all channels as one file."""
        job = await service.job(job_id, owner(request), "prediction")
        result_folder(service, job)
        return await _converted(service, job, "image", format or "nii.gz", tools.make_image)


def _add_files(routes: APIRouter, service: Service) -> None:
    base = "/predictions/{job_id}"

    @routes.get(f"{base}/dicom-seg", tags=["files"], response_class=FileResponse, responses=_BINARY)
    async def segmentation(job_id: str, request: Request) -> FileResponse:
        """Gives the mask as a DICOM segmentation; only where the input was a DICOM series."""
        job = await service.job(job_id, owner(request), "prediction")
        return _found(result_folder(service, job), "segmentation.dcm", job)

    @routes.get(f"{base}/uncertainty", tags=["files"], response_class=FileResponse, responses=_BINARY)
    async def uncertainty(job_id: str, request: Request) -> FileResponse:
        """Gives the entropy of every voxel."""
        job = await service.job(job_id, owner(request), "prediction")
        return _found(result_folder(service, job), "uncertainty.*", job)

    @routes.get(
        f"{base}/probabilities/{{value}}", tags=["files"], response_class=FileResponse, responses=_BINARY
    )
    async def probabilities(job_id: str, value: int, request: Request) -> FileResponse:
        """Gives the probability of a label in every voxel."""
        job = await service.job(job_id, owner(request), "prediction")
        return _found(result_folder(service, job), f"probabilities/{value}.*", job)

    @routes.get(f"{base}/preview.png", tags=["files"], response_class=FileResponse, responses=_PNG)
    async def preview(job_id: str, request: Request) -> FileResponse:
        """Gives a picture of the mask."""
        job = await service.job(job_id, owner(request), "prediction")
        return _found(result_folder(service, job), "preview.png", job)


def _add_reports(routes: APIRouter, service: Service, printer: Printer) -> None:
    base = "/predictions/{job_id}"

    @routes.get(f"{base}/report.html", tags=["files"], response_class=FileResponse, responses=_HTML)
    async def report(job_id: str, request: Request) -> FileResponse:
        """Gives the report, one file that needs nothing else."""
        job = await service.job(job_id, owner(request), "prediction")
        return _found(result_folder(service, job), "report.html", job)

    @routes.get(f"{base}/report.pdf", tags=["files"], response_class=FileResponse, responses=_PDF)
    async def report_pdf(job_id: str, request: Request) -> FileResponse:
        """Gives the report for paper; 404 where the server has no WeasyPrint."""
        job = await service.job(job_id, owner(request), "prediction")
        return _file(await _printed(printer, result_folder(service, job)), f"{job.id}_report.pdf")

    @routes.get(f"{base}/all.zip", tags=["files"], response_class=FileResponse, responses=_BINARY)
    async def archive(job_id: str, request: Request) -> FileResponse:
        """Gives all files in one archive."""
        job = await service.job(job_id, owner(request), "prediction")
        folder = result_folder(service, job)
        path = _cache(folder) / "all.zip"
        if not path.is_file():
            more = []
            with contextlib.suppress(Refusal):  # the rest is worth having without it
                more.append(str(await _printed(printer, folder)))
            await service.tools.run(tools.make_zip, str(folder), str(path), more)
        return _file(path, f"{job.id}.zip")


def _add_slices(routes: APIRouter, service: Service) -> None:
    base = "/predictions/{job_id}"

    @routes.get(
        f"{base}/slice/{{axis}}/{{index}}.png", tags=["files"], response_class=Response, responses=_PNG
    )
    async def slice_picture(
        job_id: str,
        axis: str,
        index: int,
        request: Request,
        window: Annotated[str | None, Query(max_length=60, description="Name, or LOW,HIGH")] = None,
        channel: Annotated[int, Query(ge=0, le=1000)] = 0,
        overlay: Annotated[float, Query(ge=0, le=1)] = 0.4,
        labels: Annotated[str | None, Query(max_length=1000, description="Values joined by commas")] = None,
        uncertainty: bool = False,
    ) -> Response:
        """Draws a slice, for browsers that cannot."""
        job = await service.job(job_id, owner(request), "prediction")
        folder = result_folder(service, job)
        known = (await _document(service, job))["view"]["windows"]
        options = {
            "window": _window(window or "auto", known),
            "channel": channel,
            "overlay": overlay,
            "labels": _values(labels),
            "colours": service.model(job.model).colours,
            "uncertainty": uncertainty,
        }
        picture = await _made(service.tools.run(tools.make_slice, str(folder / "view"), axis, index, options))
        return Response(picture, media_type="image/png")


def _add_meshes(routes: APIRouter, service: Service) -> None:
    base = "/predictions/{job_id}"

    @routes.get(f"{base}/mesh/{{value}}", tags=["files"], response_class=Response, responses=_BINARY)
    async def mesh(
        job_id: str,
        value: int,
        request: Request,
        format: Annotated[str, Query(pattern="^(stl|glb)$")] = "stl",
    ) -> Response:
        """Gives the surface of a label in mm."""
        job = await service.job(job_id, owner(request), "prediction")
        folder = result_folder(service, job)
        colours = service.model(job.model).colours
        if value not in colours:
            raise _no_file()
        body = await _made(
            service.tools.run(tools.make_surface, str(folder / "view"), value, format, colours[value])
        )
        kinds = {"stl": "model/stl", "glb": "model/gltf-binary"}
        head = {"Content-Disposition": f'attachment; filename="{job.id}_{value}.{format}"'}
        return Response(body, media_type=kinds[format], headers=head)


async def _printed(printer: Printer, folder: Path) -> Path:
    """Returns the PDF of a result's report, made once."""
    return await printer.pdf(folder / "report.html", _cache(folder) / "report.pdf")


async def _made(work: Any) -> Any:
    """Awaits a tool; what it refuses about slices and surfaces is something that is not there."""
    try:
        return await work
    except Refusal:
        raise
    except Error as error:
        raise Refusal(404, error.message, code=error.code, hint=error.hint) from None


def _window(text: str, known: dict[str, list[float]]) -> tuple[float, float]:
    if text in known:
        return known[text][0], known[text][1]
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not (-1e30 < low < high < 1e30):
        raise Refusal(
            422,
            "There is no such window.",
            code="E-SERVE-WINDOW",
            hint=f"Use LOW,HIGH or one of: {', '.join(known)}.",
        )
    return low, high


def _values(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise Refusal(
            422, "labels must be whole numbers joined by commas.", code="E-SERVE-INVALID", hint="1,2"
        ) from None


async def _converted(
    service: Service, job: Job, what: str, format: str, work: Callable[[str, str], None]
) -> FileResponse:
    wanted = format.lower().lstrip(".")
    if wanted not in MASK_FORMATS or (what == "image" and wanted == "png"):
        raise Refusal(
            422,
            f"The {what} is not given in this format.",
            code="E-PREDICT-FORMAT",
            hint=f"Use one of: {', '.join(MASK_FORMATS if what == 'mask' else (*MASK_FORMATS[:4], 'tif'))}.",
        )
    folder = result_folder(service, job)
    path = _cache(folder) / f"{what}.{wanted}"
    if not path.is_file():
        try:
            await service.tools.run(work, str(folder / "view"), str(path))
        except Refusal:
            raise
        except Error as error:
            raise Refusal(
                422, f"The {what} does not fit into this format.", code=error.code, hint="Use nii.gz."
            ) from None
    return _file(path, f"{job.id}_{path.name}")


def _cache(folder: Path) -> Path:
    cache = folder.parent / "made"
    cache.mkdir(exist_ok=True, mode=0o700)
    return cache


def _found(folder: Path, pattern: str, job: Job) -> FileResponse:
    path = next(iter(sorted(folder.glob(pattern))), None)
    if path is None:
        raise _no_file()
    return _file(path, f"{job.id}_{path.name}")


def _file(path: Path, name: str) -> FileResponse:
    ending = next((ending for ending in TYPES if path.name.endswith(ending)), "")
    return FileResponse(path, filename=name, media_type=TYPES.get(ending, "application/octet-stream"))


def _no_file() -> Refusal:
    return Refusal(
        404,
        "This prediction has no such file.",
        code="E-SERVE-FILE",
        hint="Ask for it in the options when you create the prediction; see files in the result.",
    )
