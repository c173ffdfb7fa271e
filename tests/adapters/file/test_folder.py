"""A folder of files, with all that people, editors, Kubernetes and disks do to one."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.file import Config, FileRegistry, create, folder
from adapters.file.disk import Disk
from adapters.file.source import FileSource
from bridge.adapter import Entry, Listing
from bridge.errors import Expired, Rejected, Unavailable
from bridge.model import Instance, Port, ServiceName
from tests.conformance import lab
from tests.kit.disks import hung
from tests.kit.seated import Seated
from tests.kit.waiting import DEADLINE

PAY = lab.PAY
NEVER = 3600.0  # seconds to the next rescan: what arrives, arrives by notification

GOOD = """\
# Who pays: the team of 192.0.2.9
instances:
  - id: i1
    address: 192.0.2.1
    port: 9001
"""
TWO = GOOD + "  - {id: i2, address: 192.0.2.2, port: 9002}\n"


def open_folder(path: Path, rescan: float = NEVER) -> FileRegistry:
    return create("files", Config(path=str(path), rescan=rescan), None)


def move_into_place(path: Path, text: str) -> None:
    draft = path.with_name(".draft")
    draft.write_text(text)
    draft.replace(path)


async def test_a_record_may_be_as_short_as_people_like_it(tmp_path: Path) -> None:
    (tmp_path / "pay-api.yaml").write_text(
        "instances:\n- {address: 2001:DB8::1, port: 80}\n- address: 192.0.2.1\n  tags:\n"
    )
    (tmp_path / "eu").mkdir()
    (tmp_path / "eu" / "pay%2Fapi.yml").write_text("instances: []\n")
    observed = await open_folder(tmp_path).source.read(ServiceName("pay-api"))
    assert observed.service.instances == {
        "[2001:db8::1]:80": Instance("[2001:db8::1]:80", "2001:db8::1", (Port(80),)),
        "192.0.2.1": Instance("192.0.2.1", "192.0.2.1"),
    }
    async with lab.watching(open_folder(tmp_path).source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.observed.keys() == {ServiceName("pay-api"), ServiceName("pay/api", "eu")}


async def test_a_change_arrives_without_a_rescan(tmp_path: Path) -> None:
    path = tmp_path / "pay.yaml"
    path.write_text(GOOD)
    async with lab.watching(open_folder(tmp_path).source) as watch:
        await watch.until(lambda: watch.synced)
        path.write_text(TWO)  # in place
        await watch.until(lambda: len(watch.picture(PAY)) == 2)
        move_into_place(path, GOOD)
        await watch.until(lambda: len(watch.picture(PAY)) == 1)
        path.unlink()
        await watch.until(lambda: not watch.picture(PAY))
        (tmp_path / "eu").mkdir()
        (tmp_path / "eu" / "pay.yaml").write_text(GOOD)
        await watch.until(lambda: bool(watch.picture(ServiceName("pay", "eu"))))
        (tmp_path / "eu").rename(tmp_path / "us")
        await watch.until(lambda: bool(watch.picture(ServiceName("pay", "us"))))
        await watch.until(lambda: not watch.picture(ServiceName("pay", "eu")))


async def test_what_no_notification_tells_is_found_by_the_rescan(tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.mkdir()
    outside = tmp_path / "outside.yaml"
    outside.write_text(GOOD)
    (services / "pay.yaml").symlink_to(outside)
    async with lab.watching(open_folder(services, rescan=0.05).source) as watch:
        await watch.until(lambda: watch.synced)
        outside.write_text(TWO)
        await watch.until(lambda: len(watch.picture(PAY)) == 2)


async def test_a_file_in_the_state_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.mkdir()
    path, outside = services / "pay.yaml", tmp_path / "another name"
    path.write_text(GOOD)
    outside.hardlink_to(path)  # what is written under a name elsewhere is not notified here
    state = path.stat()
    async with lab.watching(open_folder(services, rescan=0.05).source) as watch:
        await watch.until(lambda: watch.synced)
        outside.write_text(GOOD.replace("port: 9001", "port: 9009"))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        (services / "cart.yaml").write_text(GOOD)
        await watch.until(lambda: bool(watch.picture(lab.CART)))
        assert watch.picture(PAY) == {"i1": ("192.0.2.1", 9001)}
        os.utime(path)
        await watch.until(lambda: watch.picture(PAY) == {"i1": ("192.0.2.1", 9009)})


async def test_the_files_of_a_config_map_are_swapped_at_once(tmp_path: Path) -> None:
    """As the kubelet's AtomicWriter does: files are links through `..data`, which is renamed into place."""

    def publish(version: str, files: dict[str, str]) -> None:
        there = tmp_path / f"..{version}"
        there.mkdir()
        for name, text in files.items():
            (there / name).write_text(text)
        (tmp_path / "..data_tmp").symlink_to(there.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        for name in files:
            if not (tmp_path / name).is_symlink():
                (tmp_path / name).symlink_to(f"..data/{name}")

    publish("one", {"pay.yaml": GOOD, "cart.yaml": GOOD})
    async with lab.watching(open_folder(tmp_path).source) as watch:
        await watch.until(lambda: watch.synced)
        before = watch.said[0]
        publish("two", {"pay.yaml": TWO})
        (tmp_path / "cart.yaml").unlink()  # the kubelet removes what is stale after the swap
        await watch.until(lambda: len(watch.picture(PAY)) == 2 and not watch.picture(lab.CART))
        assert all(observed.service.instances for observed in watch.observations(PAY))
    async with lab.watching(open_folder(tmp_path).source) as later:
        await later.until(lambda: later.synced)
        assert later.said[0] == before


async def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pay.yaml"
    path.write_text(TWO)
    async with lab.watching(open_folder(tmp_path, rescan=0.05).source) as watch:
        await watch.until(lambda: watch.synced)
        with path.open("w") as file:
            file.write(GOOD)  # whole lines, and YAML: only the writer knows that it is half
            file.flush()
            (tmp_path / "cart.yaml").write_text(GOOD)
            await watch.until(lambda: bool(watch.picture(lab.CART)))
            file.write("  - {id: i3, address: 192.0.2.3, port: 9003}\n")
        await watch.until(lambda: watch.picture(PAY).keys() == {"i1", "i3"})
        assert [sorted(each.service.instances) for each in watch.observations(PAY)] == [["i1", "i2"], ["i1", "i3"]]


async def test_a_file_that_is_written_while_the_watch_begins_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pay.yaml"
    with path.open("w") as file:
        file.write(GOOD)
        file.flush()
        async with lab.watching(open_folder(tmp_path).source) as watch:
            await watch.until(lambda: bool(watch.said))
            file.write("  - {id: i2, address: 192.0.2.2, port: 9002}\n")
            file.close()
            await watch.until(lambda: watch.synced)
            assert [len(each.service.instances) for each in watch.observations(PAY)] == [2]


async def test_an_editor_that_puts_the_file_aside_does_not_remove_the_service(tmp_path: Path) -> None:
    path = tmp_path / "pay.yaml"
    path.write_text(GOOD)
    async with lab.watching(open_folder(tmp_path).source) as watch:
        await watch.until(lambda: watch.synced)
        path.rename(tmp_path / "pay.yaml~")
        (tmp_path / "cart.yaml").write_text(GOOD)
        await watch.until(lambda: bool(watch.picture(lab.CART)))  # it has looked
        path.write_text(TWO)
        await watch.until(lambda: len(watch.picture(PAY)) == 2)
        assert all(observed.service.instances for observed in watch.observations(PAY))


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True))

