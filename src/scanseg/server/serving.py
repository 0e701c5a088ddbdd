"""Starts the service: folder, lock, token, application, HTTP."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from scanseg.errors import ModelError, UsageError
from scanseg.server.app import make_app
from scanseg.server.middleware import Guard
from scanseg.server.protocol import make_protocol
from scanseg.server.service import Service
from scanseg.server.settings import Settings, lock_data, prepare_folder

_AT_ONCE = 16
_WAITING = 2048


@dataclass(frozen=True)
class Address:
    """Where the service listens."""

    host: str
    port: int
    dicom_port: int | None = None

    @property
    def url(self) -> str:
        """URL for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                with socket.socket(fileno=os.dup(listening.fileno())) as same:
                    same.listen(_WAITING)
        # What is loaded stays: to look for garbage in it, amid a thousand new connections, takes 80 ms.
        gc.collect()
        gc.freeze()
        if self.started and self.servers:
            self._on_listening(self.servers[0].sockets[0].getsockname()[1])


def run(settings: Settings, *, on_listening: Callable[[Address], None]) -> None:
    """Serves until interrupted.

    Args:
        settings: What to serve.
        on_listening: Called once the port is open.

    Raises:
        ModelError: A model cannot be loaded.
        DataError: The store is damaged, or another server has the folder.
        UsageError: The folder or the address cannot be used.
    """
    prepare_folder(settings.data)
    lock = lock_data(settings.data)
    service: Service | None = None
    try:
        app, service = make_app(settings)
        set_process_limits()
        if service.intake is not None:
            service.intake.open()

        def tell(port: int) -> None:
            intake = service.intake
            on_listening(Address(settings.host, port, None if intake is None else intake.port))

        server = _Server(_config(app, settings), tell)

        def stop() -> None:
            server.should_exit = True

        service.stop = stop
        # uvicorn raises the signal that ended it once more; a stop that was asked for is no failure.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: stop())
        try:
            server.run()
        except SystemExit as error:
            raise UsageError(
                f"Port {settings.port} of {settings.host} cannot be opened.",
                code="E-SERVE-PORT",
                hint="Another program may use it; choose another one with --port.",
            ) from error
        if service.broken is not None and service.broken.error is not None:
            found = service.broken.error
            raise ModelError(found["message"], code=found["code"], hint=found["hint"])
    finally:
        if service is not None and service.intake is not None:
            service.intake.stop()
        lock.close()


def _config(app: Guard, settings: Settings) -> uvicorn.Config:
    limits = settings.limits
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=settings.host,
        port=settings.port,
        http=make_protocol(limits.header_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        # asyncio opens so many at once before it does anything else.
        backlog=_AT_ONCE,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 << 10,
    )


def set_process_limits() -> None:
    """Lets this process open as many files as it may, and write no core dumps: they hold images."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # Workers and tools inherit it.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
