"""The state folder: whose it is, and what outlives the process in it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.state.decisions import EVERY_LINK, Kind
from bridge.state.files import exclusive
from bridge.state.folder import State, for_command, opened
from tests.kit.disks import fill, remount, tiny
from tests.kit.waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ITEMS = (("a-to-b", "pay", "i1"), ("a-to-b", "pay", "i2"))


def test_a_new_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with opened(folder, "b") as state:
        state.decisions.freeze("l", "r", "me")
        state.accept(Path("/etc/isthmus.yaml"), "abc", "x: 1\n")
        assert state.save()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {
        "state": 0o700,
        "known": 0o700,
        "journal": 0o700,
        "bridge.json": 0o600,
        "decisions.json": 0o600,
        "accepted.yaml": 0o600,
        "lock": 0o600,
    }
    folder.chmod(0o755)
    with opened(folder, "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_another_bridge_is_refused_and_the_way_to_hand_over_is_said(tmp_path: Path) -> None:
    with opened(tmp_path, "old"):
        pass
    with (
        pytest.raises(ConfigError, match=r"belongs to the bridge 'old', .* purge REGISTRY --owner old"),
        opened(tmp_path, "new"),
    ):
        pass
    with opened(tmp_path, "old"):
        pass


def test_a_folder_of_a_newer_isthmus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bridge.json").write_text(json.dumps({"format": 3, "bridge": "b", "version": "9.1.0"}))
    with pytest.raises(ConfigError, match=r"has format 3, .*run isthmus 9\.1\.0"), opened(tmp_path, "b"):
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": "x", "bridge": "b"}'])
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bridge.json").write_text(text)
    with pytest.raises(ConfigError, match=r"bridge\.json: is not ours"), opened(tmp_path, "b"):
        pass


def test_a_file_in_the_place_of_the_folder_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with (
        pytest.raises(ConfigError, match="cannot be used as state folder: File exists"),
        opened(tmp_path / "state", "b"),
    ):
        pass


def test_two_daemons_never_share_a_folder(tmp_path: Path) -> None:
    with (
        opened(tmp_path, "b"),
        pytest.raises(ConfigError, match="another daemon uses this folder"),
        opened(tmp_path, "b"),
    ):
        pass
    with opened(tmp_path, "b"):
        pass


def test_a_freeze_survives_a_restart_and_ends_at_its_time(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, "b", clock) as state:
        state.decisions.freeze("l", "deploy", "uid=0", lasting=60)
    with opened(tmp_path, "b", clock) as state:
        freeze = state.frozen("l")
        assert freeze is not None
        assert (freeze.reason, freeze.by, freeze.at, freeze.until) == ("deploy", "uid=0", 1000.0, 1060.0)
        assert state.frozen("other") is None
        clock.now = 1060.0
        assert state.frozen("l") is None


def test_a_freeze_of_all_links_counts_for_each_and_ends_alone(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        state.decisions.freeze("l", "mine", "me")
        state.decisions.freeze(EVERY_LINK, "all", "me")
        assert state.frozen("other") is not None
        ended = state.decisions.unfreeze(EVERY_LINK)
        assert ended is not None
        assert ended.reason == "all"
        assert state.frozen("other") is None
        assert state.frozen("l") is not None
        assert state.decisions.unfreeze("never") is None


async def test_a_freeze_that_a_command_wrote_without_the_daemon_is_taken_over(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, "b", clock) as state:
        told = asyncio.Event()
        ends: list[frozenset[str]] = []

        def changed(ended: frozenset[str]) -> None:
            ends.append(ended)
            told.set()

        running = asyncio.create_task(state.run(changed))
        await asyncio.sleep(0)
        command = State(tmp_path, clock)
        command.decisions.freeze("l", "by hand", "uid=1", lasting=60)
        assert command.save()
        await asyncio.wait_for(told.wait(), 20)
        assert state.frozen("l") is not None
        told.clear()
        clock.now += 60
        await asyncio.wait_for(told.wait(), 20)
        assert state.frozen("l") is None
        assert ends == [frozenset(), frozenset({"l"})]
        running.cancel()
        await asyncio.wait((running,))


def test_changes_of_two_processes_do_not_lose_each_other(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        other = State(tmp_path)
        state.decisions.freeze("one", "r", "me")
        other.decisions.freeze("two", "r", "you")
        assert state.save() and other.save()
        state.decisions.freeze("three", "r", "me")
        assert state.save()
        assert state.in_force() == {"one", "two", "three"}
        assert other.save()
        other.decisions.unfreeze("one")
        assert other.save()
        assert State(tmp_path).in_force() == {"two", "three"}


def test_decisions_that_cannot_be_read_freeze_everything_until_someone_decides(tmp_path: Path) -> None:
    with opened(tmp_path, "b"):
        (tmp_path / "decisions.json").write_text('{"freeze l": {"reas')
    with opened(tmp_path, "b") as state:
        freeze = state.frozen("anything")
        assert freeze is not None
        assert "cannot be read" in freeze.reason and "unfreeze --all" in freeze.reason
        state.decisions.show("digest", ITEMS)
        assert not state.save(), "what is written besides does not begin it anew"
        assert state.in_force() == {EVERY_LINK}
        state.decisions.freeze("l", "r", "me")
        assert state.save()
        assert state.in_force() == {"l", EVERY_LINK}
        assert (tmp_path / "decisions.json.unreadable").read_text() == '{"freeze l": {"reas'
        state.decisions.unfreeze(EVERY_LINK)
        assert state.save()
        assert state.in_force() == State(tmp_path).in_force() == {"l"}
        (tmp_path / "decisions.json").write_text("damaged while running")
        assert not state.save()
        assert state.in_force() == {"l"}
        assert state.fault is not None


def test_unfreeze_all_begins_decisions_anew_that_cannot_be_read(tmp_path: Path) -> None:
    with opened(tmp_path, "b"):
        (tmp_path / "decisions.json").write_text("{")
    with opened(tmp_path, "b") as state:
        assert state.frozen("l") is not None
        ended = state.decisions.unfreeze(EVERY_LINK)
        assert ended is not None and state.save()
        assert state.frozen("l") is None
        assert State(tmp_path).frozen("l") is None


def test_an_approved_and_a_shown_set_survive_a_restart_whole(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, "b", clock) as state:
        state.decisions.show("h1", ITEMS)
        state.decisions.approve("h1", ITEMS, "they are gone", "uid=0")
        for number in range(150):
            state.decisions.show(f"later{number}", ITEMS)
    with opened(tmp_path, "b", clock) as state:
        (approval,) = state.decisions.of(Kind.APPROVAL).values()
        assert (approval.key, approval.items, approval.reason) == ("h1", ITEMS, "they are gone")
        assert (approval.at, approval.until, approval.by) == (1000.0, 1900.0, "uid=0")
        shown = state.decisions.of(Kind.SHOWN)
        assert "h1" not in shown
        assert len(shown) == 100
        assert shown["later149"].items == ITEMS
        clock.now = 1900.0
        assert state.decisions.of(Kind.APPROVAL) == {}


async def test_an_approval_is_spent_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        state.decisions.approve("h1", ITEMS, "r", "me")
        assert state.save()
        assert await state.spend(ITEMS[:1])
        (left,) = State(tmp_path).decisions.of(Kind.APPROVAL).values()
        assert left.items == ITEMS[1:]
        assert await state.spend(ITEMS)
        assert State(tmp_path).decisions.of(Kind.APPROVAL) == {}


def test_the_last_accepted_file_comes_back_with_its_lines(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        assert state.accepted() is None
        state.accept(Path("/etc/a b/isthmus.yaml"), "0123456789ab", "bridge:\n  id: b # ü\n")
    found = State(tmp_path).accepted()
    assert found is not None
    assert found == (Path("/etc/a b/isthmus.yaml"), "0123456789ab", "bridge:\n  id: b # ü\n")


def test_a_full_disk_stops_no_freeze_and_heals(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk, opened(disk, "b") as state:
        ballast = fill(disk)
        state.decisions.freeze("l", "r" * 5000, "me")
        state.accept(Path("x"), "h", "t" * 5000)
        assert state.frozen("l") is not None
        assert not state.save()
        assert state.frozen("l") is not None
        assert state.fault is not None
        assert state.fault.reason.startswith("No space left")
        assert State(disk).frozen("l") is None
        ballast.unlink()
        assert state.save()
        assert State(disk).frozen("l") is not None
        state.accept(Path("x"), "h", "t")
        assert state.fault is None


def test_a_restart_on_a_full_or_read_only_disk_still_opens_the_folder(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        with opened(disk, "b") as state:
            state.decisions.freeze("l", "r", "me")
        ballast = fill(disk)
        with opened(disk, "b") as state:
            assert state.frozen("l") is not None
        ballast.unlink()
        (disk / "lock").unlink()
        remount(disk, "ro")
        with opened(disk, "b") as state:
            assert state.frozen("l") is not None


def test_what_root_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can write for another user")
    with opened(tmp_path, "b"):
        pass
    os.chown(tmp_path, 1234, 1234)
    command = for_command(tmp_path, "b")
    command.decisions.freeze("l", "r", "root")
    assert command.save()
    assert (tmp_path / "decisions.json").stat().st_uid == 1234
    with pytest.raises(ConfigError, match="belongs to the user 1234; run as that user"), opened(tmp_path, "b"):
        pass


@pytest.mark.parametrize(
    "gone",
    [("decisions.json",), ("bridge.json",), ("lock",), ("bridge.json", "accepted.yaml", "decisions.json", "lock")],
    ids=" ".join,
)
def test_what_is_taken_out_of_the_folder_is_put_back(tmp_path: Path, gone: tuple[str, ...]) -> None:
    """As `rm -r` finds it that is overtaken by what is written meanwhile."""
    with opened(tmp_path, "b") as state:
        state.accept(Path("/etc/isthmus.yaml"), "abc", "x: 1\n")
        state.decisions.freeze("l", "r", "me")
        assert state.save()
        for name in gone:
            (tmp_path / name).unlink()
        assert state.save()
        assert state.in_force() == State(tmp_path).in_force() == {"l"}
        assert state.lost is None and state.fault is None
        assert all((tmp_path / name).exists() for name in gone)
        with pytest.raises(ConfigError, match="another daemon uses this folder"), opened(tmp_path, "b"):
            pass


def test_a_folder_of_others_in_the_place_of_ours_is_not_taken(tmp_path: Path) -> None:
    ours = tmp_path / "state"
    with opened(ours, "b") as state:
        ours.rename(tmp_path / "before")
        ours.mkdir()
        (ours / "photo.jpg").touch()
        assert not state.save()
        assert state.lost is not None and "photo.jpg" in state.lost.reason
        assert [path.name for path in ours.iterdir()] == ["photo.jpg"]


def test_without_a_folder_everything_works_in_memory() -> None:
    with opened(None, "b") as state:
        state.decisions.freeze("l", "r", "me")
        state.accept(Path("x"), "h", "t")
        state.decisions.approve("h", ITEMS, "r", "me")
        assert state.frozen("l") is not None
        assert state.accepted() == (Path("x"), "h", "t")
        assert state.fault is None


@pytest.mark.parametrize("format", [-5, 0])
def test_a_format_that_cannot_be_is_refused(tmp_path: Path, format: int) -> None:
    (tmp_path / "bridge.json").write_text(json.dumps({"format": format, "bridge": "b"}))
    with pytest.raises(ConfigError, match=f"no state folder has the format {format}"), opened(tmp_path, "b"):
        pass


def test_a_folder_with_things_of_others_is_not_taken_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="is no state folder, and not empty: it has photos"), opened(tmp_path, "b"):
        pass
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


async def test_the_loop_never_waits_for_a_disk_that_hangs(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        running = asyncio.create_task(state.run(lambda _: None))
        await asyncio.sleep(0)
        with exclusive(tmp_path):  # as long as this is held, whoever writes waits
            for number in range(100):
                state.decisions.show(f"h{number}", ITEMS)
            state.decisions.freeze("l", "r", "me")
            flushed = asyncio.create_task(state.flush())
            await asyncio.sleep(0)
            assert state.frozen("l") is not None
            assert State(tmp_path).frozen("l") is None
            assert not flushed.done()
        await asyncio.wait_for(flushed, 20)
        assert State(tmp_path).frozen("l") is not None
        running.cancel()
        await asyncio.wait((running,))


async def test_a_freeze_that_ends_before_anybody_looks_is_followed_by_a_new_plan() -> None:
    kept, heard = State(None), list[frozenset[str]]()
    running = asyncio.create_task(kept.run(heard.append))
    await asyncio.sleep(0)
    kept.decisions.freeze("a-to-b", "wait", "me")
    assert kept.frozen("a-to-b")  # whoever plans now leaves it
    kept.decisions.unfreeze("a-to-b")
    await until(lambda: heard, "it is planned again")
    running.cancel()
    await asyncio.wait((running,))