BROKEN = {
    "empty": (b"", "1: says nothing: write `instances: []`"),
    "null": (b"instances:\n", "1: says nothing: write `instances: []`"),
    "torn": (b"instances:\n  - id: i1\n    address: [192.0.2", "4: "),
    "unknown": (b"instances: []\ninstance: []\n", "2: unknown key `instance`"),
    "latin-1": (b"instances:\n- address: caf\xe9\n", "2: byte 0xe9 is not UTF-8: save the file as UTF-8"),
    "nul": (b"instances:\n- address: a\0b\n", "2: a character that YAML does not allow (0x0)"),
    "bomb": (BOMB.encode(), "2: the alias *a is not followed"),
    "deep": (b"[" * 100_000, "1: nested deeper than"),
    "tag": (b"instances: !!python/object/apply:os.system [id]\n", "1: the tag "),
    "twice": (b"instances: []\ninstances: []\n", "2: the key `instances` is there twice"),
    "long": (b"#" + b" " * (5 << 20), "1: it is longer than"),
}


@pytest.mark.parametrize(("content", "fault"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_file_keeps_what_was_known_and_is_shown_with_its_line(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = tmp_path / "pay.yaml"
    path.write_text(GOOD)
    source = open_folder(tmp_path).source
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.synced)
        path.write_bytes(content)
        await watch.until(lambda: watch.observed[PAY].unreadable == {"*"})
        assert watch.picture(PAY) == {"i1": ("192.0.2.1", 9001)}
        assert source.ignored["pay.yaml"].startswith(f"{path}:{fault}")
        (tmp_path / "cart.yaml").write_text(TWO)
        await watch.until(lambda: len(watch.picture(lab.CART)) == 2)
        path.write_text(TWO)
        await watch.until(lambda: len(watch.picture(PAY)) == 2 and not watch.observed[PAY].unreadable)
        assert not source.ignored
    path.write_bytes(content)
    async with lab.watching(open_folder(tmp_path).source) as first:
        await first.until(lambda: first.synced)
        assert first.observed[PAY].unreadable == {"*"}
        assert not first.picture(PAY)


async def test_what_is_no_file_is_shown_and_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.yaml").symlink_to("nothing")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "pay.yaml").write_text(GOOD)
    source = open_folder(tmp_path).source
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.picture(PAY) == {"i1": ("192.0.2.1", 9001)}
        broken = {"loop", "nowhere", "folder", "pipe"}
        assert {name.name for name, seen in watch.observed.items() if seen.unreadable == {"*"}} == broken
        assert {path for path in source.ignored if "/" not in path} == {f"{name}.yaml" for name in broken}


async def test_each_bad_record_is_named_with_its_line_and_what_would_be_right(tmp_path: Path) -> None:
    (tmp_path / "pay.yaml").write_text(
        TWO
        + "  - {id: i3, address: 192.0.2.3, port: 70000}\n"
        + "  - {id: i4, address: 192.0.2.4, health: fine}\n"
        + "  - {id: i5, adress: 192.0.2.5}\n"
        + "  - {id: i1, address: 192.0.2.6}\n"
        + "  - {id: i7, address: 192.0.2.999}\n"
    )
    source = open_folder(tmp_path).source
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.picture(PAY) == {"i1": ("192.0.2.1", 9001), "i2": ("192.0.2.2", 9002)}
        assert watch.observed[PAY].unreadable == {"i3", "i4", "i5", "i7"}
    lines = source.ignored["pay.yaml"].removeprefix(f"{tmp_path}/").splitlines()
    assert [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in lines] == [
        f"pay.yaml:{number}" for number in (7, 8, 9, 10, 11)
    ]
    assert "instances[2].port" in lines[0]
    assert "one of UNKNOWN, HEALTHY" in lines[1]
    assert "`adress`: an instance has id, address," in lines[2]


async def test_a_folder_that_vanishes_is_unavailable_and_not_empty(tmp_path: Path) -> None:
    services = tmp_path / "services"
    source = open_folder(services).source
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Unavailable)
    services.mkdir()
    (services / "pay.yaml").write_text(GOOD)
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.synced)
        subprocess.run(["rm", "-r", services], check=True)
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Unavailable)
        assert watch.picture(PAY)
    with pytest.raises(Unavailable):
        await source.read(PAY)


