"""The job store: one SQLite file that survives any kill, shared by the web process and the workers."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scanseg.errors import DataError
from scanseg.server.job import FINAL, Job, Received, Slot, new_id

__all__ = ["FINAL", "Job", "Received", "Slot", "Store", "new_id"]

VERSION = 2

_SCHEMA = """
CREATE TABLE jobs (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
  owner TEXT NOT NULL, state TEXT NOT NULL, name TEXT NOT NULL, options TEXT NOT NULL, slots TEXT NOT NULL,
  created_s REAL NOT NULL, started_s REAL, finished_s REAL, expires_s REAL NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0, worker TEXT, lease_s REAL, error TEXT, review TEXT, key TEXT,
  request TEXT, returns INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_key ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX queue ON jobs (state, model, seq);
CREATE INDEX owned ON jobs (owner, seq);
CREATE TABLE inputs (
  job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, slot TEXT NOT NULL, bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL, PRIMARY KEY (job, slot)
);
CREATE TABLE reviews (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, model TEXT NOT NULL,
  review TEXT NOT NULL
);
"""


_PASSING = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")


def may_pass(error: Exception) -> bool:
    """Tells whether an error of the store is one of the disk or of others at work, not a fault of ours."""
    return str(getattr(error, "sqlite_errorname", "")).startswith(_PASSING)


class Store:
    """Jobs in `jobs.sqlite3`. Every change is a committed, synced transaction when the method returns.

    One instance belongs to one thread at a time; each process opens its own.

    Raises:
        DataError: The file is damaged, locked for long, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=15.0, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.execute("PRAGMA secure_delete=ON")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found in (0, 1):
                self._create()
            elif found != VERSION:
                raise _refused(path, f"has version {found}, accepted is {VERSION}")
        except sqlite3.Error as error:
            raise _refused(path, f"cannot be used ({error})") from error

    def _create(self) -> None:
        """Makes the tables, or adds to those of version 1 what they lack."""
        with self._writing() as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
            elif found == 1:
                db.execute("ALTER TABLE jobs ADD COLUMN returns INTEGER NOT NULL DEFAULT 0")
            db.execute(f"PRAGMA user_version={VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite itself has rolled back where the disk was full.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def check(self) -> None:
        """Raises a DataError if the file is damaged."""
        try:
            answer = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            raise _refused(self.path, f"is damaged ({error})") from error
        if answer != "ok":
            raise _refused(self.path, "is damaged")

    # -- looking --------------------

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """Returns a job, None if there is none or it belongs to another owner."""
        row = self._db.execute("SELECT * FROM jobs WHERE id=?", (job_id,)).fetchone()
        if row is None or (owner is not None and row["owner"] != owner):
            return None
        return self._job(row)

    def by_key(self, owner: str, key: str) -> Job | None:
        """Returns the job made with an idempotency key."""
        row = self._db.execute("SELECT * FROM jobs WHERE owner=? AND key=?", (owner, key)).fetchone()
        return None if row is None else self._job(row)

    def page(self, owner: str, *, kind: str, limit: int, before: int | None = None) -> list[Job]:
        """Returns an owner's jobs, newest first."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE owner=? AND kind=? AND seq<? ORDER BY seq DESC LIMIT ?",
            (owner, kind, before if before is not None else 1 << 62, limit),
        ).fetchall()
        return [self._job(row) for row in rows]

    def ids(self) -> set[str]:
        """Returns the ids of all jobs."""
        return {row[0] for row in self._db.execute("SELECT id FROM jobs")}

    def waiting(self) -> list[str]:
        """Returns the ids of jobs whose inputs are not all there."""
        return [row[0] for row in self._db.execute("SELECT id FROM jobs WHERE state='waiting'")]

    def position(self, job: Job) -> int | None:
        """Returns 1 for the queued job that is next, None for a job that is not queued."""
        if job.state != "queued":
            return None
        ahead = self._db.execute(
            "SELECT COUNT(*) FROM jobs WHERE state='queued' AND model=? AND seq<?", (job.model, job.seq)
        ).fetchone()[0]
        return int(ahead) + 1

    def has_queued(self, model: str) -> bool:
        """Tells whether a job of a model waits for its worker."""
        found = self._db.execute("SELECT 1 FROM jobs WHERE state='queued' AND model=? LIMIT 1", (model,))
        return found.fetchone() is not None

    def open_jobs(self, owner: str) -> int:
        """Returns how many jobs of an owner wait or run."""
        found = self._db.execute(
            "SELECT COUNT(*) FROM jobs WHERE owner=? AND state IN ('waiting', 'queued', 'running')", (owner,)
        )
        return int(found.fetchone()[0])

    def stored_bytes(self, owner: str) -> int:
        """Returns the bytes of an owner's inputs."""
        found = self._db.execute(
            "SELECT COALESCE(SUM(bytes), 0) FROM inputs JOIN jobs ON jobs.id=inputs.job WHERE owner=?",
            (owner,),
        )
        return int(found.fetchone()[0])

    def seconds_per_case(self, model: str) -> float | None:
        """Returns the mean time of the last ten finished predictions of a model."""
        found = self._db.execute(
            "SELECT AVG(finished_s-started_s) FROM (SELECT finished_s, started_s FROM jobs WHERE model=? AND "
            "state='done' AND kind='prediction' ORDER BY seq DESC LIMIT 10)",
            (model,),
        ).fetchone()[0]
        return None if found is None else float(found)

    def running(self) -> list[tuple[str, str, float, float]]:
        """Returns id, model, start and last sign of life of the jobs that run."""
        rows = self._db.execute("SELECT id, model, started_s, lease_s FROM jobs WHERE state='running'")
        return [(row[0], row[1], float(row[2] or 0), float(row[3] or 0)) for row in rows]

    def expired(self, now_s: float, waiting_s: float) -> list[str]:
        """Returns the ids of jobs whose time is over."""
        rows = self._db.execute(
            "SELECT id FROM jobs WHERE (state IN ('done', 'failed', 'cancelled') AND expires_s<?) "
            "OR (state='waiting' AND created_s<?)",
            (now_s, now_s - waiting_s),
        )
        return [row[0] for row in rows]

    def reviews(self, owner: str | None) -> list[tuple[str, str, dict[str, Any]]]:
        """Returns id, model and review, oldest first; those of one owner, or all.

        Reviews outlive the time of their jobs, not their deletion.
        """
        rows = self._db.execute(
            "SELECT job, model, review FROM reviews WHERE (? IS NULL OR owner=?) ORDER BY seq",
            (owner, owner),
        ).fetchall()
        return [(row[0], row[1], json.loads(row[2])) for row in rows]

    # -- changing --------------------

    def create(
        self,
        *,
        job_id: str,
        kind: str,
        model: str,
        owner: str,
        name: str,
        options: dict[str, Any],
        slots: Sequence[Slot],
        expires_s: float,
        received: dict[str, Received] | None = None,
        key: str | None = None,
        request: str | None = None,
    ) -> Job:
        """Inserts a job, `waiting`, or `queued` if all inputs are there; or returns the one with this key."""
        received = received or {}
        state = "queued" if len(received) == len(slots) else "waiting"
        with self._writing() as db:
            if key is not None:
                row = db.execute("SELECT * FROM jobs WHERE owner=? AND key=?", (owner, key)).fetchone()
                if row is not None:
                    return self._job(row)
            db.execute(
                "INSERT INTO jobs (id, kind, model, owner, state, name, options, slots, created_s, "
                "expires_s, key, request) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(job_id, kind, model, owner, state, name, json.dumps(options)),
                    json.dumps([[slot.slot, slot.name, slot.suffix] for slot in slots]),
                    *(time.time(), expires_s, key, request),
                ),
            )
            for slot, one in received.items():
                db.execute("INSERT INTO inputs VALUES (?,?,?,?)", (job_id, slot, one.bytes, one.sha256))
            return self._existing(job_id)

    def receive(self, job_id: str, slot: str, received: Received) -> Job | None:
        """Records an input; the last one queues the job. None if it no longer waits for this input."""
        with self._writing() as db:
            row = db.execute("SELECT state, slots FROM jobs WHERE id=?", (job_id,)).fetchone()
            there = db.execute("SELECT slot FROM inputs WHERE job=?", (job_id,)).fetchall()
            if row is None or row["state"] != "waiting" or slot in {found[0] for found in there}:
                return None
            db.execute("INSERT INTO inputs VALUES (?,?,?,?)", (job_id, slot, received.bytes, received.sha256))
            if len(there) + 1 == len(json.loads(row["slots"])):
                db.execute("UPDATE jobs SET state='queued' WHERE id=?", (job_id,))
            return self._existing(job_id)

    def claim(self, model: str, worker: str) -> Job | None:
        """Takes the oldest queued job of a model for a worker."""
        waiting = "SELECT id FROM jobs WHERE state='queued' AND model=? ORDER BY seq LIMIT 1"
        if self._db.execute(waiting, (model,)).fetchone() is None:
            return None
        with self._writing() as db:
            row = db.execute(waiting, (model,)).fetchone()
            if row is None:
                return None
            now_s = time.time()
            db.execute(
                "UPDATE jobs SET state='running', worker=?, tries=tries+1, lease_s=?, started_s=? WHERE id=?",
                (worker, now_s, now_s, row[0]),
            )
            return self._existing(row[0])

    def beat(self, job_id: str, worker: str) -> bool:
        """Renews a lease; False if the job is no longer this worker's."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE jobs SET lease_s=? WHERE id=? AND worker=? AND state='running'",
                (time.time(), job_id, worker),
            )
            return changed.rowcount == 1

    def finish(
        self, job_id: str, worker: str, state: str, *, ttl_s: float, error: dict[str, Any] | None = None
    ) -> bool:
        """Ends a job of a worker; False if it is no longer this worker's: its result does not count then."""
        now_s = time.time()
        with self._writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state=?, error=?, finished_s=?, expires_s=?, worker=NULL "
                "WHERE id=? AND worker=? AND state='running'",
                (state, error and json.dumps(error), now_s, now_s + ttl_s, job_id, worker),
            )
            return changed.rowcount == 1

    def release(self, worker: str) -> None:
        """Gives back what a sound worker holds that must end; the try does not count."""
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state='queued', worker=NULL, tries=tries-1 "
                "WHERE worker=? AND state='running'",
                (worker,),
            )

    def recover(
        self, model: str, *, tries: int, error: dict[str, Any], ttl_s: float, returns: int = 0
    ) -> None:
        """Requeues what a dead worker of a model was at; what was tried often enough fails with `error`.

        Args:
            returns: So many starts of a job do not count, as that of a worker that ended with its server:
                such an end is seldom the job's fault, yet a job that takes everything with it shall end too.
        """
        now_s = time.time()
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET tries=tries-1, returns=returns+1 "
                "WHERE state='running' AND model=? AND returns<?",
                (model, returns),
            )
            db.execute(
                "UPDATE jobs SET state='failed', error=?, finished_s=?, expires_s=?, worker=NULL "
                "WHERE state='running' AND model=? AND tries>=?",
                (json.dumps(error), now_s, now_s + ttl_s, model, tries),
            )
            db.execute(
                "UPDATE jobs SET state='queued', worker=NULL WHERE state='running' AND model=?", (model,)
            )

    def fail(self, job_id: str, error: dict[str, Any], *, ttl_s: float) -> None:
        """Ends a job whatever its worker does."""
        now_s = time.time()
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state='failed', error=?, finished_s=?, expires_s=?, worker=NULL "
                "WHERE id=? AND state NOT IN ('done', 'failed', 'cancelled')",
                (json.dumps(error), now_s, now_s + ttl_s, job_id),
            )

    def cancel(self, job_id: str, *, ttl_s: float) -> bool:
        """Ends a job that is not finished."""
        now_s = time.time()
        with self._writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state='cancelled', finished_s=?, expires_s=?, worker=NULL "
                "WHERE id=? AND state NOT IN ('done', 'failed', 'cancelled')",
                (now_s, now_s + ttl_s, job_id),
            )
            return changed.rowcount == 1

    def delete(self, job_id: str, *, keep_review: bool = False) -> None:
        """Forgets a job; its bytes in the files of the store are overwritten."""
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE id=?", (job_id,))
            if not keep_review:
                db.execute("DELETE FROM reviews WHERE job=?", (job_id,))
        # While somebody reads, the log stays; the next deletion or the system's own checkpoint ends it.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def review(self, job_id: str, review: dict[str, Any]) -> None:
        """Stores the review of a job."""
        with self._writing() as db:
            text = json.dumps(review)
            db.execute("UPDATE jobs SET review=? WHERE id=?", (text, job_id))
            db.execute(
                "INSERT INTO reviews (job, owner, model, review) SELECT id, owner, model, ? FROM jobs "
                "WHERE id=? ON CONFLICT (job) DO UPDATE SET review=excluded.review",
                (text, job_id),
            )

    def _existing(self, job_id: str) -> Job:
        return self._job(self._db.execute("SELECT * FROM jobs WHERE id=?", (job_id,)).fetchone())

    def _job(self, row: sqlite3.Row) -> Job:
        facts = dict(row)
        inputs = self._db.execute("SELECT slot, bytes, sha256 FROM inputs WHERE job=?", (row["id"],))
        for name in ("worker", "lease_s", "key", "returns"):
            facts.pop(name)
        return Job(
            **{
                **facts,
                "options": json.loads(row["options"]),
                "slots": tuple(Slot(*slot) for slot in json.loads(row["slots"])),
                "error": row["error"] and json.loads(row["error"]),
                "review": row["review"] and json.loads(row["review"]),
                "inputs": {found[0]: Received(found[1], found[2]) for found in inputs},
            }
        )


def _refused(path: Path, what: str) -> DataError:
    return DataError(
        f"The job store {path} {what}.",
        code="E-SERVE-STORE",
        hint="Restore it from a backup, or start with another --data-dir; results lie in its jobs folder.",
    )
