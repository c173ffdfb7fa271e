"""A state folder of format 1 becomes one of format 2: once, as a whole or not at all, beside a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError, Unavailable
from bridge.state.decisions import APPROVED, Decision, Kind
from bridge.state.folder import State, for_command, opened
from bridge.state.formats import KEPT
from tests.kit.disks import fill, tiny

ITEM = ["a-to-b", "pay", "i1"]
NOW = 1000.0
FREEZE = {"reason": "why", "by": "me", "since": 5.0, "until": None}
FILES: dict[str, Any] = {
    "bridge.json": {"format": 1, "bridge": "b"},
    "freezes.json": {"a-to-b": FREEZE, "*": {"reason": "all", "by": "you", "since": 6.0, "until": NOW + 60}},
    "approvals.json": {"h1": {"items": [ITEM], "reason": "ok", "by": "me", "at": NOW - 10}},
    "shown.json": {"h1": {"items": [ITEM], "at": NOW - 20}},
    "told.json": {"core": {"turn": 7, "freezes": {"a-to-b": FREEZE}}},
}


def lay_out(folder: Path, **other: str) -> dict[str, bytes]:
    """A folder of format 1 (`other`: files with another text); what is in its files."""
    folder.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_text(other.get(name.partition(".")[0], json.dumps(content)))
    return in_it(folder)


def in_it(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def is_converted(state: State) -> None:
    decisions = state.decisions
    assert decisions.of(Kind.FREEZE) == {
        "a-to-b": Decision(kind=Kind.FREEZE, key="a-to-b", at=5.0, by="me", reason="why"),
        "*": Decision(kind=Kind.FREEZE, key="*", at=6.0, by="you", reason="all", until=NOW + 60),
    }
    approval, shown = decisions.of(Kind.APPROVAL)["h1"], decisions.of(Kind.SHOWN)["h1"]
    assert (approval.items, approval.until) == ((tuple(ITEM),), NOW - 10 + APPROVED)
    assert shown.items == (tuple(ITEM),)
    told = state.told.entries["core"]
    assert (told.turn, list(told.decisions)) == (7, ["freeze a-to-b"])


def test_a_folder_of_format_1_is_converted_beside_a_copy(tmp_path: Path) -> None:
    before = lay_out(tmp_path)
    with opened(tmp_path, "b", lambda: NOW) as state:
        is_converted(state)
    assert in_it(tmp_path).keys() == {"bridge.json", "decisions.json", "told.json"}
    assert json.loads((tmp_path / "bridge.json").read_text())["format"] == 2
    assert in_it(tmp_path / "format-1") == before
    with opened(tmp_path, "b", lambda: NOW) as state:
        is_converted(state)


def test_a_conversion_that_was_cut_off_before_its_last_step_is_done_again(tmp_path: Path) -> None:
    before = lay_out(tmp_path)
    with opened(tmp_path, "b", lambda: NOW):
        pass
    for name in before.keys() - {"told.json"}:
        (tmp_path / name).write_bytes(before[name])
    with opened(tmp_path, "b", lambda: NOW) as state:
        is_converted(state)


def test_a_command_converts_the_folder_where_no_daemon_runs(tmp_path: Path) -> None:
    before = lay_out(tmp_path)
    is_converted(for_command(tmp_path, "b", lambda: NOW))
    assert in_it(tmp_path / "format-1") == before


def test_a_command_beside_an_older_daemon_touches_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, "b"):
        for name in ("bridge.json", "decisions.json"):
            (tmp_path / name).unlink(missing_ok=True)
        before = lay_out(tmp_path)
        with pytest.raises(Unavailable, match="older version"):
            for_command(tmp_path, "b")
        assert in_it(tmp_path) == before
        (tmp_path / "bridge.json").write_text('{"format": 2, "bridge": "b"}')


@pytest.mark.parametrize("text", ["{", '{"a-to-b": {"since": "yesterday"}}'])
def test_freezes_of_format_1_that_cannot_be_read_freeze_every_link(tmp_path: Path, text: str) -> None:
    lay_out(tmp_path, freezes=text)
    with opened(tmp_path, "b", lambda: NOW) as state:
        freeze = state.frozen("a-to-b")
        assert freeze is not None
        assert freeze.key == "*"
        assert "it is kept in format-1" in freeze.reason
        state.decisions.unfreeze("*")
    assert (tmp_path / "format-1" / "freezes.json").read_text() == text
    with opened(tmp_path, "b", lambda: NOW) as state:
        assert state.frozen("a-to-b") is None


def test_sets_of_format_1_that_cannot_be_read_approve_nothing(tmp_path: Path) -> None:
    lay_out(tmp_path, approvals="[")
    with opened(tmp_path, "b", lambda: NOW) as state:
        assert state.decisions.of(Kind.APPROVAL) == {}
        assert state.decisions.of(Kind.FREEZE).keys() == {"a-to-b", "*"}


def test_a_full_disk_leaves_a_folder_of_format_1_as_it_was(tmp_path: Path) -> None:
    with tiny(tmp_path / "disk") as disk:
        folder = disk / "state"
        before = lay_out(folder)
        for name in ("known", "journal"):
            (folder / name).mkdir()
        ballast = fill(disk)
        with pytest.raises(ConfigError, match=r"from format 1 to 2: .*it is as it was"), opened(folder, "b"):
            pass
        with pytest.raises(Unavailable, match="cannot be brought to format 2"):
            for_command(folder, "b")
        assert in_it(folder) == before
        ballast.unlink()
        with opened(folder, "b", lambda: NOW) as state:
            is_converted(state)
        assert in_it(folder / "format-1") == before


@pytest.mark.parametrize("room", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
def test_a_disk_that_fills_up_meanwhile_loses_no_decision(tmp_path: Path, room: int) -> None:
    """So many pages are free: each step of the conversion is the one that fails."""
    with tiny(tmp_path / "disk") as disk:
        folder = disk / "state"
        before = lay_out(folder)
        for name in ("known", "journal"):
            (folder / name).mkdir()
        ballast = fill(disk)
        with ballast.open("r+b") as file:
            file.truncate(ballast.stat().st_size - room * 4096)
        try:
            with opened(folder, "b", lambda: NOW) as state:
                is_converted(state)
        except ConfigError:
            still = {name: content for name, content in in_it(folder).items() if name in KEPT and name != "told.json"}
            assert still == {name: content for name, content in before.items() if name != "told.json"}
        ballast.unlink()
        with opened(folder, "b", lambda: NOW) as state:
            is_converted(state)
        assert in_it(folder / "format-1") == before
