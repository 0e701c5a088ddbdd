"""The application: routes, errors as problems, the page, and the guard around it all."""

from __future__ import annotations

import errno
import logging
import platform
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

from scanseg.errors import Error
from scanseg.server.downloads import MASK_FORMATS, base_url, file_routes
from scanseg.server.jobs import may_pass
from scanseg.server.middleware import Guard
from scanseg.server.models import NOTICE, ServedModel
from scanseg.server.next_steps import tables_for
from scanseg.server.predictions import checked_options, job_routes, parse_spacing
from scanseg.server.problems import MEDIA_TYPE, Refusal, problem, problem_of
from scanseg.server.samples import samples_for
from scanseg.server.schemas import (
    Health,
    ModelAnswer,
    ModelList,
    Problem,
    Readiness,
    SampleList,
    Snippets,
    Version,
)
from scanseg.server.service import Service
from scanseg.server.settings import Settings
from scanseg.server.snippets import snippets
from scanseg.server.trainings import Trainings, training_routes
from scanseg.server.uploads import ENDINGS

logger = logging.getLogger("scanseg.server")

WEB = Path(__file__).parent / "web"
_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".png": "image/png",
    ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".woff2": "font/woff2",
    ".svg": "image/svg+xml", ".ico": "image/x-icon", ".json": "application/json", ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8", ".md": "text/plain; charset=utf-8", ".jpg": "image/jpeg",
    ".webp": "image/webp", ".map": "application/json",
}  # fmt: skip
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503, 507)
_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def make_app(settings: Settings) -> tuple[Guard, Service]:
    """Returns the guarded application and the service behind it.

    Raises:
        ModelError: A run folder cannot be described.
        DataError: The job store is damaged.
        UsageError: A folder that is to be watched holds no run.
    """
    trainings = Trainings(settings.watch, may_stop=settings.allow_training)
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        describe(app)  # FastAPI prepares each route when it is first needed, while everybody waits.
        await service.start()
        yield
        trainings.close()
        await service.close()

    app = FastAPI(
        title="scanseg", version=version("scanseg"), description=NOTICE, lifespan=lifespan, docs_url=None,
        redoc_url=None, openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.include_router(_system_routes(service, app))
    app.include_router(_model_routes(service))
    app.include_router(job_routes(service))
    app.include_router(file_routes(service))
    app.include_router(training_routes(service, trainings))
    app.include_router(_page_routes())
    app.add_exception_handler(Error, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(sqlite3.OperationalError, _on_disk)
    app.add_exception_handler(OSError, _on_disk)
    app.add_exception_handler(Exception, _on_fault)
    return Guard(app, settings), service


# -- errors --------------------


def _answer(document: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(document, document["status"], headers=headers, media_type=MEDIA_TYPE)


async def _on_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, Error):
        raise error
    return _answer(problem_of(error), error.headers if isinstance(error, Refusal) else None)


async def _on_fault(request: Request, error: Exception) -> Response:
    """Answers; the guard around the application writes the log."""
    text = "The server met an unexpected fault."
    return _answer(problem(500, "E-INTERNAL", text, "Tell the operator when it happened."))


async def _on_disk(request: Request, error: Exception) -> Response:
    """Of the store of jobs and of files: a full disk, for one."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full and not may_pass(error):
        raise error
    logger.error("the disk cannot be written: %s", getattr(error, "sqlite_errorname", type(error).__name__))
    text = "The server could not write to its disk."
    return _answer(problem(507, "E-SERVE-DISK", text, "Ask the operator for room; then try again."))


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Names the fields that are wrong; what they held is not repeated."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    if any(one["type"] in ("json_invalid", "bytes_invalid") for one in found):
        return _answer(problem(400, "E-SERVE-JSON", "The body is not valid JSON."))
    parts = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found[:5]]
    hint = "See the description in /openapi.json."
    return _answer(problem(422, "E-SERVE-INVALID", "; ".join(parts) + ".", hint))


async def _on_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    texts = {404: "There is nothing under this address.", 405: "This method is not possible here."}
    codes = {404: "E-SERVE-PATH", 405: "E-SERVE-METHOD", 400: "E-SERVE-JSON"}
    text = texts.get(status, "The request cannot be understood.")
    headers = dict(getattr(error, "headers", None) or {})
    return _answer(problem(status, codes.get(status, "E-SERVE-HTTP"), text), headers)


# -- health, version, description --------------------


def _system_routes(service: Service, app: FastAPI) -> APIRouter:
    routes = APIRouter(tags=["system"])
    _add_health(routes, service)

    @routes.get("/api/v1/version", response_model=Version)
    async def show_version() -> dict[str, Any]:
        """Tells what runs here, and within which limits."""
        return _version(service)

    @routes.get("/openapi.json", include_in_schema=False)
    async def description() -> JSONResponse:
        return JSONResponse(describe(app))

    if service.settings.docs:

        @routes.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            return Response(_docs_page(describe(app)), media_type="text/html; charset=utf-8")

    return routes


def _add_health(routes: APIRouter, service: Service) -> None:
    lines = service.supervisor.lines

    @routes.get("/healthz", response_model=Health)
    async def healthz() -> dict[str, str]:
        """Tells that the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> dict[str, Any]:
        """Tells whether every model is loaded."""
        ready = all(line.state == "ready" for line in lines.values())
        response.status_code = 200 if ready else 503
        states = {model: line.state for model, line in lines.items()}
        return {"status": "ready" if ready else "loading", "models": states}


def _version(service: Service) -> dict[str, Any]:
    settings = service.settings
    limits = settings.limits
    return {
        "name": "scanseg",
        "version": version("scanseg"),
        "api": "1",
        "disclaimer": NOTICE,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "devices": {model: line.device for model, line in service.supervisor.lines.items()},
        "limits": {
            "upload_bytes": limits.upload_bytes,
            "queued": limits.queued,
            "requests_per_minute": limits.requests_per_minute,
            "ttl_s": limits.ttl_s,
            "job_s": limits.job_s,
        },
        "formats": [ending.lstrip(".") for ending in ENDINGS],
        "mask_formats": list(MASK_FORMATS),
        "windows": ["auto", "full", "soft tissue", "bone", "lung", "brain"],
        "token_required": bool(settings.tokens),
        "docs": settings.docs,
        "trainings": bool(settings.watch),
    }


def describe(app: FastAPI) -> dict[str, Any]:
    """Returns the OpenAPI description, with the problem documents that any route may answer."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = found["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in found["paths"].items():
            for operation in operations.values():
                for status in _STATUSES:
                    known = operation["responses"].setdefault(str(status), {"description": "Problem"})
                    known.setdefault("content", {})
                    if status != 503 or path != "/readyz":
                        known["content"] = dict(_PROBLEM)
                if path not in ("/healthz", "/readyz"):
                    operation["security"] = [{"token": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = found
    return app.openapi_schema


def _docs_page(description: dict[str, Any]) -> str:
    """Returns the routes as plain HTML: no script, nothing from elsewhere."""
    from html import escape

    rows = []
    for path, operations in sorted(description["paths"].items()):
        for method, operation in operations.items():
            text = escape(operation.get("description") or operation.get("summary", ""))
            rows.append(
                f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td><td>{text}</td></tr>"
            )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>scanseg API</title></head><body>'
        f"<h1>scanseg API</h1><p>{escape(NOTICE)}</p><p>Full description: /openapi.json</p>"
        f"<table>{''.join(rows)}</table></body></html>"
    )


# -- models --------------------


def _model_routes(service: Service) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/models", tags=["models"])

    @routes.get("", response_model=ModelList)
    async def list_models() -> dict[str, Any]:
        """Lists the models."""
        return {"models": [await _shown(service, model) for model in service.models.values()]}

    @routes.get("/{model}", response_model=ModelAnswer)
    async def get_model(model: str) -> dict[str, Any]:
        """Tells what a model reads and finds."""
        return await _shown(service, service.model(model))

    @routes.get("/{model}/card")
    async def get_card(model: str) -> dict[str, Any]:
        """Gives the model card."""
        return await _card(service, service.model(model))

    @routes.get("/{model}/samples", response_model=SampleList)
    async def get_samples(model: str) -> dict[str, Any]:
        """Lists images that ship with the package and fit."""
        found = samples_for(service.model(model))
        return {
            "samples": [
                {"id": one.id, "name": one.path.name, "licence": one.licence, "citation": one.citation}
                for one in found
            ]
        }

    _add_snippets(routes, service)
    return routes


def _add_snippets(routes: APIRouter, service: Service) -> None:
    @routes.get("/{model}/snippets", response_model=Snippets)
    async def get_snippets(
        model: str,
        request: Request,
        tta: bool = False,
        step_size: Annotated[float, Query(ge=0.1, le=1.0)] = 0.5,
        probabilities: bool = False,
        uncertainty: bool = True,
        nan_fill: Annotated[float | None, Query(ge=-1e30, le=1e30)] = None,
        spacing: Annotated[str | None, Query(max_length=100, description="z,y,x in mm")] = None,
    ) -> dict[str, str]:
        """Tells how to predict with these options elsewhere."""
        chosen = checked_options(
            tta=tta,
            step_size=step_size,
            probabilities=probabilities,
            uncertainty=uncertainty,
            nan_fill=nan_fill,
            spacing=parse_spacing(spacing),
        )
        return snippets(
            service.model(model),
            chosen,
            base=base_url(request),
            token=bool(service.settings.tokens),
        )


async def _shown(service: Service, model: ServedModel) -> dict[str, Any]:
    line = service.supervisor.lines[model.id]
    return {
        "id": model.id,
        "version": model.version,
        "name": model.name,
        "spatial_dims": model.spatial_dims,
        "channels": list(model.channels),
        "labels": [
            {"value": label.value, "name": label.name, "colour": model.colours[label.value]}
            for label in model.labels
        ],
        "network": model.network,
        "modality": model.modality,
        "licence": model.licence,
        "citation": model.citation,
        "folds": model.folds,
        "validation": model.validation,
        "validation_cases": model.validation_cases,
        "training_range": {
            "unit": model.size_unit,
            "spacing_mm": model.spacing_range,
            "labels": {
                str(value): {"cases": len(sizes), "low": sizes[0], "high": sizes[-1]}
                for value, sizes in model.cohort.items()
            },
        },
        "state": line.state,
        "device": line.device,
        "seconds_per_case": await service.store("seconds_per_case", model.id),
    }


async def _card(service: Service, model: ServedModel) -> dict[str, Any]:
    tables = tables_for([label.name for label in model.labels], model.run)
    return {
        **await _shown(service, model),
        "disclaimer": NOTICE,
        "sha256": list(model.sha256),
        "intended_use": "Research: a first outline of the structures in images like those it was trained on.",
        "not_for": "Diagnosis, treatment, or any decision about a patient.",
        "limits": [
            "Images of another modality or body part give masks that look no less sure.",
            "Scores are probabilities of the network; they are not calibrated.",
            "Sizes are compared with the training images, not with healthy people.",
        ],
        "rule_tables": [{"name": table.name, "version": table.version} for table in tables],
        "information": {label: entries for table in tables for label, entries in table.information.items()},
    }


# -- the page --------------------


def _page_routes() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def page() -> FileResponse:
        return _page_file("index.html")

    @routes.get("/favicon.ico")
    async def icon() -> FileResponse:
        return _page_file("favicon.ico")

    @routes.get("/web/{path:path}")
    async def file(path: str) -> FileResponse:
        return _page_file(path)

    return routes


def _page_file(path: str) -> FileResponse:
    """Returns a file of the page; nothing outside its folder, no kind that a page does not need.

    Raises:
        Refusal: 404.
    """
    root = WEB.resolve()
    missing = Refusal(404, "There is nothing under this address.", code="E-SERVE-PATH")
    try:
        found = (root / path).resolve()
        if not found.is_relative_to(root) or found.suffix not in _PAGE_TYPES or not found.is_file():
            raise missing
    except (OSError, ValueError):
        raise missing from None
    return FileResponse(found, media_type=_PAGE_TYPES[found.suffix])
