"""Whether an old side is left, by what was watched at its machines."""

from __future__ import annotations

import pytest

from bridge.migration.quiet import GAP, Listening, Quiet, Watch, both, looked, quiet

HERE = ("192.0.2.1", 80)
THERE = ("192.0.2.2", 80)
NOW = 100_000.0


def seen(*watched: Watch, at: float = NOW, ignored: tuple[str, ...] = ()) -> Listening:
    return Listening(of="pay from", host="vm-1", at=at, watched=watched, ignored=ignored)


def watch(since: float, last: float | None = None, at: tuple[str, int] = HERE) -> Watch:
    return Watch(address=at[0], port=at[1], since=since, last=last, peers=("10.0.0.9",) if last is not None else ())


def judged(*reports: Listening, old: tuple[tuple[str, int], ...] = (HERE,), since: float = 0.0) -> Quiet:
    return quiet(old, reports, for_=3600.0, since=since, now=NOW)


# What was reported, and what it says of an hour.
REPORTS = {
    "an hour without a connection": ((seen(watch(NOW - 3600)),), True, ""),
    "the last one an hour ago": ((seen(watch(NOW - 9000, NOW - 3600)),), True, ""),
    "one look": ((seen(watch(NOW)),), None, "watched for 3600 s more"),
    "a connection since": ((seen(watch(NOW - 9000, NOW - 60)),), False, "192.0.2.1:80 had a connection from 10.0.0.9"),
    "nobody looked": ((), None, "nobody looked at 192.0.2.1:80 within a day"),
    "of the day before": ((seen(watch(0.0), at=NOW - 86_401),), None, "nobody looked"),
    "a newer one takes its place": ((seen(watch(NOW, NOW)), seen(watch(0.0), at=NOW - 60)), False, "had a connection"),
}


@pytest.mark.parametrize("reported", REPORTS)
def test_a_side_is_quiet_where_its_machines_were_watched_for_long_enough(reported: str) -> None:
    reports, is_quiet, why = REPORTS[reported]
    found = judged(*reports)
    assert found.quiet is is_quiet and why in found.why


def test_every_machine_of_the_side_counts() -> None:
    first, second = seen(watch(0.0)), seen(watch(0.0, NOW, THERE))
    assert judged(first, old=(HERE, THERE)) == Quiet(
        None, "nobody looked at 192.0.2.2:80 within a day: `isthmus probe --listening` there"
    )
    assert judged(first, second, old=(HERE, THERE)).quiet is False
    assert judged(first, seen(watch(0.0, at=THERE)), old=(HERE, THERE)).quiet is True
    assert judged(first, old=()).quiet is None


def test_what_was_seen_before_the_side_was_left_says_nothing() -> None:
    found = judged(seen(watch(0.0)), since=NOW + 1)
    assert found.quiet is None and "192.0.2.1:80 was looked at before the old side was left" in found.why
    assert judged(seen(watch(0.0)), since=NOW).quiet is True


def test_a_watch_goes_on_where_there_was_no_gap() -> None:
    before = seen(watch(1000.0, 1500.0), at=2000.0)
    fresh = seen(watch(2000.0 + GAP), at=2000.0 + GAP)
    assert looked(before, fresh).watched == (watch(1000.0, 1500.0),)
    late = seen(watch(2001.0 + GAP), at=2001.0 + GAP)
    assert looked(before, late).watched == (watch(2001.0 + GAP, 1500.0),)
    blind = seen(watch(2001.0), at=2001.0, ignored=("10.*",))
    assert looked(before, blind).watched[0].since == 2001.0
    assert looked(None, fresh) == fresh
    back = seen(watch(2001.0, 2001.0), at=2001.0)
    assert looked(before, back).watched == (watch(1000.0, 2001.0),)


def test_what_sees_the_side_used_is_believed_first() -> None:
    used, left, unknown = Quiet(False, "used"), Quiet(True), Quiet(None, "unknown")
    assert both(left, used) is used and both(used, left) is used
    assert both(left, unknown) is left and both(unknown, left) is left
    assert both(Quiet(None, "nobody counts"), unknown) is unknown
