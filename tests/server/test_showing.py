"""A job as the API tells it, state by state."""

from dataclasses import replace

import pytest

from scanseg.server.job import Job, Received, Slot
from scanseg.server.showing import job_document, stamp

JOB = Job(
    seq=1, id="p_1", kind="prediction", model="m", owner="secret", state="waiting", name="a.nii", options={},
    slots=(Slot("0", "a.nii", ".nii"), Slot("1", "b.nii", ".nii")), created_s=0.0, started_s=None,
    finished_s=None, expires_s=86400.0, tries=0, error=None, review=None, request="hash",
    inputs={"0": Received(3, "ab")},
)  # fmt: skip


@pytest.mark.parametrize("state", ["waiting", "queued", "running", "done", "failed", "cancelled"])
def test_links_and_times_follow_the_state(state) -> None:
    found = job_document(replace(JOB, state=state), progress=None, position=None, eta_s=None)
    assert ("result" in found["links"]) == ("mask" in found["links"]) == (state == "done")
    assert (found["expires"] is not None) == (state in ("done", "failed", "cancelled"))
    assert found["created"] == "1970-01-01T00:00:00Z"
    assert [one["received"] for one in found["inputs"]] == [True, False]
    assert "secret" not in str(found)
    assert "hash" not in str(found)


def test_an_evaluation_has_no_mask() -> None:
    job = replace(JOB, id="e_1", kind="evaluation", state="done")
    links = job_document(job, progress=None, position=None, eta_s=None)["links"]
    assert set(links) == {"self", "events", "result"}
    assert links["result"] == "/api/v1/evaluations/e_1/result"


def test_stamps() -> None:
    assert stamp(None) is None
    assert stamp(1_700_000_000.9) == "2023-11-14T22:13:20Z"
