"""The client: predictions, evaluations, reviews and trainings of a service."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from scanseg.client.answers import Job, Result, Training
from scanseg.client.connection import Connection, ServiceError
from scanseg.errors import UsageError

_FINAL = ("done", "failed", "cancelled")


class Client:
    """A connection to a service.

    Args:
        url: As the service printed it.
        token: Where it needs one.
        timeout_s: Longest wait for an answer.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     client.predict("mri.nii.gz", model="heart").save_mask("mask.nii.gz")
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 120.0) -> None:
        self._connection = Connection(url, token, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def version(self) -> dict[str, Any]:
        """Returns what runs there, and within which limits."""
        return self._connection.json("GET", "/api/v1/version")

    def models(self) -> list[dict[str, Any]]:
        """Returns the models that are served."""
        return list(self._connection.json("GET", "/api/v1/models")["models"])

    def predict(
        self,
        image: Path | str | Sequence[Path | str],
        *,
        model: str | None = None,
        timeout_s: float | None = None,
        report: Callable[[Job], None] | None = None,
        **options: Any,
    ) -> Result:
        """Uploads an image, waits, and returns what was found.

        Args:
            image: A file, one file per channel in the model's order, or one zip archive of them.
            model: Id; may be left out where only one is served.
            timeout_s: Longest wait for the end.
            report: Told about the job whenever it has changed.
            **options: `tta`, `step_size`, `probabilities`, `uncertainty`, `nan_fill`, `spacing`.

        Raises:
            ServiceError: It was refused or failed; code and hint as on the command line.
            UsageError: A file is missing.
        """
        job = self.wait(self.submit(image, model=model, **options).id, timeout_s=timeout_s, report=report)
        if job.state != "done":
            found = job.facts.get("error") or {"code": "E-SERVE-STATE", "detail": f"The job is {job.state}."}
            raise ServiceError(
                found["detail"], code=found["code"], hint=found.get("hint", ""), status=found.get("status", 0)
            )
        return self.result(job.id)

    def submit(
        self, image: Path | str | Sequence[Path | str], *, model: str | None = None, **options: Any
    ) -> Job:
        """Uploads an image and returns the queued job.

        A broken connection is tried again twice, with the same key, so that it makes one job only.
        """
        paths = [Path(image)] if isinstance(image, str | Path) else [Path(item) for item in image]
        for path in paths:
            if not path.is_file():
                raise UsageError(f"{path} does not exist.", code="E-PREDICT-PATH", hint="Give image files.")
        order: dict[str, Any] = {"inputs": [{"name": path.name} for path in paths], "options": options}
        if model is not None:
            order["model"] = model
        head = {"Idempotency-Key": secrets.token_hex(16)}
        job = Job(self._connection.json("POST", "/api/v1/predictions", json=order, headers=head))
        for slot, path in enumerate(paths):
            job = self._upload(f"/api/v1/predictions/{job.id}", str(slot), path, job)
        return job

    def _upload(self, base: str, slot: str, path: Path, job: Job) -> Job:
        """Sends a file; after a broken connection asks whether it arrived and sends it again if not."""
        for attempt in range(3):
            try:
                return Job(self._connection.upload(f"{base}/inputs/{slot}", path))
            except ServiceError as error:
                if error.status != 0 or attempt == 2:
                    raise
                time.sleep(0.5 * (attempt + 1))
                job = Job(self._connection.json("GET", base))
                if any(one["slot"] == slot and one["received"] for one in job.facts["inputs"]):
                    return job
        return job

    def job(self, job_id: str) -> Job:
        """Returns the state of a prediction."""
        return Job(self._connection.json("GET", f"/api/v1/predictions/{quote(job_id, safe='')}"))

    def wait(
        self, job_id: str, *, timeout_s: float | None = None, report: Callable[[Job], None] | None = None
    ) -> Job:
        """Returns a prediction when it is finished.

        Raises:
            ServiceError: It was not within `timeout_s`; it goes on, ask again with `job`.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        path = f"/api/v1/predictions/{quote(job_id, safe='')}"
        while True:
            left_s = 20.0 if end_s is None else min(20.0, end_s - time.monotonic())
            step_s = min(1.0, left_s) if report is not None else left_s
            job = Job(self._connection.json("GET", path, params={"wait": max(0.0, step_s)}))
            if report is not None:
                report(job)
            if job.state in _FINAL:
                return job
            if end_s is not None and time.monotonic() >= end_s:
                raise ServiceError(
                    f"The prediction {job_id} was not finished within {timeout_s:g} s.",
                    code="E-CLIENT-TIME",
                    hint="It goes on; ask again with client.job(id).",
                )

    def result(self, job_id: str) -> Result:
        """Returns the findings of a finished prediction."""
        return Result(
            self._connection.json("GET", f"/api/v1/predictions/{quote(job_id, safe='')}/result"), self
        )

    def evaluate(
        self,
        reference: Path | str,
        *,
        prediction: str | None = None,
        mask: Path | str | None = None,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Returns the metrics of a mask against a reference.

        Args:
            reference: File of the truth.
            prediction: Id of a prediction whose mask is measured; or else
            mask: A file, with `model` for the names of the labels.
            model: See `mask`.
        """
        if (prediction is None) == (mask is None):
            raise UsageError("Give either prediction or mask.", code="E-CLIENT-MASK")
        order: dict[str, Any] = {"reference": {"name": Path(reference).name}}
        order |= {"prediction": prediction} if prediction else {"mask": {"name": Path(str(mask)).name}}
        if model is not None:
            order["model"] = model
        job = Job(self._connection.json("POST", "/api/v1/evaluations", json=order))
        base = f"/api/v1/evaluations/{job.id}"
        if mask is not None:
            self._upload(base, "mask", Path(mask), job)
        self._upload(base, "reference", Path(reference), job)
        while (job := Job(self._connection.json("GET", base, params={"wait": 20}))).state not in _FINAL:
            pass
        if job.state != "done":
            found = job.facts["error"] or {"detail": f"The job is {job.state}.", "code": "E-SERVE-STATE"}
            raise ServiceError(found["detail"], code=found["code"], hint=found.get("hint", ""))
        return self._connection.json("GET", f"{base}/result")

    def review(self, job_id: str, verdict: str, comment: str = "") -> None:
        """Stores a review: `accept`, `reject` or `unsure`."""
        body = {"verdict": verdict, "comment": comment}
        self._connection.json("PUT", f"/api/v1/predictions/{quote(job_id, safe='')}/review", json=body)

    def delete(self, job_id: str) -> None:
        """Stops and erases a prediction."""
        self._connection.send("DELETE", f"/api/v1/predictions/{quote(job_id, safe='')}")

    def trainings(self) -> list[Training]:
        """Returns the trainings that the service watches, without curves, those changed last first."""
        return [Training(facts) for facts in self._connection.json("GET", "/api/v1/trainings")["trainings"]]

    def training(self, training_id: str, *, after: int = 0) -> Training:
        """Returns a training with its curves, or only with the epochs after `after`."""
        path = f"/api/v1/trainings/{quote(training_id, safe='')}"
        return Training(self._connection.json("GET", path, params={"after": after}))

    def save_samples(self, training_id: str, path: Path | str) -> Path:
        """Writes a PNG of held-out patches as the network segmented them after its newest epoch.

        Returns:
            The path.

        Raises:
            ServiceError: There is no such training, or it has no picture yet.
        """
        return self.download(f"/api/v1/trainings/{quote(training_id, safe='')}/samples.png", Path(path))

    def stop_training(self, training_id: str) -> Training:
        """Asks a training to end as Ctrl-C does: its step is saved, and the same command continues it.

        Raises:
            ServiceError: The server does not allow it, or the training is not running or out of its reach.
        """
        return Training(self._connection.json("DELETE", f"/api/v1/trainings/{quote(training_id, safe='')}"))

    def download(self, path: str, target: Path) -> Path:
        """Writes what a path of the API gives to a file, whole or not at all. Returns the file's path."""
        return self._connection.download(path, target)
