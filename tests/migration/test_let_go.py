"""Steered natives of a real Eureka where an operator freezes, lets go, forgets, begins anew, or changes a move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import act, reaches, row
from tests.migration.steering import OUT, PODS, UP, VMS, Estate, Machines
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka

LINK = "pods-to-legacy"


class Site(NamedTuple):
    """A bridge, its natives, and what it is asked."""

    estate: Estate
    made: Bridge
    machines: Machines

    async def drained(self, batches: int) -> list[str]:
        """So many batches are out, and followed; which natives those are."""

        async def there() -> bool:
            found = await row(self.made, self.estate.move)
            if found.get("batches", 0) < batches and found.get("waits") == "person":
                await act(self.made, "next")
            return found.get("batches") == batches and found["settled"] is not None

        await until(there, f"{batches} batches are out", within=90.0)
        return list((await row(self.made, self.estate.move))["steered"]["legacy"])

    async def said(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """What a verb came to for the move."""
        (found,) = await self.made.ask("migrate", verb=verb, name="pay", reason="the test says so", **arguments)
        return dict(found)

    async def stands(self, id: str, wanted: tuple[str, str]) -> None:
        """Until a native is as that at the server."""

        async def is_so() -> bool:
            return (await self.machines.stand())[id] == wanted

        await until(is_so, f"{id} is {wanted}", within=60.0)


@asynccontextmanager
async def site(etcd: Etcd, eureka: Eureka, folder: Path, **move: Any) -> AsyncIterator[Site]:
    """Everything is read, and nothing has begun."""
    estate = Estate(folder, etcd, {"kind": "eureka", "urls": [eureka.url], "poll": "200ms"}, "pay")
    machines = Machines(eureka, VMS)
    await machines.register()
    estate.pods.write({one: {} for one in PODS}, 8080)
    made = estate.bridge(move=move)
    made.links[0]["name"] = LINK
    made.write()
    async with made:
        await estate.ready(made)
        yield Site(estate, made, machines)


async def test_a_freeze_keeps_natives_out_and_stops_a_way_back(etcd: Etcd, eureka: Eureka, folder: Path) -> None:
    async with site(etcd, eureka, folder) as here:
        await act(here.made, "start", natives=True)
        out = await here.drained(2)
        await here.made.ask("freeze", link=LINK, reason="the test says so")
        await here.machines.client.cancel("pay", out[0])
        await here.machines.register(out[0])  # which clears the override
        await here.stands(out[0], OUT)
        assert await attention(here, "native-returned", out[0])

        said = await here.said("rollback", now=True)
        assert (said["code"], said["text"]) == (
            0,
            f"rolling back, 100 %; the link {LINK} is frozen: nothing goes back until that ends",
        )
        await until(lambda: attention(here, "migration-failed", "IT DOES NOT GET ON"), "an operator is called")
        found = await row(here.made, here.estate.move)
        assert (found["phase"], found["batches"], found["waits"]) == ("rolling back", 2, "trouble")
        await here.machines.client.cancel("pay", out[1])
        await here.machines.register(out[1])
        await here.stands(out[1], OUT)  # it is held on the way back, too
        assert [one for one, is_so in (await here.machines.stand()).items() if is_so == OUT] == sorted(out)

        await here.made.ask("unfreeze", link=LINK)
        await reaches(here.made, "rolled back", move=here.estate.move)
        assert await here.machines.stand() == dict.fromkeys(here.machines.addresses, UP)


async def attention(here: Site, code: str, text: str) -> bool:
    found = (await here.made.ask("status"))["attention"]
    return any(one["code"] == code and text in one["text"] for one in found)


async def test_what_is_let_go_is_listed_and_stays_and_begins_anew_once_it_is_back(
    etcd: Etcd, eureka: Eureka, folder: Path
) -> None:
    async with site(etcd, eureka, folder) as here:
        await act(here.made, "start", natives=True)
        out = await here.drained(2)
        said = await here.said("abort")
        listed = f"natives out of service, and looks after them no more: 2 at legacy: {out[0]} ("
        assert said["code"] == 0 and listed in said["text"] and f"{out[1]} (" in said["text"]
        assert len(await here.estate.kept()) == 2
        refused = await here.said("start", natives=True)
        assert refused["code"] == 1 and "it was let go with natives out of service: 2 at legacy" in refused["text"]
        still = await here.said("forget")
        assert still["code"] == 1 and "take its block out of the file first" in still["text"]

        await here.machines.client.override("pay", out[0], "UP")  # a person puts one back: nobody takes it out again
        blocks, here.made.migrations = here.made.migrations, []
        await here.made.hup()
        forgotten = await here.said("forget")
        assert forgotten["code"] == 0
        assert "what links say is true from now on: legacy 50 %, then about 66.7 %" in forgotten["text"]
        assert f"natives stay out of service: 2 at legacy: {out[0]} (" in forgotten["text"]
        await until(lambda: _nothing_kept(here), "nothing is kept of it")
        assert [(await here.machines.stand())[one] for one in out] == [("UP", "UP"), OUT]

        here.made.migrations = blocks
        await here.made.hup()
        planned = await isthmus("migrate", "plan", "pay", "-f", here.made.file)
        assert planned.code == 0, planned
        await act(here.made, "start", natives=True)
        await reaches(here.made, "shift", 1, move=here.estate.move)


async def _nothing_kept(here: Site) -> bool:
    return not await here.estate.kept()


async def test_what_was_let_go_goes_on_from_its_share(etcd: Etcd, eureka: Eureka, folder: Path) -> None:
    async with site(etcd, eureka, folder, natives="untouched") as here:
        await act(here.made, "start")
        await reaches(here.made, "shift", 1, move=here.estate.move)
        there = set(await here.machines.client.all())
        assert len(there) == len(VMS) + len(PODS)
        assert (await here.said("abort"))["text"] == "aborted, 50 %"
        assert set(await here.machines.client.all()) == there
        assert (await here.said("start"))["text"] == "shift, 50 %"
        found = await reaches(here.made, "shift", 1, move=here.estate.move)
        assert [one["intended"] for one in found["places"]] == [50] and set(await here.machines.client.all()) == there
        await reaches(here.made, "drain", move=here.estate.move)


async def test_a_block_that_steers_natives_is_taken_over_while_it_is_paused(
    etcd: Etcd, eureka: Eureka, folder: Path
) -> None:
    async with site(etcd, eureka, folder, natives="untouched") as here:
        await act(here.made, "start")
        found = await reaches(here.made, "drain", move=here.estate.move)
        assert "4 instances of the old side serve on: stop them" in found["why"]
        here.made.migrations[0]["natives"] = "steer"
        await here.made.hup()
        assert (await here.said("apply", natives=True))["code"] == 6  # it is not paused
        await act(here.made, "pause")
        refused = await here.said("apply")
        assert refused["code"] == 1 and "--yes-write-natives" in refused["text"]
        assert await here.estate.kept() == {}
        await act(here.made, "apply", natives=True)
        assert (await row(here.made, here.estate.move))["paused"] == "the test says so"
        assert await here.machines.stand() == dict.fromkeys(here.machines.addresses, UP)
        await act(here.made, "resume")
        assert len(await here.drained(4)) == len(VMS)
        await reaches(here.made, "retire", move=here.estate.move)
        assert await here.machines.stand() == dict.fromkeys(here.machines.addresses, OUT)
