"""What of a move needs a look, and that a move which goes as it should needs none."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bridge.migration.block import Migration
from bridge.migration.phases import Looked, Phase, State, Waits
from bridge.report.attention import KINDS
from bridge.report.moving import differing, findings

NOW = 1_800_000_000.0
BLOCK = Migration(name="pay", services=("*",), from_=("a",), to=("b",), at=("c",), keep=36_000.0)


def found(
    phase: Phase, waits: Waits = Waits.TIME, share: float = 25.0, measured: float | None = None, ago: float = 60.0
) -> list[tuple[str, str]]:
    state = State(phase=phase, share=share, since=NOW - ago, settled=NOW - ago, reason="a gate failed: errors")
    looked = Looked(state, waits, "why")
    return [(one.code, one.text) for one in findings("pay/x", BLOCK, state, looked, measured, NOW)]


@pytest.mark.parametrize(
    ("phase", "waits", "codes"),
    [
        (Phase.SHIFT, Waits.TIME, []),
        (Phase.SHIFT, Waits.PERSON, ["migration-waits"]),
        (Phase.SHIFT, Waits.TROUBLE, ["migration-waits"]),
        (Phase.SHIFT, Waits.DATA, ["migration-no-data"]),
        (Phase.SHIFT, Waits.FAILED, ["migration-failed"]),
        (Phase.ROLLING_BACK, Waits.TIME, ["migration-failed"]),
        (Phase.ROLLED_BACK, Waits.NOTHING, []),
        (Phase.DONE, Waits.NOTHING, []),
    ],
)
def test_each_thing_that_is_waited_for_has_its_code(phase: Phase, waits: Waits, codes: list[str]) -> None:
    assert [code for code, _ in found(phase, waits)] == codes
    assert set(codes) <= KINDS.keys()


def test_a_block_that_differs_from_the_running_one_is_told() -> None:
    changed = replace(BLOCK, keep=1.0)
    assert list(differing({"pay": BLOCK}, [BLOCK])) == []
    assert [one.code for one in differing({"pay": BLOCK}, [changed])] == ["migration-differs"]
    assert list(differing({}, [changed])) == []


def test_a_way_back_that_does_not_get_on_says_so() -> None:
    ((_, text),) = found(Phase.ROLLING_BACK, Waits.TROUBLE)
    assert "IT DOES NOT GET ON" in text and "a gate failed: errors" in text


@pytest.mark.parametrize(("measured", "off"), [(None, False), (20.0, False), (30.0, False), (19.9, True), (30.1, True)])
def test_five_points_beside_the_share_need_a_look(measured: float | None, off: bool) -> None:
    assert [code for code, _ in found(Phase.SHIFT, measured=measured)] == ["migration-off"] * off


@pytest.mark.parametrize(("ago", "closes"), [(32_000.0, False), (32_500.0, True), (36_001.0, False)])
@pytest.mark.parametrize("phase", [Phase.RETIRE, Phase.DONE])
def test_the_last_tenth_of_the_way_back_is_told(phase: Phase, ago: float, closes: bool) -> None:
    assert [code for code, _ in found(phase, ago=ago)] == ["migration-closing"] * closes