async def test_another_folder_in_its_place_is_another_life(tmp_path: Path) -> None:
    services, away = tmp_path / "services", tmp_path / "away"
    services.mkdir()
    (services / "pay.yaml").write_text(GOOD)
    source = open_folder(services).source
    async with lab.watching(source) as watch:
        await watch.until(lambda: watch.synced)
        empty = tmp_path / "empty"
        empty.mkdir()
        services.rename(away)
        empty.rename(services)
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Expired | Unavailable)
        assert watch.picture(PAY)
    async with lab.watching(source) as other:
        await other.until(lambda: other.synced)
    first, second = watch.said[0], other.said[0]
    assert isinstance(first, Listing)
    assert isinstance(second, Listing)
    assert (first.identity, first.incarnation) != (second.identity, second.incarnation)


async def test_a_folder_says_itself_who_it_is(tmp_path: Path) -> None:
    services = tmp_path / "services"
    (services / ".isthmus").mkdir(parents=True)
    (services / ".isthmus" / "identity").write_text("the files of the shop\n")
    first = await open_folder(services).reach()
    services.rename(tmp_path / "moved")
    assert first.identity == "the files of the shop"
    assert (await open_folder(tmp_path / "moved").reach()) == first


async def test_a_persons_file_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "pay.yaml"
    path.write_text(GOOD)
    path.chmod(0o444)
    before = path.stat(), path.read_bytes()
    sink = Seated(open_folder(tmp_path), "b.1")
    async with sink.writer():
        (entry,) = await lab.write(sink, lab.create(PAY, lab.instance(2), "b.1"))
        await lab.refusals(sink, lab.create(PAY, lab.instance(1), "b.1"))
        await lab.write(sink, lab.change(PAY, entry, lab.instance(2, turn="2"), "b.1"))
        assert {name for name in os.listdir(tmp_path) if not name.startswith(".")} == {
            "pay.yaml",
            "pay.b%2E1.isthmus.yaml",
        }
        (entry,) = ((await lab.shown(sink, PAY))["i2"],)
        await lab.write(sink, lab.change(PAY, entry, None, "b.1"))
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["pay.yaml"]
    after = path.stat(), path.read_bytes()
    assert after[1] == before[1]
    assert (after[0].st_mtime_ns, after[0].st_ino, after[0].st_mode) == (
        before[0].st_mtime_ns,
        before[0].st_ino,
        before[0].st_mode,
    )


