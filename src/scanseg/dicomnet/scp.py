"""A C-STORE receiver: other systems send series, a callback gets each when it is complete.

Source: PS3.4 B (storage service class), PS3.7 9.1.1 (C-STORE) and C (status codes).
"""

import io
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanseg.data.dicom_files import MOST_FILE_BYTES
from scanseg.data.dicom_header import BIG_ENDIAN, COMPRESSED, DEFLATED, EXPLICIT, IMPLICIT, series_uids
from scanseg.dicomnet.inbox import Inbox, InboxFull, Received
from scanseg.dicomnet.peers import check_title, is_loopback
from scanseg.dicomnet.tls import TlsFiles, receiver_context
from scanseg.errors import Error, UsageError
from scanseg.optional import require

logger = logging.getLogger(__name__)

# CT, MR and PET, each also enhanced (many frames in a file), and secondary capture. What the reader would
# refuse anyway is refused when it is offered.
STORED_CLASSES = (
    *("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"),
    *("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"),
    *("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.130"),
    "1.2.840.10008.5.1.4.1.1.7",
)
_VERIFICATION = "1.2.840.10008.1.1"
_SUCCESS, _NO_RESOURCES, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_MOST_INSTANCE_BYTES = MOST_FILE_BYTES
# What is being received lies in memory: this holds an enhanced image, or one of 256 MiB from each of ten.
_MOST_RECEIVING_BYTES = 10 * (256 << 20)
_LOOK_EVERY_S, _AGAIN_AFTER_S = 0.2, 1.0


class NotNow(Exception):
    """Raised by a callback that cannot take a series yet; it stays and is handed over again."""


@dataclass(frozen=True)
class ListenOptions:
    """Who may send how much.

    Attributes:
        ae_title: What this receiver is called; it must be called by that.
        host: Address to bind; only this machine by default.
        callers: AE titles that may send; empty allows all, which only a loopback address accepts.
        quiet_s: A series is complete when no association sends to it and it has not grown for so long.
        at_release: Take a series for complete as soon as its association ends. Only for senders that send a
            whole series in one association.
        most_files: Most instances of a series.
        most_bytes: Most bytes of a series.
        free_bytes: What stays free on the disk.
        associations: Most at the same time.
        idle_s: Time limit for every wait on the network.
        tls: Certificate and key; None does not encrypt.
    """

    ae_title: str = "SCANSEG"
    host: str = "127.0.0.1"
    callers: tuple[str, ...] = ()
    quiet_s: float = 5.0
    at_release: bool = False
    most_files: int = 20_000
    most_bytes: int = 4 << 30
    free_bytes: int = 1 << 30
    associations: int = 10
    idle_s: float = 30.0
    tls: TlsFiles | None = None


class Listener:
    """A running receiver; see `serve_dicom`."""

    def __init__(
        self, server: Any, inbox: Inbox, options: ListenOptions, on_series: Callable[[Received], None]
    ) -> None:
        self._server, self._inbox, self._options, self._on_series = server, inbox, options, on_series
        self._stopping = threading.Event()
        self._later: set[str] = set()
        self._worker = threading.Thread(target=self._work, name="dicom-series", daemon=True)
        self._worker.start()

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._server.socket.getsockname()[1])

    def stop(self, timeout_s: float = 60.0) -> None:
        """Takes no more associations, and waits for the callback at hand to return."""
        self._server.shutdown()
        self._stopping.set()
        self._worker.join(timeout_s)
        self._inbox.close()

    def wait(self) -> None:
        """Waits until `stop` is called or an interrupt comes."""
        while not self._stopping.wait(1.0):
            pass

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self) -> None:
        wait_s = _LOOK_EVERY_S
        while not self._stopping.wait(wait_s):
            wait_s = _LOOK_EVERY_S
            try:
                for name in self._inbox.quiet(self._options.quiet_s):
                    self._inbox.hand_over(name)
                for received in self._inbox.ready():
                    if not self._hand_to_callback(received):
                        wait_s = _AGAIN_AFTER_S
                    if self._stopping.is_set():
                        return
            except OSError as error:  # the disk may come back; what is on it is not lost
                logger.error("The inbox cannot be used (%s)", error.strerror)

    def _hand_to_callback(self, received: Received) -> bool:
        """Returns False if the callback will take the series later."""
        if received.case_id not in self._later:
            logger.info("Series %s is complete: %d files", received.case_id, received.files)
        try:
            self._on_series(received)
        except NotNow:
            self._later.add(received.case_id)
            return False
        except Exception as error:  # one bad series must not end the service
            self._inbox.failed(received, error)
        else:
            self._inbox.done(received)
        self._later.discard(received.case_id)
        return True


