"""The state folder: whose it is, and what outlives the process in it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest

from bridge.errors import ConfigError
from bridge.state import EVERY_LINK, Approval, State, opened
from tests.bridge.disks import fill, remount, tiny


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ITEMS = (("a-to-b", "pay", "i1"), ("a-to-b", "pay", "i2"))


def test_a_new_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with opened(folder, "b") as state:
        state.freeze("l", "r", "me")
        state.accept(Path("/etc/isthmus.yaml"), "abc", "x: 1\n")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {
        "state": 0o700,
        "known": 0o700,
        "journal": 0o700,
        "bridge.json": 0o600,
        "freezes.json": 0o600,
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
        pytest.raises(ConfigError, match=r"belongs to the bridge 'old', .* purge FILE REGISTRY --owner old"),
        opened(tmp_path, "new"),
    ):
        pass
    with opened(tmp_path, "old"):
        pass


def test_a_folder_of_a_newer_isthmus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bridge.json").write_text(json.dumps({"format": 2, "bridge": "b"}))
    with pytest.raises(ConfigError, match="has format 2, and this isthmus knows none above 1"), opened(tmp_path, "b"):
        pass


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}'])
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
        state.freeze("l", "deploy", "uid=0", lasting=60)
    with opened(tmp_path, "b", clock) as state:
        freeze = state.frozen("l")
        assert freeze is not None
        assert (freeze.reason, freeze.by, freeze.since, freeze.until) == ("deploy", "uid=0", 1000.0, 1060.0)
        assert state.frozen("other") is None
        clock.now = 1060.0
        assert state.frozen("l") is None


def test_a_freeze_of_all_links_counts_for_each_and_ends_alone(tmp_path: Path) -> None:
    with opened(tmp_path, "b") as state:
        state.freeze("l", "mine", "me")
        state.freeze(EVERY_LINK, "all", "me")
        assert state.frozen("other") is not None
        ended = state.unfreeze(EVERY_LINK)
        assert ended is not None
        assert ended.reason == "all"
        assert state.frozen("other") is None
        assert state.frozen("l") is not None
        assert state.unfreeze("never") is None


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
        State(tmp_path, clock).freeze("l", "by hand", "uid=1", lasting=60)
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
        state.freeze("one", "r", "me")
        other.freeze("two", "r", "you")
        state.freeze("three", "r", "me")
        assert state.in_force() == {"one", "two", "three"}
        other.unfreeze("one")
        assert State(tmp_path).in_force() == {"two", "three"}


def test_freezes_that_cannot_be_read_freeze_everything_until_someone_decides(tmp_path: Path) -> None:
    with opened(tmp_path, "b"):
        (tmp_path / "freezes.json").write_text('{"l": {"reas')
    with opened(tmp_path, "b") as state:
        freeze = state.frozen("anything")
        assert freeze is not None
        assert "cannot be read" in freeze.reason
        state.freeze("l", "r", "me")
        assert state.in_force() == {"l", EVERY_LINK}
        state.unfreeze(EVERY_LINK)
        assert state.in_force() == {"l"}
        (tmp_path / "freezes.json").write_text("damaged while running")
        state.freezes.refresh()
        assert state.in_force() == {"l"}
        assert state.fault is not None


def test_an_approved_and_a_shown_set_survive_a_restart_whole(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, "b", clock) as state:
        state.show("h1", ITEMS)
        state.approve("h1", ITEMS, "they are gone", "uid=0")
        for number in range(150):
            state.show(f"later{number}", ITEMS)
    with opened(tmp_path, "b") as state:
        assert state.approvals.entries == {
            "h1": Approval(items=ITEMS, reason="they are gone", by="uid=0", at=1000.0),
        }
        assert "h1" not in state.shown.entries
        assert len(state.shown.entries) == 100
        assert state.shown.entries["later149"].items == ITEMS


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
        state.freeze("l", "r" * 5000, "me")
        state.accept(Path("x"), "h", "t" * 5000)
        assert state.frozen("l") is not None
        assert state.fault is not None
        assert state.fault.reason.startswith("No space left")
        assert State(disk).frozen("l") is None
        ballast.unlink()
        state.freezes.refresh()
        assert State(disk).frozen("l") is not None
        state.accept(Path("x"), "h", "t")
        assert state.fault is None


def test_a_restart_on_a_full_or_read_only_disk_still_opens_the_folder(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        with opened(disk, "b") as state:
            state.freeze("l", "r", "me")
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
    State(tmp_path).freeze("l", "r", "root")
    assert (tmp_path / "freezes.json").stat().st_uid == 1234
    with pytest.raises(ConfigError, match="belongs to the user 1234; run as that user"), opened(tmp_path, "b"):
        pass


def test_without_a_folder_everything_works_in_memory() -> None:
    with opened(None, "b") as state:
        state.freeze("l", "r", "me")
        state.accept(Path("x"), "h", "t")
        state.approve("h", ITEMS, "r", "me")
        assert state.frozen("l") is not None
        assert state.accepted() == (Path("x"), "h", "t")
        assert state.fault is None
