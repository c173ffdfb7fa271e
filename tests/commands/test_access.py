"""`bridge.access` at a running daemon: another user's commands, the modes of socket and folder, and who decided."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncIterator

import pytest

from tests.commands.conftest import Pair
from tests.kit.running import Ran, ended
from tests.kit.waiting import until

GUEST = 64_123

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")

# The program may be where only root can read it, so its modules are there before it is another user's.
PROGRAM = f"""
import importlib, os, sys
from bridge.cli.main import MODULES, main
for module in ("adapters.file", "encodings.utf_8_sig", *MODULES.values()):
    importlib.import_module(module)
os.setgroups([]); os.setresgid({GUEST}, {GUEST}, {GUEST}); os.setresuid({GUEST}, {GUEST}, {GUEST})
main(sys.argv[1:], prog_name="isthmus")
"""


async def as_guest(pair: Pair, command: str, *words: str) -> Ran:
    """A command as a user who can read the file."""
    return await ended(sys.executable, "-c", PROGRAM, command, "-f", str(pair.bridge.file), *words)


@pytest.fixture
async def shared(pair: Pair) -> AsyncIterator[Pair]:
    """The guest may freeze what is called pay-api, and reads the rest of what is called pay-*."""
    pair.bridge.bridge["access"] = [
        {"who": [f"user:{GUEST}"], "services": ["pay-api"], "may": ["approve", "freeze"]},
        {"who": [f"group:{GUEST}"], "services": ["pay-*"], "may": ["read"]},
    ]
    pair.bridge.file.parent.chmod(0o711)
    pair.bridge.write()
    async with pair.bridge:
        await until(pair.copied)
        yield pair


async def test_another_user_decides_what_its_rule_says_and_no_more(shared: Pair) -> None:
    bridge = shared.bridge
    assert stat.S_IMODE(bridge.state.stat().st_mode) == 0o711
    assert stat.S_IMODE((bridge.state / "admin.sock").stat().st_mode) == 0o666
    assert [path for path in bridge.state.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []
    assert (await as_guest(shared, "status")).code == 0
    shown = {row["service"] for row in (await as_guest(shared, "log", "-o", "json")).json if row["kind"] == "add"}
    assert shown == {"pay-api", "pay-db"}  # by way of the daemon: the journal is closed to it
    link = "inventory-to-cluster"
    for command in (("freeze", link, "--reason", "r"), ("freeze", "--all", "--reason", "r"), ("accept", "cluster")):
        reason = ("--reason", "r") if command[0] == "accept" else ()
        ran = await as_guest(shared, *command, *reason)
        assert (ran.code, ran.out) == (4, ""), ran.err
        assert f"not permitted: {command[0]} needs may: [" in ran.err
    ran = await as_guest(shared, "purge", "cluster", "--yes")
    assert ran.code == 4 and "not permitted: purge needs may: [admin]" in ran.err
    said = await as_guest(
        shared, "expect", "pay-api", "--lose", "1", "--for", "1h", "--reason", "r", "--by", "alice\nuid=0"
    )
    assert said.code == 0, said.err
    lines = (await bridge.isthmus("log", "-o", "json")).json
    by = {line["kind"]: line["by"] for line in lines if line["kind"] in ("expect", "refused")}
    assert all(f"uid={GUEST} " in one for one in by.values()) and by.keys() == {"expect", "refused"}
    assert by["expect"].endswith(r"claims='alice\nuid=0'")
    assert "claims='alice" in (await bridge.isthmus("status")).out


async def test_a_file_without_rules_closes_the_socket_again(shared: Pair) -> None:
    del shared.bridge.bridge["access"]
    await shared.bridge.hup()
    refused = await as_guest(shared, "status")
    assert refused.code == 4, refused.out
    looks = await as_guest(shared, "plan")  # which asks registries by itself
    assert looks.code == 0 and "what targets refused is not shown" in looks.err
    await until(lambda: stat.S_IMODE(shared.bridge.state.stat().st_mode) == 0o700, "the folder is closed")
    assert "bridge.access" in (await as_guest(shared, "status")).err


async def test_who_claims_to_decide_is_beside_who_the_kernel_names(pair: Pair) -> None:
    ran = await pair.bridge.isthmus("freeze", "--all", "--reason", "r", "--by", "bob")
    assert ran.code == 0, ran.err  # without a daemon
    async with pair.bridge as bridge:
        assert "claims='bob'" in (await bridge.isthmus("status")).out
        assert (await bridge.isthmus("unfreeze", "--all", "--by", "carol")).code == 0
    lines = (await pair.bridge.isthmus("log", "-o", "json")).json
    by = {line["kind"]: line["by"] for line in lines if line["kind"] in ("freeze", "unfreeze")}
    assert "uid=0 " in by["freeze"] and by["freeze"].endswith("claims='bob'")
    assert by["unfreeze"].endswith("claims='carol'")
    assert (await pair.bridge.isthmus("freeze", "--all", "--reason", "r", "--by", "")).code == 2
