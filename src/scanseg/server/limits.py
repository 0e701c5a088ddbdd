"""How much, how long and how often: every bound of the service in one place."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from scanseg.errors import UsageError
from scanseg.server.problems import Refusal

GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Bounds of the service; all can be set.

    Attributes:
        upload_bytes: Most bytes of one upload.
        json_bytes: Most bytes of a JSON body.
        requests_per_minute: Per owner.
        queued: Jobs of one owner that wait or run.
        stored_bytes: Bytes of one owner's inputs.
        free_bytes: Free disk below which nothing is accepted.
        header_s: Time for the head of a request.
        idle_s: Longest pause within a body.
        slow_after_s: Seconds after which a body must have come at `slowest_bytes_s` on average.
        slowest_bytes_s: See `slow_after_s`.
        send_s: Longest wait for a client that does not read its answer.
        connections: Open connections.
        streams: Open event streams of one owner.
        ttl_s: Finished jobs are erased so long after their end.
        waiting_s: Jobs whose inputs do not come are erased so long after their creation.
        job_s: A job that runs longer is stopped.
        lease_s: A worker that gives no sign of life so long is killed.
        tries: How often a job is started before it counts as one that kills its worker.
        returns: So many starts that ended with the whole server do not count.
    """

    upload_bytes: int = 2 * GIB
    json_bytes: int = 64 << 10
    requests_per_minute: int = 3000
    queued: int = 500
    stored_bytes: int = 100 * GIB
    free_bytes: int = 1 * GIB
    header_s: float = 10.0
    idle_s: float = 10.0
    slow_after_s: float = 30.0
    slowest_bytes_s: int = 50_000
    send_s: float = 60.0
    connections: int = 2000
    streams: int = 20
    ttl_s: float = 24 * 3600.0
    waiting_s: float = 3600.0
    job_s: float = 3600.0
    lease_s: float = 30.0
    tries: int = 2
    returns: int = 5


@dataclass
class Rate:
    """Counts requests of each owner in a sliding minute, as a bucket that refills evenly."""

    per_minute: int
    _levels: dict[str, tuple[float, float]] = field(default_factory=dict)

    def check(self, owner: str) -> None:
        """Counts one request.

        Raises:
            Refusal: 429, too many.
        """
        now_s = time.monotonic()
        level, then_s = self._levels.get(owner, (float(self.per_minute), now_s))
        level = min(float(self.per_minute), level + (now_s - then_s) * self.per_minute / 60)
        if level < 1:
            raise Refusal(
                429,
                f"More than {self.per_minute} requests in a minute.",
                code="E-SERVE-RATE",
                hint="Wait a minute, or use the event stream instead of asking often.",
                headers={"Retry-After": "10"},
            )
        self._levels[owner] = (level - 1, now_s)


def check_disk(folder: Path, limits: Limits, coming_bytes: int) -> None:
    """Raises a 507 refusal if `coming_bytes` more would leave less than the floor of free disk."""
    free = shutil.disk_usage(folder).free
    if free - coming_bytes < limits.free_bytes:
        raise Refusal(
            507,
            "The disk of the server is too full to accept this upload.",
            code="E-SERVE-DISK",
            hint="Delete finished predictions, or ask the operator for room; nothing was stored.",
        )


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": 1 << 40}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_size(text: str) -> int:
    """Returns bytes from `2G`, `500M` or a plain number.

    Raises:
        UsageError: It is none of these.

    Example:
        >>> parse_size("2G"), parse_size("10")
        (2147483648, 10)
    """
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in _UNITS or not 0 < int(number) * _UNITS[unit] <= 1 << 50:
        raise UsageError(
            f"A size must be a whole number with K, M, G or T, got {text!r}.",
            code="E-SERVE-SIZE",
            hint="For example 2G.",
        )
    return int(number) * _UNITS[unit]


def parse_span(text: str) -> float:
    """Returns seconds from `24h`, `30m`, `7d` or `90s`.

    Raises:
        UsageError: It is none of these.

    Example:
        >>> parse_span("24h")
        86400.0
    """
    if not text[:-1].isdecimal() or text[-1] not in _SPANS or int(text[:-1]) < 1:
        raise UsageError(
            f"A time must be a whole number with s, m, h or d, got {text!r}.",
            code="E-SERVE-SPAN",
            hint="For example 24h.",
        )
    return float(int(text[:-1]) * _SPANS[text[-1]])