async def test_what_people_add_to_a_bridges_file_stays_and_is_theirs(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        await lab.write(sink, lab.create(PAY, lab.instance(1)))
        path = tmp_path / "pay.bridge-a.isthmus.yaml"
        with path.open("a") as file:
            file.write("  - {id: theirs, address: 192.0.2.77, port: 77, metadata: {a: b}}\n")
            file.write("  - {id: odd, address: 192.0.2.78, what: ever}\n")
        assert lab.owners(await lab.shown(sink, PAY)) == {"i1": lab.BRIDGE, "theirs": "", "odd": ""}
        await lab.write(sink, lab.create(PAY, lab.instance(2)))
        held = await lab.shown(sink, PAY)
        assert lab.owners(held) == {"i1": lab.BRIDGE, "i2": lab.BRIDGE, "theirs": "", "odd": ""}
        await lab.write(sink, *(lab.change(PAY, held[id], None) for id in ("i1", "i2")))
        held = await lab.shown(sink, PAY)
        assert held["theirs"].instance == Instance("theirs", "192.0.2.77", (Port(77),), metadata={"a": "b"})
        assert '"what":"ever"' in path.read_text()


async def test_a_bridges_file_that_was_damaged_is_written_anew_and_the_damage_kept(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        await lab.write(sink, lab.create(PAY, lab.instance(1)))
        path = tmp_path / "pay.bridge-a.isthmus.yaml"
        path.write_text("instances: [someone was here")
        assert not await lab.shown(sink, PAY)
        await lab.write(sink, lab.create(PAY, lab.instance(1)))
        assert lab.owners(await lab.shown(sink, PAY)) == {"i1": lab.BRIDGE}
        (kept,) = (tmp_path / ".isthmus").glob("damaged*")
        assert kept.read_text() == "instances: [someone was here"


async def test_a_mark_is_believed_in_the_file_of_its_bridge_alone(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        await lab.write(sink, lab.create(PAY, lab.instance(1)))
    ours = tmp_path / "pay.bridge-a.isthmus.yaml"
    (tmp_path / "cart.yaml").write_bytes(ours.read_bytes())
    (tmp_path / "cart.bridge-b.isthmus.yaml").write_bytes(ours.read_bytes())
    observed = await open_folder(tmp_path).source.read(lab.CART)
    assert not observed.service.instances
    assert observed.unreadable == {"i1"}


async def test_of_two_who_hold_one_id_everybody_sees_the_same(tmp_path: Path) -> None:
    """Two bridges that create it at the same moment do not see each other's file: one of them must yield."""
    made = {}
    for owner in (lab.BRIDGE, lab.OTHER):
        alone = tmp_path / owner
        alone.mkdir()
        sink = Seated(open_folder(alone), owner)
        async with sink.writer():
            await lab.write(sink, lab.create(PAY, lab.instance(1), owner))
        (written,) = alone.glob("*.yaml")
        made[owner] = tmp_path / written.name
        written.rename(tmp_path / written.name)
        (alone / ".isthmus" / "identity").unlink()
    winner, loser = Seated(open_folder(tmp_path), lab.BRIDGE), Seated(open_folder(tmp_path), lab.OTHER)
    for held in (await winner.held(), await loser.held()):
        assert lab.owners(held) == {"i1": lab.BRIDGE}
    assert not (await winner.held()).loose
    loose = (await loser.held()).loose
    async with loser.writer():
        await lab.write(loser, lab.forget(PAY, "i1", loose[PAY]["i1"]))
    assert not made[lab.OTHER].exists()
    assert made[lab.BRIDGE].exists()


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk says, to this process alone."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        (entry,) = await lab.write(sink, lab.create(PAY, lab.instance(1)))
        before = sorted(tmp_path.rglob("*")), (tmp_path / "pay.bridge-a.isthmus.yaml").read_bytes()
        with no_room(100):
            changes = lab.create(PAY, lab.instance(2)), lab.change(PAY, entry, lab.instance(1, turn="2"))
            assert await lab.refusals(sink, *changes) == [Unavailable, Unavailable]
        assert (sorted(tmp_path.rglob("*")), (tmp_path / "pay.bridge-a.isthmus.yaml").read_bytes()) == before
        assert await lab.shown(sink, PAY) == {"i1": entry}
        await lab.write(sink, *changes)


async def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """It may be a volume that is not mounted."""
    sink = Seated(open_folder(tmp_path / "volume"), lab.BRIDGE)
    with pytest.raises(Unavailable):
        async with sink.writer():
            pass
    assert not (tmp_path / "volume").exists()


HOLDER = """
import asyncio, sys
from adapters.file import Config, create
from tests.kit.seated import Seated

async def main():
    async with Seated(create("files", Config(path=sys.argv[1]), None), "bridge-a").writer():
        print("mine", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_the_lock_of_a_stopped_writer_stays_and_that_of_a_dead_one_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert await asyncio.to_thread(holder.stdout.readline) == "mine\n"
        holder.send_signal(signal.SIGSTOP)
        sink = Seated(open_folder(tmp_path), lab.BRIDGE)
        entered = asyncio.Event()

        async def stand_by() -> None:
            async with sink.writer():
                entered.set()

        standby = asyncio.create_task(stand_by())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await entered.wait()
        holder.kill()
        async with asyncio.timeout(DEADLINE):
            await entered.wait()
            await standby
    finally:
        holder.kill()
        holder.communicate()


async def test_a_lease_is_refused_where_entries_outlive_their_writer(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        assert await lab.refusals(sink, lab.create(PAY, lab.instance(1), ttl=30)) == [Rejected]


async def test_an_edit_of_what_we_wrote_is_seen_as_a_change(tmp_path: Path) -> None:
    sink = Seated(open_folder(tmp_path), lab.BRIDGE)
    async with sink.writer():
        (entry,) = await lab.write(sink, lab.create(PAY, lab.instance(1)))
        path = tmp_path / "pay.bridge-a.isthmus.yaml"
        path.write_text(path.read_text().replace("192.0.2.1", "192.0.2.66"))
        edited = (await lab.shown(sink, PAY))["i1"]
        assert edited.instance.address == "192.0.2.66"
        assert edited.mark == entry.mark
        await lab.write(sink, lab.change(PAY, Entry(edited.instance, edited.mark, edited.version), lab.instance(1)))
        assert await lab.shown(sink, PAY) == {"i1": entry}


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(name=NAMES, namespace=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), owner=NAMES)
def test_every_name_has_a_file_of_its_own(name: str, namespace: str, owner: str) -> None:
    service = ServiceName(name, namespace)
    try:
        path = folder.path_of(service, owner)
    except Rejected:
        assert len(name.encode() + owner.encode()) > 60  # three characters for each byte
        return
    assert folder.place(path) == (service, owner)
    assert max(map(len, path.split("/"))) <= 255


async def test_a_file_whose_name_has_a_line_break_is_no_service_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "pay.yaml").write_text(GOOD)
    (tmp_path / "pay%0A.yaml").write_text(GOOD)
    registry = open_folder(tmp_path)
    async with lab.watching(registry.source) as watch:
        await watch.until(lambda: watch.synced)
        assert not watch.picture(ServiceName("pay\n"))
        assert watch.picture(PAY)
        (reason,) = registry.source.ignored.values()
        assert "the file's name has the character '\\n', which no service has: rename it" in reason


async def test_a_folder_whose_disk_hangs_is_stale_and_holds_nobody_up(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "pay.yaml").write_text(GOOD)
    source = FileSource(Disk(str(root), patience=0.3), str(root), rescan=0.1)
    async with aclosing(cast(Any, source.watch())) as words:
        assert [type(await anext(words)).__name__ for _ in range(3)] == ["Listing", "Observed", "Synced"]
        with hung(root), pytest.raises(Unavailable, match=r"the disk has not answered for 0\.3 s"):
            await anext(words)
    assert "i1" in (await source.read(PAY)).service.instances


async def test_a_writer_whose_disk_hangs_holds_nobody_up(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    registry, beside = open_folder(root), open_folder(root)
    seat, sink = registry.seat("b1", "files"), registry.sink("b1")
    async with seat.writer() as term:
        with hung(root):
            waiting = [
                asyncio.ensure_future(one)
                for one in (term.ended(), sink.held(), seat.recall(), _written(beside), registry.reach())
            ]
            done, _ = await asyncio.wait(waiting, timeout=0.3)
            assert not done
        await asyncio.wait(waiting)
    for one in waiting:
        one.exception()
    assert await asyncio.wait_for(_written(beside), DEADLINE)


async def _written(registry: FileRegistry) -> bool:
    async with registry.seat("b1", "files").writer() as term:
        return term.fence is not None
