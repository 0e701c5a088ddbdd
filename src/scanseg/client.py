"""A typed client of the service. It needs httpx only, no torch.

from scanseg.client import Client

with Client("http://127.0.0.1:8000") as client:
    result = client.predict("mri.nii.gz", model="heart")
    result.save_mask("mask.nii.gz")
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from scanseg.errors import Error, UsageError
from scanseg.files import written_aside
from scanseg.optional import require

if TYPE_CHECKING:
    import httpx

__all__ = ["Client", "Job", "Result", "ServiceError", "Training"]

_CHUNK = 1 << 20
_FINAL = ("done", "failed", "cancelled")


class ServiceError(Error):
    """The service refused something.

    Attributes:
        status: HTTP status; 0 if there was no answer.
    """

    def __init__(self, message: str, *, code: str, hint: str = "", status: int = 0) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status


@dataclass(frozen=True)
class Job:
    """A prediction or evaluation as the service tells it.

    Attributes:
        facts: The whole answer.
    """

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.facts["id"])

    @property
    def state(self) -> str:
        """`waiting`, `queued`, `running`, `done`, `failed` or `cancelled`."""
        return str(self.facts["state"])

    @property
    def progress(self) -> float | None:
        """Part of the current stage that is done."""
        found = self.facts.get("progress")
        return None if found is None else float(found["fraction"])


@dataclass(frozen=True)
class Training:
    """A training that the service watches.

    Attributes:
        facts: The whole answer.
    """

    facts: dict[str, Any]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.facts["id"])

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return str(self.facts["name"])

    @property
    def state(self) -> str:
        """`waiting`, `running`, `finished`, `stopped` or `failed`."""
        return str(self.facts["state"])

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return int(self.facts["epoch"])

    @property
    def eta_s(self) -> float | None:
        """Seconds that it will still take; None while unknown and unless it is running."""
        found = self.facts["eta_s"]
        return None if found is None else float(found)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most memory that it has used; None while that is not known."""
        found = self.facts["memory"]
        return None if found is None else int(found["peak_bytes"])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record an epoch, as in metrics.jsonl; empty in lists, which carry no curves."""
        return list(self.facts.get("metrics", []))


@dataclass(frozen=True)
class Result:
    """The findings of a prediction, and its files.

    Attributes:
        facts: The whole document.
    """

    facts: dict[str, Any]
    _client: Client = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """Id of the prediction."""
        return str(self.facts["id"])

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Size, pieces, place and certainty of each label."""
        return list(self.facts["labels"])

    @property
    def insights(self) -> list[str]:
        """Sentences about the mask."""
        return [str(entry["text"]) for entry in self.facts["insights"]]

    @property
    def next_steps(self) -> list[str]:
        """Sentences about what to do next, most urgent first."""
        return [str(entry["text"]) for entry in self.facts["next_steps"]]

    @property
    def disclaimer(self) -> str:
        """What the result must not be used for."""
        return str(self.facts["disclaimer"])

    def save_mask(self, path: Path | str, *, format: str | None = None) -> Path:
        """Writes the mask; without an ending in `path` that of the input is added. Returns the path."""
        target = Path(path)
        known = self._client.version()["mask_formats"]
        ending = next((one for one in known if target.name.lower().endswith(f".{one}")), None)
        wanted = format or ending
        if wanted is None:
            wanted = str(self.facts["files"]["mask"]["name"]).partition(".")[2]
        if ending is None:
            target = target.with_name(f"{target.name}.{wanted}")
        return self._client.download(f"/api/v1/predictions/{self.id}/mask?format={wanted}", target)

    def save_report(self, path: Path | str) -> Path:
        """Writes the report, one HTML file, or a PDF where the path ends with .pdf. Returns the path."""
        ending = "pdf" if Path(path).suffix.lower() == ".pdf" else "html"
        return self._client.download(f"/api/v1/predictions/{self.id}/report.{ending}", Path(path))

    def save_all(self, path: Path | str) -> Path:
        """Writes a zip archive of everything. Returns the path."""
        return self._client.download(f"/api/v1/predictions/{self.id}/all.zip", Path(path))

    def save_file(self, name: str, path: Path | str) -> Path:
        """Writes a file: `uncertainty`, `probabilities/1`, `preview.png`, `mesh/1`, `slice/axial/20.png`.

        Returns:
            The path.
        """
        return self._client.download(f"/api/v1/predictions/{self.id}/{name}", Path(path))

    def erase(self) -> None:
        """Erases the prediction and all its files on the server."""
        self._client.delete(self.id)


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
        library = require("httpx", extra="serve", purpose="The client")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # No proxies or .netrc from the environment: images go where the caller said, and nowhere else.
        self._http: httpx.Client = library.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, trust_env=False
        )
        self._broken: type[Exception] = library.HTTPError

    def __enter__(self) -> Self:
        """Returns the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def version(self) -> dict[str, Any]:
        """Returns what runs there, and within which limits."""
        return self._json("GET", "/api/v1/version")

    def models(self) -> list[dict[str, Any]]:
        """Returns the models that are served."""
        return list(self._json("GET", "/api/v1/models")["models"])

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
        job = Job(self._json("POST", "/api/v1/predictions", json=order, headers=head))
        for slot, path in enumerate(paths):
            job = self._upload(f"/api/v1/predictions/{job.id}", str(slot), path, job)
        return job

    def _upload(self, base: str, slot: str, path: Path, job: Job) -> Job:
        """Sends a file; after a broken connection asks whether it arrived and sends it again if not."""
        for attempt in range(3):
            try:
                length = {"Content-Length": str(path.stat().st_size)}
                answer = self._json("PUT", f"{base}/inputs/{slot}", content=_chunks(path), headers=length)
                return Job(answer)
            except ServiceError as error:
                if error.status != 0 or attempt == 2:
                    raise
                time.sleep(0.5 * (attempt + 1))
                job = Job(self._json("GET", base))
                if any(one["slot"] == slot and one["received"] for one in job.facts["inputs"]):
                    return job
        return job

    def job(self, job_id: str) -> Job:
        """Returns the state of a prediction."""
        return Job(self._json("GET", f"/api/v1/predictions/{quote(job_id, safe='')}"))

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
            job = Job(self._json("GET", path, params={"wait": max(0.0, step_s)}))
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
        return Result(self._json("GET", f"/api/v1/predictions/{quote(job_id, safe='')}/result"), self)

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
        job = Job(self._json("POST", "/api/v1/evaluations", json=order))
        base = f"/api/v1/evaluations/{job.id}"
        if mask is not None:
            self._upload(base, "mask", Path(mask), job)
        self._upload(base, "reference", Path(reference), job)
        while (job := Job(self._json("GET", base, params={"wait": 20}))).state not in _FINAL:
            pass
        if job.state != "done":
            found = job.facts["error"] or {"detail": f"The job is {job.state}.", "code": "E-SERVE-STATE"}
            raise ServiceError(found["detail"], code=found["code"], hint=found.get("hint", ""))
        return self._json("GET", f"{base}/result")

    def review(self, job_id: str, verdict: str, comment: str = "") -> None:
        """Stores a review: `accept`, `reject` or `unsure`."""
        body = {"verdict": verdict, "comment": comment}
        self._json("PUT", f"/api/v1/predictions/{quote(job_id, safe='')}/review", json=body)

    def delete(self, job_id: str) -> None:
        """Stops and erases a prediction."""
        self._check(self._send("DELETE", f"/api/v1/predictions/{quote(job_id, safe='')}"))

    def trainings(self) -> list[Training]:
        """Returns the trainings that the service watches, without curves, those changed last first."""
        return [Training(facts) for facts in self._json("GET", "/api/v1/trainings")["trainings"]]

    def training(self, training_id: str, *, after: int = 0) -> Training:
        """Returns a training with its curves, or only with the epochs after `after`."""
        path = f"/api/v1/trainings/{quote(training_id, safe='')}"
        return Training(self._json("GET", path, params={"after": after}))

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
        return Training(self._json("DELETE", f"/api/v1/trainings/{quote(training_id, safe='')}"))

    def download(self, path: str, target: Path) -> Path:
        """Writes what a path of the API gives to a file, whole or not at all. Returns the file's path."""
        try:
            with self._http.stream("GET", path) as answer:
                if answer.status_code >= 400:
                    answer.read()
                self._check(answer)
                with written_aside(target) as temporary, open(temporary, "wb") as stream:
                    for chunk in answer.iter_bytes(_CHUNK):
                        stream.write(chunk)
        except self._broken as error:
            raise _unreachable(error) from error
        return target

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self._send(method, path, **more)
        self._check(answer)
        found: dict[str, Any] = answer.json()
        return found

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except self._broken as error:
            raise _unreachable(error) from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code < 400:
            return
        try:
            found = answer.json()
        except ValueError:
            found = {}
        raise ServiceError(
            str(found.get("detail") or f"The service answered {answer.status_code}."),
            code=str(found.get("code") or "E-CLIENT-HTTP"),
            hint=str(found.get("hint") or ""),
            status=answer.status_code,
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _unreachable(error: Exception) -> ServiceError:
    return ServiceError(
        f"The service cannot be reached ({type(error).__name__}).",
        code="E-CLIENT-UNREACHABLE",
        hint="Check the address, and that `scanseg serve` runs there.",
    )
