"""A job as the API tells it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from scanseg.server.jobs import Job, Slot


def job_document(
    job: Job, *, progress: dict[str, Any] | None, position: int | None, eta_s: float | None
) -> dict[str, Any]:
    """Returns the document of a job; its form is in README.md of this folder.

    Args:
        progress: Stage, done, total, fraction and eta_s of one that runs.
        position: Of one that is queued.
        eta_s: Seconds until it is finished, as far as that is known.
    """
    base = f"/api/v1/{job.kind}s/{job.id}"
    return {
        "id": job.id,
        "seq": job.seq,
        "kind": job.kind,
        "model": job.model,
        "state": job.state,
        "name": job.name,
        "created": stamp(job.created_s),
        "started": stamp(job.started_s),
        "finished": stamp(job.finished_s),
        "expires": stamp(job.expires_s if job.is_final else None),
        "options": job.options,
        "inputs": [_input(job, slot, base) for slot in job.slots],
        "progress": progress,
        "position": position,
        "eta_s": eta_s,
        "tries": job.tries,
        "error": job.error,
        "review": job.review,
        "links": _links(job, base),
    }


def _input(job: Job, slot: Slot, base: str) -> dict[str, Any]:
    there = job.inputs.get(slot.slot)
    return {
        "slot": slot.slot,
        "name": slot.name,
        "received": there is not None,
        "bytes": None if there is None else there.bytes,
        "sha256": None if there is None else there.sha256,
        "href": f"{base}/inputs/{slot.slot}",
    }


def _links(job: Job, base: str) -> dict[str, str]:
    links = {"self": base, "events": f"{base}/events"}
    if job.state == "done":
        links["result"] = f"{base}/result"
        if job.kind == "prediction":
            links |= {
                "mask": f"{base}/mask",
                "image": f"{base}/image",
                "preview": f"{base}/preview.png",
                "report": f"{base}/report.html",
                "report_pdf": f"{base}/report.pdf",
                "zip": f"{base}/all.zip",
                "snippets": f"{base}/snippets",
                "review": f"{base}/review",
            }
    return links


def stamp(seconds: float | None) -> str | None:
    """Returns a time as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
