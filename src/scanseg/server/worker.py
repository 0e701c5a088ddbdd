"""The worker: one process with one loaded model, which takes jobs of that model from the store.

`python -m scanseg.server.worker` gets its orders as the first line of its standard input; further lines wake
it; the end of that input means that the server is gone. What it prints, one JSON object a line, is news.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from scanseg.allocator import keep_freed_memory, release_freed_memory
from scanseg.errors import Error
from scanseg.files import sync_folder, write_json
from scanseg.pipeline.serving import ServeOptions, blank_image, load_model, read_view, serve_image
from scanseg.progress import Eta, Progress
from scanseg.server.jobs import Job, Store, may_pass
from scanseg.server.limits import Limits
from scanseg.server.models import ServedModel, describe_model
from scanseg.server.problems import problem
from scanseg.server.reading import Reader
from scanseg.server.settings import hold_lock
from scanseg.server.supervise import CRASHED
from scanseg.types import Image

logger = logging.getLogger("scanseg.worker")
T = TypeVar("T")
_BEAT_S = 2.0


class Stopped(Exception):
    """The job was cancelled, erased, or given to somebody else."""


class Worker:
    """Takes and does jobs until its input ends.

    Args:
        orders: From `Settings.worker_orders`.
    """

    def __init__(self, orders: dict[str, Any]) -> None:
        self.data = Path(orders["data"])
        self.model_id = str(orders["model"])
        self.orders = orders
        self.limits = Limits(**orders["limits"])
        self.name = f"{self.model_id}-{os.getpid()}-{secrets.token_hex(4)}"
        self.scratch = self.data / "scratch" / self.model_id
        self.store = Store(self.data / "jobs.sqlite3")
        self.reader = Reader()
        self.awake = threading.Event()
        self._job: Job | None = None
        self._lost = threading.Event()
        self._printing = threading.Lock()

    def run(self) -> None:
        """Recovers what a dead predecessor left, loads the model, works."""
        self._lock = hold_lock(self.data / "workers" / f"{self.model_id}.lock", wait=True)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        # What a living server saw dying it has queued again itself; what is left ended with its server.
        self._stored(self._recover)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.reader.prepare()
        try:
            facts = describe_model(self.model_id, Path(self.orders["run"]))
            model = load_model(facts.run, device=self.orders["device"], threads=self.orders["threads"])
        except Error as error:
            self.tell(event="broken", code=error.code, message=error.message, hint=error.hint)
            return
        if not self.store.has_queued(self.model_id):
            self._warm_up(model)
        self.tell(event="ready", device=str(model.device))
        while True:
            self.awake.clear()
            job = self._stored(lambda: self.store.claim(self.model_id, self.name))
            if job is None:
                self.awake.wait(1.0)
                continue
            self._job, self._lost = job, threading.Event()
            self.tell(event="started", id=job.id)
            try:
                state, trouble = self._do(job, model, facts)
                # A job that is no longer ours was cancelled or erased: then nothing of it may stay.
                if not self._stored(partial(self._finish, job, state, trouble)):
                    self._forget(job)
            finally:
                self._job = None
                shutil.rmtree(self.scratch, ignore_errors=True)
                release_freed_memory()
            self.tell(event="finished", id=job.id, state=state)
            self.reader.prepare()

    def tell(self, **news: Any) -> None:
        """Prints one line of news; without anybody to read it, the server is gone."""
        try:
            with self._printing:
                sys.stdout.write(json.dumps(news) + "\n")
                sys.stdout.flush()
        except OSError:
            self._end()

    def _recover(self) -> None:
        self.store.recover(
            self.model_id, tries=self.limits.tries, error=CRASHED, ttl_s=self.limits.ttl_s,
            returns=self.limits.returns,
        )  # fmt: skip

    def _finish(self, job: Job, state: str, trouble: dict[str, Any] | None) -> bool:
        return self.store.finish(job.id, self.name, state, ttl_s=self.limits.ttl_s, error=trouble)

    def _stored(self, call: Callable[[], T]) -> T:
        """Returns what a call of the store returns; waits while the store cannot be written."""
        told = False
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not may_pass(error):
                    raise
                if not told:
                    logger.error("the job store cannot be written: %s; trying on", error.sqlite_errorname)
                told = True
                time.sleep(1.0)

    def _warm_up(self, model: Any) -> None:
        """Predicts an empty image of one patch, so that the first person does not wait for imports."""
        try:
            image = blank_image(model)
            with tempfile.TemporaryDirectory(dir=self.data / "scratch") as folder:
                serve_image(model, image, Path(folder), input_name="warm.nii.gz", options=ServeOptions())
        except Exception as error:
            # Real images may still do; if they do not, their jobs say why.
            logger.warning("warming up failed: %s", type(error).__name__)

    # -- one job --------------------

    def _do(self, job: Job, model: Any, facts: ServedModel) -> tuple[str, dict[str, Any] | None]:
        """Returns the state that a job ends in, and the problem if it failed."""
        try:
            if not (self._folder(job) / "result" / "result.json").is_file():
                self._fill(job, model, facts)
            return "done", None
        except Stopped:
            return "cancelled", None
        except Error as error:
            logger.info("job %s failed: %s", job.id, error.code)
            return "failed", problem(
                422, error.code, self._clean(error.message, job), self._clean(error.hint, job)
            )
        except MemoryError:
            hint = "Crop or downsample the image, or use a machine with more memory."
            return "failed", problem(422, "E-PREDICT-MEMORY", "Not enough memory for this image.", hint)
        except OSError as error:
            logger.error("job %s failed: errno %s", job.id, error.errno)
            text = "Reading or writing on the server failed."
            if error.errno == errno.ENOSPC:
                text = "The disk of the server is full."
            hint = "Tell the operator of the server; then send the image again."
            return "failed", problem(422, "E-PREDICT-IO", text, hint)
        except Exception as error:
            # The text of the exception may hold what stands in the file; only its class is told.
            logger.error("job %s failed: unexpected %s", job.id, type(error).__name__)
            text = f"An unexpected fault, {type(error).__name__}, stopped this job."
            return "failed", problem(422, "E-INTERNAL", text, "Report it with the id of the prediction.")

    def _fill(self, job: Job, model: Any, facts: ServedModel) -> None:
        """Makes the result folder of a job, at once and whole."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        result = self.scratch / "result"
        result.mkdir(parents=True, mode=0o700)
        work = self._evaluate if job.kind == "evaluation" else self._predict
        work(job, model, facts, result)
        for path in [result, *(p for p in result.rglob("*") if p.is_dir())]:
            sync_folder(path)
        target = self._folder(job)
        if not target.is_dir():
            raise Stopped
        # Half a result of an earlier try has no result.json.
        shutil.rmtree(target / "result", ignore_errors=True)
        os.rename(result, target / "result")
        sync_folder(target)

    def _predict(self, job: Job, model: Any, facts: ServedModel, result: Path) -> None:
        from scanseg.server.findings import make_result
        from scanseg.server.report import write_case_report

        options = ServeOptions(**job.options)
        started_s = time.perf_counter()
        self._report(Progress("read", 0, 1))
        image, name = self._read(job, options)
        read_s = round(time.perf_counter() - started_s, 3)
        found = serve_image(model, image, result, input_name=name, options=options, report=self._report)
        found["timing_s"] = {"read": read_s, **found["timing_s"]}
        document = make_result(job.id, found, facts, result)
        write_case_report(document, result)
        write_json(result / "result.json", document)

    def _read(self, job: Job, options: ServeOptions) -> tuple[Image, str]:
        """Returns the image of a job from the reading process, and a name that ends like the first file."""
        out = self.scratch / "read"
        out.mkdir(mode=0o700)
        paths = [self._folder(job) / "inputs" / slot.file for slot in job.slots]
        wanted = {"nan_fill": options.nan_fill, "spacing": options.spacing}
        answer = self.reader.read(
            {"paths": [str(path) for path in paths], "out": str(out), "options": wanted},
            limit_s=min(900.0, self.limits.job_s),
        )
        arrays, geometry = read_view(out)
        return Image(arrays["image"], geometry, paths[0]), str(answer["name"])

    def _evaluate(self, job: Job, model: Any, facts: ServedModel, result: Path) -> None:
        from scanseg.server.evaluations import evaluate_job

        evaluate_job(job, facts, self._folder, self.scratch, result, self._report)

    # -- signs of life --------------------

    def _report(self, progress: Progress) -> None:
        if self._lost.is_set() or self._job is None:
            raise Stopped
        if progress.stage != getattr(self, "_stage", None):
            self._stage, self._eta, self._told_s = progress.stage, Eta(max(1, progress.total)), 0.0
        now_s = time.monotonic()
        if now_s - self._told_s < 0.1 and progress.done < progress.total:
            return
        self._told_s = now_s
        eta_s = progress.eta_s if progress.eta_s is not None else self._eta(progress.done)
        self.tell(
            event="progress",
            id=self._job.id,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            eta_s=None if eta_s is None else round(eta_s, 1),
        )

    def _beat(self) -> None:
        """Renews the lease of the job at work, and notices when it is taken away."""
        store = Store(self.data / "jobs.sqlite3")
        while True:
            time.sleep(_BEAT_S if self._job is None else _BEAT_S / 4)
            job, lost = self._job, self._lost
            try:
                if job is not None and not store.beat(job.id, self.name):
                    lost.set()
            except sqlite3.Error:
                # A full disk, for one. The server hears this instead.
                self.tell(event="alive")

    def _listen(self) -> None:
        """Wakes the work at each line; when the server is gone, gives back the job and ends at once."""
        for line in sys.stdin:
            if line.strip():
                self.awake.set()
        self._end()

    def _end(self) -> NoReturn:
        """Gives back the job and ends at once: the server is gone, or is ending."""
        try:
            Store(self.data / "jobs.sqlite3").release(self.name)
        finally:
            os._exit(0)

    # -- small things --------------------

    def _folder(self, job: Job) -> Path:
        return self.data / "jobs" / job.id

    def _forget(self, job: Job) -> None:
        if self.store.get(job.id) is None:
            shutil.rmtree(self._folder(job), ignore_errors=True)

    def _clean(self, text: str, job: Job) -> str:
        """Returns an error's text with the user's words for files instead of paths of this machine."""
        folder = self._folder(job) / "inputs"
        for slot in job.slots:
            what = "The image" if len(job.slots) == 1 else f"Input {slot.slot}"
            text = text.replace(str(folder / slot.file), what)
        unpacked = str(self.scratch / "read" / "unpacked")
        return text.replace(unpacked + os.sep, "archive entry ").replace(str(self.data), "")


def log_own_words_only() -> None:
    """Sends our log to stderr; what libraries log or warn of may name a patient and goes nowhere."""
    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    own = logging.getLogger("scanseg")
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    own.propagate = False


def main() -> None:
    """Runs a worker by the orders on standard input."""
    import signal

    log_own_words_only()
    keep_freed_memory()
    # These reach the whole process group; the server tells its workers itself, by closing their input.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = sys.stdin.readline()
    if line:
        Worker(json.loads(line)).run()


if __name__ == "__main__":
    main()
