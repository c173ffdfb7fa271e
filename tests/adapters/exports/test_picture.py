"""What an export serves outlives its process, and a removal is on disk before anybody is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapters.common.picture import Picture
from bridge.adapter import Change, Entry
from bridge.errors import Conflict, Unavailable
from bridge.model import Instance, Mark, Port, ServiceName

PAY = ServiceName("pay", "eu")
OWNER = "b1"


def one(number: int) -> Instance:
    return Instance(f"i{number}", f"192.0.2.{number}", (Port(80, "web", "http"),))


def mark(id: str) -> Mark:
    return Mark(OWNER, "link", ("origin",), "", PAY, id)


async def serve(picture: Picture, *numbers: int) -> list[Entry]:
    changes = [Change(PAY, f"i{number}", None, one(number), mark(f"i{number}")) for number in numbers]
    outcomes = await picture.apply(OWNER, changes, lambda name, instance: instance)
    assert [outcome.error for outcome in outcomes] == [None] * len(numbers)
    return [picture.services[PAY][change.id] for change in changes]


async def remove(picture: Picture, entry: Entry) -> Exception | None:
    change = Change(PAY, entry.instance.id, entry, None, entry.mark)
    (outcome,) = await picture.apply(OWNER, [change], lambda name, instance: instance)
    return outcome.error


async def kept(picture: Picture) -> None:
    """As long as it takes to write what is served, and once more at an orderly end."""
    task = asyncio.create_task(picture.keep())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_was_served_is_served_after_a_restart(tmp_path: Path) -> None:
    first = Picture(tmp_path / "x" / "mesh.sqlite")
    await first.load()
    await serve(first, 1, 2)
    first.wait(frozenset(), lambda name: False)
    await kept(first)
    again = Picture(tmp_path / "x" / "mesh.sqlite")
    await again.load()
    assert again.services == first.services
    assert again.complete
    assert set(again.since(-1)) == {PAY}


async def test_a_removal_is_on_disk_before_it_is_served(tmp_path: Path) -> None:
    first = Picture(tmp_path / "mesh.sqlite")
    await first.load()
    (gone, _) = await serve(first, 1, 2)
    assert await remove(first, gone) is None
    again = Picture(tmp_path / "mesh.sqlite")  # the first one had no time for anything else
    await again.load()
    assert again.services[PAY].keys() == {"i2"}


async def test_a_disk_that_refuses_lets_nothing_go_and_is_said(tmp_path: Path) -> None:
    picture = Picture(tmp_path / "free" / "mesh.sqlite")
    await picture.load()
    (entry,) = await serve(picture, 1)
    (tmp_path / "free").write_text("")  # no folder can be made there
    assert isinstance(await remove(picture, entry), Unavailable)
    assert picture.services[PAY].keys() == {"i1"}
    assert "free" in picture.fault
    (tmp_path / "free").unlink()
    assert await remove(picture, entry) is None
    assert picture.fault == ""


async def test_a_damaged_file_counts_as_none_and_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "mesh.sqlite"
    path.write_bytes(b"no database at all" * 100)
    picture = Picture(path)
    await picture.load()
    assert not picture.services
    assert not picture.complete
    assert (tmp_path / "damaged mesh.sqlite").exists()
    await serve(picture, 1)
    await kept(picture)
    again = Picture(path)
    await again.load()
    assert again.services[PAY].keys() == {"i1"}


async def test_what_changed_while_it_was_removed_stays(tmp_path: Path) -> None:
    picture = Picture(tmp_path / "mesh.sqlite")
    await picture.load()
    (entry,) = await serve(picture, 1)
    removing = asyncio.create_task(remove(picture, entry))
    while not picture._turn.locked():  # it is on its way to the disk
        await asyncio.sleep(0)
    after = Change(PAY, "i1", entry, one(9), mark("i1"))
    await picture.apply(OWNER, [after], lambda name, instance: instance)
    assert isinstance(await removing, Conflict)
    await kept(picture)
    again = Picture(tmp_path / "mesh.sqlite")
    await again.load()
    assert again.services[PAY]["i1"].instance == one(9)
