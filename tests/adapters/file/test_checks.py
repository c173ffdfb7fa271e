"""Checks of what files say: real HTTP servers, of which some die, and some are other services by now."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.file import Config, FileRegistry, create
from adapters.file.checks import Check
from adapters.file.verdicts import DOUBT_TIME, Target, Verdicts
from bridge.model import Health, ServiceName
from tests.conformance.lab import Watching, watching
from tests.kit.load import Backends, backends
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers import ports

PAY, CART = ServiceName("pay"), ServiceName("cart")
ONE = "127.0.0.61"
NINE = tuple(f"127.0.0.{number}" for number in range(62, 71))


@pytest.fixture
def port() -> Iterator[int]:
    (found,) = ports.reserve(1)
    yield found
    ports.release([found])


def say(folder: Path, port: int) -> None:
    """One instance of pay, nine of cart."""
    folder.mkdir(exist_ok=True)
    for name, addresses in (("pay", (ONE,)), ("cart", NINE)):
        records = [{"id": each, "address": each, "port": port} for each in addresses]
        (folder / f"{name}.yaml").write_text(json.dumps({"instances": records}))


@asynccontextmanager
async def serving(port: int) -> AsyncIterator[Backends]:
    async with backends(port, ONE, *NINE) as some:
        some.headers = {ONE: {"X-Service-Name": "pay"}, **{each: {"X-Service-Name": "cart"} for each in NINE}}
        yield some


def registry(tmp_path: Path, **said: Any) -> FileRegistry:
    check = Check(http="/health", **{"interval": 0.05, "timeout": 1.0, "failures": 2, "observe": False, **said})
    return create("files", Config(path=str(tmp_path / "files"), check=check), tmp_path / "state")


def unhealthy(watch: Watching, *services: ServiceName) -> set[str]:
    return {
        id
        for name in services or (PAY, CART)
        for id, one in watch.service(name).instances.items()
        if one.health is Health.UNHEALTHY
    }


async def passed(made: FileRegistry) -> None:
    """Waits until every instance has passed."""

    async def all_of_them() -> bool:
        return any("10 instances have passed" in note for note in (await made.reach()).notes)

    await until(all_of_them)


async def test_an_address_that_another_service_took_over_is_turned(tmp_path: Path, port: int) -> None:
    say(tmp_path / "files", port)
    made = registry(tmp_path)
    async with serving(port) as some, watching(made.source) as watch:
        await passed(made)
        assert unhealthy(watch) == set()
        some.headers[ONE] = {"X-Service-Name": "other"}  # and it goes on to answer 200
        await watch.until(lambda: unhealthy(watch) == {ONE})
        observed = await made.source.read(PAY)
        assert observed.service.instances[ONE].health is Health.UNHEALTHY
        again = registry(tmp_path)
        async with watching(again.source) as other:  # a restart forgets neither what passed nor what was turned
            await other.until(lambda: other.synced)
            assert unhealthy(other) == {ONE}
        some.headers[ONE] = {"X-Service-Name": "pay"}
        assert (await made.source.read(PAY)).service.instances[ONE].health is Health.UNKNOWN  # one more check
        await watch.until(lambda: unhealthy(watch) == set())


async def test_an_instance_that_passes_again_is_told_by_the_next_round(tmp_path: Path, port: int) -> None:
    """Nobody reads it meanwhile: a second opinion would tell it, too."""
    say(tmp_path / "files", port)
    made = registry(tmp_path)
    async with serving(port) as some, watching(made.source) as watch:
        await passed(made)
        some.headers[ONE] = {}
        await watch.until(lambda: unhealthy(watch) == {ONE})
        some.headers[ONE] = {"X-Service-Name": "pay"}
        await watch.until(lambda: unhealthy(watch) == set())


async def test_what_never_passed_from_this_host_is_as_its_file_says(tmp_path: Path, port: int) -> None:
    say(tmp_path / "files", port)
    made = registry(tmp_path)
    async with serving(port) as some, watching(made.source) as watch:
        some.headers[ONE] = {}
        await until(lambda: _notes(made, "9 instances have passed"))
        await some.stop(NINE[0])
        await watch.until(lambda: unhealthy(watch) == {NINE[0]})  # which took as many rounds as the other one failed


async def _notes(made: FileRegistry, text: str) -> bool:
    return any(text in note for note in (await made.reach()).notes)


async def test_a_host_for_which_much_fails_at_once_turns_nothing(tmp_path: Path, port: int) -> None:
    say(tmp_path / "files", port)
    made = registry(tmp_path)
    async with serving(port) as some, watching(made.source) as watch:
        await passed(made)
        await some.stop(*NINE[:3])

        async def doubted() -> bool:
            return [each.code for each in made.concerns()] == ["host-doubted"]

        await until(doubted)
        assert unhealthy(watch) == set()
        await some.start(*NINE[:2])
        await watch.until(lambda: unhealthy(watch) == {NINE[2]})
        assert made.concerns() == []


async def test_the_first_day_only_observes(tmp_path: Path, port: int) -> None:
    say(tmp_path / "files", port)
    made = registry(tmp_path, observe=None)
    async with serving(port) as some, watching(made.source) as watch:
        await passed(made)
        await some.stop(ONE)
        await until(lambda: _notes(made, f"pay/{ONE}: "))
        assert await _notes(made, "observes: nothing is turned")
        assert unhealthy(watch) == set()


async def test_the_guard_counts_what_checks_turn(tmp_path: Path, folder: Path, port: int) -> None:
    say(tmp_path / "files", port)
    (tmp_path / "there").mkdir()
    check = {"http": "/health", "interval": "50ms", "timeout": "1s", "failures": 2, "observe": False}
    registries = {
        "files": {"kind": "file", "path": str(tmp_path / "files"), "check": check},
        "there": {"kind": "file", "path": str(tmp_path / "there")},
    }
    link = {
        "from": "files",
        "to": "there",
        "policy": "sync",
        "services": {"include": ["*"]},
        "guard": {"confirm_event": "1h"},
    }
    bridge = Bridge(folder, registries, [link])
    async with serving(port) as some, bridge:

        async def copied() -> bool:
            return len(list((tmp_path / "there").glob("*.isthmus.yaml"))) == 2

        await until(copied)
        kept = bridge.state / "checks" / "files.json"

        async def known() -> bool:
            return kept.exists() and len(json.loads(kept.read_text())["passed"]) == 10

        await until(known)
        await some.stop(ONE)
        await until(bridge.holds, "the last serving instance of pay is held")


def targets(count: int) -> list[Target]:
    return [Target(PAY, f"i{number}", f"192.0.2.{number}", 80) for number in range(count)]


def test_a_fifth_within_a_minute_is_the_limit() -> None:
    verdicts, some = Verdicts(1), targets(10)
    verdicts.know(some)
    for each in some:
        verdicts.take(each, "")
    for each in some[:2]:
        verdicts.take(each, "dead")
    verdicts.judge(0.0, observe=False)
    assert (verdicts.turned, verdicts.doubt) == (frozenset(some[:2]), "")
    verdicts.take(some[2], "dead")
    verdicts.judge(DOUBT_TIME - 1, observe=False)
    assert (verdicts.turned, bool(verdicts.doubt)) == (frozenset(), True)  # what was turned in that minute is put back
    verdicts.take(some[0], "")
    verdicts.judge(DOUBT_TIME, observe=False)
    assert (verdicts.turned, verdicts.doubt) == (frozenset(some[1:3]), "")


def test_what_fails_one_after_the_other_is_turned() -> None:
    verdicts, some = Verdicts(1), targets(10)
    verdicts.know(some)
    for each in some:
        verdicts.take(each, "")
    for number, each in enumerate(some):
        verdicts.take(each, "dead")
        verdicts.judge(number * DOUBT_TIME, observe=False)
    assert verdicts.turned == set(some)
