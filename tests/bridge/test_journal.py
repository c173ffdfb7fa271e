"""The journal: what was noted is there, in order, once, whatever the disk and the process went through."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from bridge import journal as module
from bridge.errors import Unavailable
from bridge.journal import Journal, Loss, note, read, segments
from bridge.model import Instance, Port, ServiceName
from tests.bridge.disks import fill, remount, tiny


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
    await journal.flush()
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
    await journal.flush()
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
    await journal.flush()
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
        (0, "freeze"),
        (3, "start"),
    ]
    assert [path.stat().st_mode & 0o777 for path in segments(tmp_path)] == [0o600]


async def test_a_command_may_note_beside_a_running_daemon(tmp_path: Path) -> None:
    journal = await written(tmp_path, "start")
    for turn in range(20):
        note(tmp_path, "freeze", link=f"l{turn}")
        journal.append("add", service=f"s{turn}")
        await journal.flush()
    found = list(read(tmp_path))
    assert [record.link for record in found if record.kind == "freeze"] == [f"l{turn}" for turn in range(20)]
    assert [record.service for record in found if record.kind == "add"] == [f"s{turn}" for turn in range(20)]


async def test_a_journal_torn_at_any_byte_loses_that_line_alone(tmp_path: Path) -> None:
    await written(tmp_path, "start", "config", "stop")
    (path,) = segments(tmp_path)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == 10]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        journal = Journal(tmp_path)
        journal.append("start", reason="after")
        await journal.flush()
        if size % 2:
            note(tmp_path, "freeze")
        whole = sum(size >= end - 1 for end in ends)
        kinds = [record.kind for record in read(tmp_path)]
        assert kinds == ["start", "config", "stop"][:whole] + ["start"] + ["freeze"] * (size % 2), size
        path.write_bytes(content[:size])
        note(tmp_path, "freeze")
        assert [record.kind for record in read(tmp_path)] == [*["start", "config", "stop"][:whole], "freeze"]


async def test_full_files_are_followed_by_the_next_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 500)
    monkeypatch.setattr(module, "KEPT", 3)
    journal = Journal(tmp_path)
    for _ in range(100):
        journal.append("add", service="pay", after=ONE)
        await journal.flush()
    assert len(segments(tmp_path)) == 3
    numbers = [record.seq for record in read(tmp_path)]
    assert numbers == list(range(numbers[0], 101))
    assert Journal(tmp_path)._seq == 100


async def test_a_full_disk_loses_no_record_while_there_is_room_and_doubles_none(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        clock = Clock(1000.0)
        journal = Journal(disk, clock)
        journal.append("start")
        await journal.flush()
        ballast = fill(disk)
        for turn in range(500):
            journal.append("add", service=f"s{turn}", after=ONE)
        clock.now = 2000.0
        await journal.flush()
        assert journal.fault is not None
        assert (journal.fault.since, journal.fault.reason) == (2000.0, "No space left on device")
        torn = (disk / segments(disk)[0].name).read_bytes()
        assert not torn.endswith(b"\n")
        journal.append("add", service="s500")
        ballast.unlink()
        clock.now += 5
        await journal.flush()
        assert journal.fault is None
        assert [record.seq for record in read(disk)] == list(range(1, 503))
        assert [record.service for record in read(disk)][1:] == [f"s{turn}" for turn in range(501)]
        assert journal.dropped == 0


async def test_what_finds_no_room_is_counted_and_the_gap_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM", 10)
    with tiny(tmp_path / "disk") as disk:
        clock = Clock(1000.0)
        journal = Journal(disk, clock)
        journal.append("start")
        await journal.flush()
        remount(disk, "ro")
        for _ in range(15):
            journal.append("add")
        await journal.flush()
        assert journal.fault is not None
        assert journal.fault.reason.startswith("Read-only file system")
        assert journal.dropped == 5
        remount(disk, "rw")
        clock.now += 5
        await journal.flush()
        await journal.flush()
        last = list(read(disk))[-1]
        assert (last.kind, last.seq) == ("gap", 12)
        assert last.reason.startswith("5 records")


async def test_a_restart_on_a_read_only_disk_runs(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        await written(disk, "start")
        remount(disk, "ro")
        journal = await written(disk, "start")
        assert journal.fault is not None
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
    await journal.flush()
    assert Journal(tmp_path).recent_losses() == [
        Loss(clock.now, "l", name, ("id", "w"), (5, 4)),
        Loss(clock.now, "l", name, ("id", "w"), (4, 5)),
    ]


async def test_what_waits_is_written_when_the_daemon_stops(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    running = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    journal.append("stop")
    running.cancel()
    await asyncio.wait((running,))
    assert [record.kind for record in read(tmp_path)] == ["stop"]


async def test_without_a_folder_only_the_last_removals_are_remembered() -> None:
    journal = Journal(None)
    for turn in range(200):
        journal.append("remove", service=f"s{turn}")
    await journal.flush()
    assert [record.service for record in journal.last_removals()] == [f"s{turn}" for turn in range(190, 200)]
    assert journal.recent_losses() == []
