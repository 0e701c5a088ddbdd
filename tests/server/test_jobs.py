"""The job store: what is committed stays, what a worker loses comes back."""

import sqlite3
import time
from pathlib import Path

import pytest

from scanseg.errors import DataError
from scanseg.server.jobs import Received, Slot, Store, new_id

ERROR = {"code": "E-SERVE-CRASHED"}
SLOT = Slot("0", "a.nii.gz", ".nii.gz")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "jobs.sqlite3")


def make(store: Store, *, owner: str = "me", model: str = "m", queued: bool = True, **more):
    received = {"0": Received(3, "ab")} if queued else {}
    return store.create(
        job_id=new_id("prediction"), kind="prediction", model=model, owner=owner, name="a",
        options={"tta": True},
        slots=[SLOT], expires_s=time.time() + 60, received=received, **more,
    )  # fmt: skip


def test_a_job_survives_reopening(store, tmp_path) -> None:
    job = make(store)
    again = Store(tmp_path / "jobs.sqlite3").get(job.id)
    assert again == job
    assert (again.state, again.options, again.slots, again.inputs["0"].bytes) == (
        "queued", {"tta": True}, (SLOT,), 3,
    )  # fmt: skip


def test_every_commit_is_synced(store) -> None:
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_the_last_input_queues(store) -> None:
    job = make(store, queued=False)
    assert job.state == "waiting"
    assert store.receive(job.id, "0", Received(1, "x")).state == "queued"
    assert store.receive(job.id, "0", Received(1, "x")) is None


def test_claims_are_in_order_and_exclusive(store) -> None:
    first, second, other = make(store), make(store), make(store, model="n")
    assert store.position(second) == 2
    assert store.claim("m", "w1").id == first.id
    assert store.claim("m", "w2").id == second.id
    assert store.claim("m", "w3") is None
    assert store.claim("n", "w4").id == other.id


def test_only_the_holder_finishes(store) -> None:
    job = make(store)
    store.claim("m", "w1")
    assert not store.finish(job.id, "w2", "done", ttl_s=1)
    assert store.finish(job.id, "w1", "done", ttl_s=1)
    assert not store.finish(job.id, "w1", "failed", ttl_s=1)
    assert store.get(job.id).state == "done"


def test_two_dead_workers_are_enough(store) -> None:
    job = make(store)
    for _ in range(2):
        assert store.claim("m", "w").id == job.id
        store.recover("m", tries=2, error=ERROR, ttl_s=60)
    found = store.get(job.id)
    assert (found.state, found.error, found.tries) == ("failed", ERROR, 2)


def test_starts_that_end_with_the_server_do_not_count_for_a_while(store) -> None:
    job = make(store)
    for _ in range(3):
        assert store.claim("m", "w").id == job.id
        store.recover("m", tries=2, error=ERROR, ttl_s=60, returns=3)
        assert (store.get(job.id).state, store.get(job.id).tries) == ("queued", 0)
    for _ in range(2):
        assert store.claim("m", "w").id == job.id
        store.recover("m", tries=2, error=ERROR, ttl_s=60, returns=3)
    assert (store.get(job.id).state, store.get(job.id).tries) == ("failed", 2)


def test_one_dead_worker_and_dead_servers_are_not_two_dead_workers(store) -> None:
    job = make(store)
    store.claim("m", "w")
    store.recover("m", tries=2, error=ERROR, ttl_s=60)
    for _ in range(3):
        store.claim("m", "w")
        store.recover("m", tries=2, error=ERROR, ttl_s=60, returns=5)
    assert (store.get(job.id).state, store.get(job.id).tries) == ("queued", 1)


def test_a_sound_worker_gives_back_without_a_try(store) -> None:
    job = make(store)
    for _ in range(5):
        assert store.claim("m", "w").id == job.id
        store.release("w")
    assert (store.get(job.id).state, store.get(job.id).tries) == ("queued", 0)


def test_a_cancelled_or_deleted_job_is_lost_to_its_worker(store) -> None:
    for end in (lambda job: store.cancel(job.id, ttl_s=1), lambda job: store.delete(job.id)):
        job = make(store)
        store.claim("m", "w")
        assert store.beat(job.id, "w")
        end(job)
        assert not store.beat(job.id, "w")
        assert not store.finish(job.id, "w", "done", ttl_s=1)


def test_owners_are_apart(store) -> None:
    mine, yours = make(store), make(store, owner="you")
    assert store.get(yours.id, "me") is None
    assert [job.id for job in store.page("me", kind="prediction", limit=9)] == [mine.id]
    assert (store.open_jobs("me"), store.stored_bytes("you")) == (1, 3)


def test_keys_belong_to_an_owner(store) -> None:
    first = make(store, key="k", request="r")
    assert make(store, key="k", request="r").id == first.id
    assert make(store, key="k", owner="you").id != first.id
    assert store.by_key("me", "k").id == first.id


def test_expiry(store) -> None:
    finished, waiting, queued = make(store), make(store, queued=False), make(store)
    store.claim("m", "w")
    store.finish(finished.id, "w", "done", ttl_s=-1)
    assert store.expired(time.time(), waiting_s=100) == [finished.id]
    assert set(store.expired(time.time() + 200, waiting_s=100)) == {finished.id, waiting.id}
    assert queued.state == "queued"


def test_deleted_text_is_overwritten(store, tmp_path) -> None:
    job = store.create(
        job_id=new_id("prediction"), kind="prediction", model="m", owner="me", name="SECRET-NAME", options={},
        slots=[SLOT], expires_s=0,
    )  # fmt: skip
    store.review(job.id, {"verdict": "reject", "comment": "SECRET-COMMENT"})
    store.delete(job.id)
    for path in tmp_path.iterdir():
        assert b"SECRET" not in path.read_bytes(), path.name


def test_reviews_outlive_the_time_of_a_job_but_not_its_deletion(store) -> None:
    kept, erased = make(store), make(store, owner="you")
    for job in (kept, erased):
        for verdict in ("unsure", "accept"):
            store.review(job.id, {"verdict": verdict})
    store.delete(kept.id, keep_review=True)
    store.delete(erased.id)
    assert store.reviews(None) == store.reviews("me") == [(kept.id, "m", {"verdict": "accept"})]
    assert store.reviews("you") == []


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_store_is_refused(tmp_path, content) -> None:
    path = tmp_path / "jobs.sqlite3"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Store(path).check()
    assert caught.value.code == "E-SERVE-STORE"


def test_a_store_of_version_1_is_brought_up(store, tmp_path) -> None:
    """As the previous release left it."""
    job = make(store)
    store._db.execute("ALTER TABLE jobs DROP COLUMN returns")
    store._db.execute("PRAGMA user_version=1")
    store.close()
    again = Store(tmp_path / "jobs.sqlite3")
    assert again.get(job.id) == job
    assert again.claim("m", "w").id == job.id
    again.recover("m", tries=2, error=ERROR, ttl_s=60, returns=1)
    assert Store(tmp_path / "jobs.sqlite3").get(job.id).tries == 0


def test_another_version_is_refused(tmp_path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite3") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(DataError, match="version 99"):
        Store(tmp_path / "jobs.sqlite3")
