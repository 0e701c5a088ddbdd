"""The inbox: nothing acknowledged is lost, nothing names a patient, limits hold."""

from pathlib import Path

import pytest

from scanseg.dicomnet.inbox import Inbox, InboxFull
from scanseg.errors import DataError, UsageError
from scanseg.files import read_json

SERIES = ("1.2.840.1", "1.2.840.2")


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, clock: Clock | None = None, **limits: int) -> Inbox:
    options = {"most_files": 10, "most_bytes": 1000, "free_bytes": 0, **limits}
    return Inbox(folder, clock=clock or Clock(), **options)


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*"))]


def test_a_series_is_handed_over_when_it_is_quiet(tmp_path):
    clock = Clock()
    inbox = make(tmp_path, clock)
    for number in range(3):
        inbox.keep(SERIES, f"1.2.{number}", b"x" * 10, sender=1)
    clock.now = 100
    assert inbox.quiet(5) == []  # the association is still open
    inbox.released(1)
    assert inbox.quiet(5) == []
    clock.now = 106
    (name,) = inbox.quiet(5)
    inbox.hand_over(name)
    (received,) = inbox.ready()
    assert received.files == 3
    inbox.done(received)
    assert names(tmp_path) == [".lock", "failed", "incoming", "ready"]


def test_associations_and_series_do_not_mix(tmp_path):
    inbox = make(tmp_path)
    inbox.keep(SERIES, "1.1", b"a", sender=1)
    inbox.keep(SERIES, "1.2", b"b", sender=2)
    inbox.keep(("9", "9"), "1.3", b"c", sender=2)
    assert inbox.released(1) == []
    assert len(inbox.released(2)) == 2
    for name in inbox.quiet(0):
        inbox.hand_over(name)
    assert sorted(received.files for received in inbox.ready()) == [1, 2]


def test_what_was_kept_survives_a_restart(tmp_path):
    first = make(tmp_path)
    first.keep(SERIES, "1.1", b"a", sender=1)
    first.keep(("9", "9"), "1.2", b"b", sender=1)
    first.released(1)
    first.hand_over(first.quiet(0)[0])
    (tmp_path / "incoming" / names(tmp_path / "incoming")[0] / ".tmp-half").write_bytes(b"cut")
    first.close()
    again = make(tmp_path)
    assert len(list(again.ready())) == 1
    (name,) = again.quiet(0)
    again.hand_over(name)
    contents = {path.read_bytes() for received in again.ready() for path in received.folder.iterdir()}
    assert contents == {b"a", b"b"}


def test_the_same_instance_twice_is_one_file(tmp_path):
    inbox = make(tmp_path)
    inbox.keep(SERIES, "1.1", b"old", sender=1)
    inbox.keep(SERIES, "1.1", b"newer", sender=1)
    (path,) = (path for path in tmp_path.rglob("*.dcm"))
    assert path.read_bytes() == b"newer"


def test_limits_keep_nothing(tmp_path):
    inbox = make(tmp_path / "a", most_files=1)
    inbox.keep(SERIES, "1.1", b"a", sender=1)
    with pytest.raises(InboxFull):
        inbox.keep(SERIES, "1.2", b"b", sender=1)
    small = make(tmp_path / "b", most_bytes=5)
    small.keep(SERIES, "1.1", b"12345", sender=1)
    with pytest.raises(InboxFull):
        small.keep(SERIES, "1.2", b"6", sender=1)
    full = make(tmp_path / "c", free_bytes=1 << 62)
    with pytest.raises(InboxFull):
        full.keep(SERIES, "1.1", b"a", sender=1)
    assert len(list(tmp_path.rglob("*.dcm"))) == 2


def test_failures_are_kept_with_their_reason(tmp_path):
    inbox = make(tmp_path)
    for number, error in enumerate(
        (DataError("Bad.", code="E-X-Y", hint="Mend it."), ValueError("ZANZIBAR"))
    ):
        inbox.keep(SERIES, str(number), b"a", sender=1)
        inbox.released(1)
        inbox.hand_over(inbox.quiet(0)[0])
        (received,) = inbox.ready()
        inbox.failed(received, error)
        reason = read_json(tmp_path / "failed" / received.case_id / "error.json")
        assert reason["code"] == ("E-INTERNAL" if number else "E-X-Y")
        assert "ZANZIBAR" not in str(reason)
    assert not list(inbox.ready())


def test_names_on_disk_are_hashes(tmp_path):
    make(tmp_path).keep(("../../etc", "ZANZIBAR"), "../QUENTIN/..", b"a", sender=1)
    (path,) = tmp_path.rglob("*.dcm")
    assert tmp_path / "incoming" in path.parents
    assert not [part for part in ("ZANZIBAR", "QUENTIN", "etc") if part in str(path)]


def test_one_folder_one_receiver(tmp_path):
    first = make(tmp_path)
    with pytest.raises(UsageError, match="cannot be used"):
        make(tmp_path)
    first.close()
    make(tmp_path).close()
