"""A journal that is followed: every line once, over its files, and what was dropped before it was read is named."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridge.state import segments
from bridge.state.follow import CHUNK, Follower
from bridge.state.record import Record
from bridge.state.segments import SEGMENT, TAIL, Appender


def write(folder: Path, *reasons: str, segment: int = SEGMENT) -> None:
    folder.mkdir(exist_ok=True)
    lines = [msgspec.json.encode(Record(at=1.0, kind="add", reason=reason)) for reason in reasons]
    assert Appender(folder, segment=segment).append(lines).error is None


def read(follower: Follower) -> list[str]:
    found = []
    while some := follower.take().records:
        found += [one.reason for one in some]
    return found


def test_every_line_is_taken_once_over_all_files(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "journal", 0)
    assert follower.take().records == []
    write(tmp_path / "journal", "a", "b")
    assert read(follower) == ["a", "b"]
    for reason in "cdefgh":
        write(tmp_path / "journal", reason * 30, segment=200)
    assert len(segments.segments(tmp_path / "journal")) > 1
    assert read(follower) == [reason * 30 for reason in "cdefgh"]
    assert read(Follower(tmp_path / "journal", 6)) == ["g" * 30, "h" * 30]


def test_half_a_line_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "journal", "a")
    follower = Follower(tmp_path / "journal", 0)
    assert read(follower) == ["a"]
    (path,) = segments.segments(tmp_path / "journal")
    line = b'{"seq":2,"at":1.0,"kind":"add","reason":"b"}\n'
    with path.open("ab") as file:
        file.write(line[:20])
    assert read(follower) == []
    with path.open("ab") as file:
        file.write(line[20:])
    assert read(follower) == ["b"]


def test_a_line_that_is_longer_than_what_is_read_at_once_is_taken(tmp_path: Path) -> None:
    long = "b" * (2 * max(CHUNK, TAIL))
    for reason in ("a", long, "c"):
        write(tmp_path / "journal", reason)  # a new process each time: it counts on from the last line
    follower = Follower(tmp_path / "journal", 0)
    assert read(follower) == ["a", long, "c"]
    assert follower.after == 3


def test_what_was_dropped_before_it_was_taken_is_named(tmp_path: Path) -> None:
    for reason in "abcd":
        write(tmp_path / "journal", reason * 30, segment=50)
    follower = Follower(tmp_path / "journal", 1)
    for path in segments.segments(tmp_path / "journal")[:3]:
        path.unlink()
    taken = follower.take()
    assert taken.missing == (2, 3)
    assert [one.reason for one in taken.records] == ["d" * 30]
