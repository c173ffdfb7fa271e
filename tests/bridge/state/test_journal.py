"""The journal: what was noted is there, in order, once, whatever the disk and the process went through."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from bridge.errors import Unavailable
from bridge.model import Instance, Port, ServiceName
from bridge.state.journal import Journal
from bridge.state.record import Loss
from bridge.state.segments import Limits, last_number, note, read, segments
from tests.kit.disks import fill, remount, tiny


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


ONE = Instance("a", "192.0.2.1", (Port(80),))


async def written(folder: Path, *kinds: str) -> Journal:
    journal = Journal(folder)
    for kind in kinds:
        journal.append(kind)
    await journal.writing.flush()
    return journal


async def test_a_record_comes_back_as_it_was_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path, Clock(1234.5))
    journal.append(
        "remove",
        link="l",
        service=ServiceName("pay", "ns"),
        instance="a",
        cause="event",
        scope=("id", "west"),
        serving=(3, 2),
        by="uid=0",
        reason="why",
        before=ONE,
    )
    await journal.writing.flush()
    (record,) = read(tmp_path)
    assert (record.at, record.seq, record.kind, record.link) == (1234.5, 1, "remove", "l")
    assert (record.service, record.instance, record.cause) == ("ns:pay", "a", "event")
    assert (record.scope, record.serving, record.by, record.reason) == (("id", "west"), (3, 2), "uid=0", "why")
    assert (record.before, record.after) == (ONE, None)
    assert journal.last_removals() == [record]
    assert Journal(tmp_path).last_removals() == [record]


async def test_records_are_found_by_time_service_and_link(tmp_path: Path) -> None:
    clock = Clock(time.time() - 100)
    journal = Journal(tmp_path, clock)
    journal.append("add", link="l", service="pay")
    clock.now += 100
    journal.append("update", link="m", service="pay")
    journal.append("add", link="m", service="ns:web")
    await journal.writing.flush()
    assert [record.kind for record in read(tmp_path, service="pay")] == ["add", "update"]
    assert [record.service for record in read(tmp_path, link="m")] == ["pay", "ns:web"]
    assert [record.seq for record in read(tmp_path, since=clock.now)] == [2, 3]
    assert list(read(tmp_path, since=clock.now + 1e9)) == []


async def test_the_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    await written(tmp_path, "start", "stop")
    note(tmp_path, "freeze", link="l", by="uid=1", reason="r")
    await written(tmp_path, "start")
    assert [(record.seq, record.kind) for record in read(tmp_path)] == [
        (1, "start"),
        (2, "stop"),
        (3, "freeze"),
        (4, "start"),
    ]
    assert [path.stat().st_mode & 0o777 for path in segments(tmp_path)] == [0o600]


async def test_a_command_may_note_beside_a_running_daemon(tmp_path: Path) -> None:
    journal = await written(tmp_path, "start")
    for turn in range(20):
        note(tmp_path, "freeze", link=f"l{turn}")
        journal.append("add", service=f"s{turn}")
        await journal.writing.flush()
    found = list(read(tmp_path))
    assert [record.link for record in found if record.kind == "freeze"] == [f"l{turn}" for turn in range(20)]
    assert [record.service for record in found if record.kind == "add"] == [f"s{turn}" for turn in range(20)]
    assert [record.seq for record in found] == list(range(1, 42))


async def test_a_journal_torn_at_any_byte_loses_that_line_alone(tmp_path: Path) -> None:
    await written(tmp_path, "start", "config", "stop")
    (path,) = segments(tmp_path)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == 10]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        journal = Journal(tmp_path)
        journal.append("start", reason="after")
        await journal.writing.flush()
        if size % 2:
            note(tmp_path, "freeze")
        whole = sum(size >= end - 1 for end in ends)
        kinds = [record.kind for record in read(tmp_path)]
        assert kinds == ["start", "config", "stop"][:whole] + ["start"] + ["freeze"] * (size % 2), size
        path.write_bytes(content[:size])
        note(tmp_path, "freeze")
        assert [record.kind for record in read(tmp_path)] == [*["start", "config", "stop"][:whole], "freeze"]


async def test_full_files_are_followed_by_the_next_and_the_oldest_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path, limits=Limits(1500), segment=500)
    for _ in range(100):
        journal.append("add", service="pay", after=ONE)
        await journal.writing.flush()
    assert len(segments(tmp_path)) == 3
    numbers = [record.seq for record in read(tmp_path)]
    assert numbers == list(range(numbers[0], 101))
    assert last_number(segments(tmp_path)) == 100
    assert journal.lacks == 0.0


async def test_what_had_to_go_before_its_time_is_known_also_after_a_restart(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    journal = Journal(tmp_path, clock, Limits(1500, keep=86_400.0), segment=500)
    for _ in range(50):
        journal.append("add", service="pay", after=ONE)
        clock.now += 60.0
        await journal.writing.flush()
    first = next(read(tmp_path))
    assert first.seq > 1
    assert journal.lacks == pytest.approx(first.at - (clock.now - 86_400.0))
    again = Journal(tmp_path, clock, Limits(1500, keep=86_400.0))
    assert again.lacks == journal.lacks
    again.limit(Limits(1500))
    assert again.lacks == 0.0
    clock.now += 2 * 86_400.0
    assert journal.lacks == 0.0


async def test_what_is_older_than_it_is_to_be_goes_with_the_next_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, limits=Limits(10_000, keep=86_400.0), segment=500)
    while len(segments(tmp_path)) < 4:
        journal.append("add", service="pay", after=ONE)
        await journal.writing.flush()
    old, *rest = segments(tmp_path)
    os.utime(old, (1000.0, 1000.0))
    while len(segments(tmp_path)) == 4 and old.exists():
        journal.append("add", service="pay", after=ONE)
        await journal.writing.flush()
    assert segments(tmp_path)[:3] == rest


def test_a_command_that_adds_a_line_removes_none(tmp_path: Path) -> None:
    for _ in range(30):
        note(tmp_path, "purge", reason="x" * 50, segment=100)
    assert [record.seq for record in read(tmp_path)] == [*range(1, 31)]
    assert len(segments(tmp_path)) > 3


async def test_a_full_disk_loses_no_record_while_there_is_room_and_doubles_none(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        clock = Clock(1000.0)
        journal = Journal(disk, clock)
        journal.append("start")
        await journal.writing.flush()
        ballast = fill(disk)
        for turn in range(500):
            journal.append("add", service=f"s{turn}", after=ONE)
        clock.now = 2000.0
        await journal.writing.flush()
        assert journal.writing.fault is not None
        assert (journal.writing.fault.since, journal.writing.fault.reason) == (2000.0, "No space left on device")
        torn = (disk / segments(disk)[0].name).read_bytes()
        assert not torn.endswith(b"\n")
        journal.append("add", service="s500")
        ballast.unlink()
        clock.now += 5
        await journal.writing.flush()
        assert journal.writing.fault is None
        assert [record.seq for record in read(disk)] == list(range(1, 503))
        assert [record.service for record in read(disk)][1:] == [f"s{turn}" for turn in range(501)]
        assert journal.dropped == 0


async def test_what_finds_no_room_is_counted_and_the_gap_is_noted(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        clock = Clock(1000.0)
        journal = Journal(disk, clock, room=10)
        journal.append("start")
        await journal.writing.flush()
        remount(disk, "ro")
        for _ in range(15):
            journal.append("add")
        await journal.writing.flush()
        assert journal.writing.fault is not None
        assert journal.writing.fault.reason.startswith("Read-only file system")
        assert journal.dropped == 5
        remount(disk, "rw")
        clock.now += 5
        await journal.writing.flush()
        await journal.writing.flush()
        last = list(read(disk))[-1]
        assert (last.kind, last.seq) == ("gap", 12)
        assert last.reason.startswith("5 records")


async def test_a_restart_on_a_read_only_disk_runs(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        await written(disk, "start")
        remount(disk, "ro")
        journal = await written(disk, "start")
        assert journal.writing.fault is not None
        with pytest.raises(Unavailable, match="Read-only"):
            note(disk, "freeze")


async def test_what_was_lost_lately_is_told_to_the_next_guard(tmp_path: Path) -> None:
    clock = Clock(time.time() - 7200)
    journal = Journal(tmp_path, clock)
    journal.append("remove", link="l", service="old", serving=(2, 1))
    clock.now += 7100
    name = ServiceName("pay", "ns")
    journal.append("remove", link="l", service=name, scope=("id", "w"), serving=(5, 4), before=ONE)
    journal.append("update", link="l", service=name, scope=("id", "w"), serving=(4, 4), before=ONE, after=ONE)
    journal.append("add", link="l", service=name, scope=("id", "w"), serving=(4, 5), after=ONE)
    journal.append("remove", link="l", service=name, cause="replaced", scope=("id", "w"), serving=(6, 5), before=ONE)
    await journal.writing.flush()
    lately = [
        Loss(clock.now, "l", name, ("id", "w"), (5, 4)),
        Loss(clock.now, "l", name, ("id", "w"), (4, 5)),
        Loss(clock.now, "l", name, ("id", "w"), (6, 5), replaces=True),
    ]
    assert Journal(tmp_path).recent_losses(3600.0) == lately
    old = Loss(clock.now - 7100, "l", ServiceName("old"), ("", ""), (2, 1))
    assert Journal(tmp_path).recent_losses(10_000.0) == [old, *lately]


async def test_what_waits_is_written_when_the_daemon_stops(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    running = asyncio.create_task(journal.writing.run())
    await asyncio.sleep(0)
    journal.append("stop")
    running.cancel()
    await asyncio.wait((running,))
    assert [record.kind for record in read(tmp_path)] == ["stop"]


async def test_without_a_folder_only_the_last_removals_are_remembered() -> None:
    journal = Journal(None)
    for turn in range(200):
        journal.append("remove", service=f"s{turn}")
    await journal.writing.flush()
    assert [record.service for record in journal.last_removals()] == [f"s{turn}" for turn in range(190, 200)]
    assert journal.recent_losses(3600.0) == []


async def test_lines_of_several_processes_have_one_sequence(tmp_path: Path) -> None:
    journals = [Journal(tmp_path) for _ in range(3)]

    async def write(number: int) -> None:
        for turn in range(30):
            journals[number].append("add", service=f"{number}-{turn}")
            await journals[number].writing.flush()
            if turn % 3 == 0:
                await asyncio.to_thread(note, tmp_path, "freeze", link=f"{number}-{turn}")

    await asyncio.gather(*(write(number) for number in range(3)))
    found = list(read(tmp_path))
    assert [record.seq for record in found] == list(range(1, 121))
    for number in range(3):
        mine = [record.service for record in found if record.service.startswith(f"{number}-")]
        assert mine == [f"{number}-{turn}" for turn in range(30)]