def serve_dicom(
    port: int,
    on_series: Callable[[Received], None],
    *,
    inbox: Path,
    options: ListenOptions | None = None,
) -> Listener:
    """Starts to receive DICOM images; returns at once.

    An instance is acknowledged (status 0x0000) only when it is whole and synced on disk. Each complete series
    is handed to the callback, one after another; when that returns the files are erased, when it raises they
    are put aside with the reason, except for `NotNow`. After a crash what was received is handed over again.

    Args:
        port: TCP port; 0 takes a free one.
        on_series: Called in a thread of the listener; may move the folder away to keep it. It must accept
            that a series comes again after a crash.
        inbox: Folder for what is received; only this listener may use it.
        options: Who may send how much.

    Raises:
        UsageError: A title is none, other machines could send unasked, the inbox is in use, or pynetdicom is
            not installed.
        Error: The port is taken, or a TLS file cannot be used.
    """
    require("pynetdicom", extra="dicom", purpose="Receiving DICOM")
    options = options or ListenOptions()
    check_title(options.ae_title)
    for caller in options.callers:
        check_title(caller)
    if not is_loopback(options.host) and not options.callers:
        raise UsageError(
            f"Listening on {options.host} needs the AE titles that may send.",
            code="E-DICOM-CALLERS",
            hint="Name them with --allow TITLE, or listen on 127.0.0.1.",
        )
    kept = Inbox(
        Path(inbox),
        most_files=options.most_files,
        most_bytes=options.most_bytes,
        free_bytes=options.free_bytes,
    )
    try:
        server = _start(port, kept, options)
    except Error:
        kept.close()
        raise
    return Listener(server, kept, options, on_series)


def _start(port: int, inbox: Inbox, options: ListenOptions) -> Any:
    from pynetdicom import AE, evt

    entity = AE(ae_title=options.ae_title)
    syntaxes = [EXPLICIT, IMPLICIT, DEFLATED, BIG_ENDIAN, *COMPRESSED]
    for kind in STORED_CLASSES:
        entity.add_supported_context(kind, syntaxes)
    entity.add_supported_context(_VERIFICATION)
    entity.require_called_aet = True
    entity.require_calling_aet = list(options.callers)
    entity.maximum_associations = options.associations
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = options.idle_s
    counter = _ByteCounter()
    context = None if options.tls is None else receiver_context(options.tls)
    handlers = [
        (evt.EVT_C_STORE, _store, [inbox, counter]),
        (evt.EVT_DATA_RECV, counter.received),
        (evt.EVT_CONN_CLOSE, _closed, [inbox, counter, options.at_release]),
    ]
    try:
        return entity.start_server(
            (options.host, port),
            block=False,
            ssl_context=context,
            evt_handlers=handlers,  # type: ignore[arg-type]
        )
    except OSError as error:
        raise Error(
            f"Port {port} of {options.host} cannot be opened ({error.strerror or error}).",
            code="E-DICOM-PORT",
            hint="Choose another one with --port; ports below 1024 need rights.",
        ) from error


class _ByteCounter:
    """Cuts connections that send more for one instance than one may have, or than there is room for."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def received(self, event: Any) -> None:
        key = id(event.assoc)
        self._counts[key] = self._counts.get(key, 0) + len(event.data)
        if self._counts[key] > _MOST_INSTANCE_BYTES:
            logger.warning("A connection was cut: an instance exceeds %d bytes", _MOST_INSTANCE_BYTES)
        elif sum(list(self._counts.values())) > _MOST_RECEIVING_BYTES:
            logger.warning("A connection was cut: all together exceed %d bytes", _MOST_RECEIVING_BYTES)
        else:
            return
        event.assoc.dul.socket.close()

    def reset(self, association: Any) -> None:
        self._counts[id(association)] = 0

    def forget(self, association: Any) -> None:
        self._counts.pop(id(association), None)


def _store(event: Any, inbox: Inbox, counter: _ByteCounter) -> int:
    """Answers a C-STORE request with a status; never raises and never quotes a value."""
    counter.reset(event.assoc)
    try:
        content = event.encoded_dataset()
        series = series_uids(io.BytesIO(content))
        instance = str(event.request.AffectedSOPInstanceUID)
    except Exception:  # pydicom raises classes of many kinds for damaged data
        return _NOT_UNDERSTOOD
    try:
        inbox.keep(series, instance, content, sender=id(event.assoc))
    except InboxFull:
        logger.warning("An instance was refused: a limit of the inbox is reached")
        return _NO_RESOURCES
    except OSError as error:
        logger.error("An instance was refused: %s", error.strerror)
        return _NO_RESOURCES
    return _SUCCESS


def _closed(event: Any, inbox: Inbox, counter: _ByteCounter, at_release: bool) -> None:
    counter.forget(event.assoc)
    for name in inbox.released(id(event.assoc)):
        if at_release:
            inbox.hand_over(name)
