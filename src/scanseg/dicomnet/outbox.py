"""Files that wait to be sent: tried until the peer takes them, also after a restart."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from scanseg.errors import Error
from scanseg.files import sync_folder

logger = logging.getLogger(__name__)

_MOST_WAIT_S = 60.0

Send = Callable[[Sequence[Path]], None]


class Outbox:
    """Sends every `*.dcm` file of a folder and erases it when the peer has acknowledged it.

    Args:
        folder: Files must appear in it whole, by a rename.
        send: Sends files, or raises `Error`; see `scanseg.dicomnet.destination.sender`.
        first_wait_s: Between looks; doubled up to a minute after each failure.
    """

    def __init__(self, folder: Path, send: Send, *, first_wait_s: float = 0.5) -> None:
        self._folder, self._send, self._first_wait_s = folder, send, first_wait_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dicom-outbox", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Ends the thread; what was not sent stays."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        wait_s = self._first_wait_s
        while not self._stopping.wait(wait_s):
            wait_s = self._first_wait_s if self._send_all() else min(2 * wait_s, _MOST_WAIT_S)

    def _send_all(self) -> bool:
        """Tries every file, the oldest first; a refused one keeps no other from being tried."""
        succeeded = True
        try:
            paths = [path for path in self._folder.glob("*.dcm") if not path.name.startswith(".")]
            for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
                succeeded &= self._send_one(path)
        except OSError as error:
            logger.error("The outbox cannot be used (%s)", error.strerror)
            return False
        return succeeded

    def _send_one(self, path: Path) -> bool:
        if self._stopping.is_set():
            return True
        try:
            self._send([path])
        except Error as error:
            logger.warning("%s is not sent yet. %s", path.stem, error.message)
            return False
        path.unlink(missing_ok=True)  # it may have been withdrawn meanwhile
        sync_folder(path.parent)
        logger.info("%s is sent", path.stem)
        return True
