"""One service on two sides, in folders, that moves at the places of a bridge; and what it answers with on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridge.errors import IsthmusError
from tests.dataplanes.estate import SERVICE, Inventory
from tests.kit.running import Bridge
from tests.kit.waiting import until

MOVE = f"pay/{SERVICE}"
GUARD = {"confirm_event": "1s", "confirm_absence": "1s"}


class Estate:
    """`vms` and `pods`: the sides, by address. `seat`: the block of the registry that lends the lock."""

    def __init__(self, folder: Path, seat: Mapping[str, Any], places: Mapping[str, Mapping[str, Any]]) -> None:
        self.vms, self.pods = Inventory(folder / "vms"), Inventory(folder / "pods")
        self.places = dict(places)
        self._folder = folder
        self._registries = {"vms": self.vms.block, "pods": self.pods.block, "core": dict(seat), **self.places}

    def bridge(self, name: str = "bridge", **move: Any) -> Bridge:
        """A daemon of the bridge, with one migration; `move`: keys of its block."""
        links = [
            {
                "name": place,
                "from": ["pods", "vms"],
                "to": place,
                "policy": "sync",
                "services": {"include": ["*"]},
                "guard": GUARD,
            }
            for place in self.places
        ]
        made = Bridge(self._folder, self._registries, links, name=name, seat="core")
        block = {"name": "pay", "services": ["*"], "from": ["vms"], "to": ["pods"], "at": list(self.places)}
        made.migrations = [{**block, "gates": {"hold_for": "0s", "approve": [], "parity": "warn"}, **move}]
        made.write()
        return made


async def row(bridge: Bridge, move: str = MOVE) -> dict[str, Any]:
    """Where a move is, as the daemon says; {} while it does not answer."""
    with suppress(IsthmusError, OSError):
        for one in await bridge.ask("migrate-status"):
            if one["move"] == move:
                return dict(one)
    return {}


async def act(bridge: Bridge, verb: str, name: str = "pay", **said: Any) -> None:
    """One command that succeeds."""
    done = await bridge.ask("migrate", verb=verb, name=name, reason="the test says so", **said)
    assert [one["code"] for one in done] == [0] * len(done), done


async def reaches(
    bridge: Bridge, phase: str, step: int | None = None, *, move: str = MOVE, within: float = 90.0
) -> dict[str, Any]:
    """Says `next` wherever a person is waited for, until the move is there and everybody follows."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal found
        found = await row(bridge, move)
        if not found:
            return False
        if found["phase"] == phase and step in (None, found["step"]):
            return found["settled"] is not None or found["waits"] == "nothing"
        if found["waits"] == "person" and not found["paused"] and found["phase"] in ("shift", "drain", "retire"):
            said = {"unmeasured": True} if found["phase"] == "retire" else {}
            with suppress(IsthmusError):
                verb = "finish" if said else "next"
                await bridge.ask("migrate", verb=verb, name=move, reason="the test says so", **said)
        return False

    await until(there, f"{phase} {step if step is not None else ''}", within=within)
    return found


def stand(found: Mapping[str, Any]) -> dict[str, float]:
    """The share that stands at each place, in percent."""
    return {one["place"]: one["measured"] for one in found["places"]}


def shares(counts: Mapping[str, int], some: Sequence[str], is_new: Callable[[str], bool]) -> float:
    """The share of requests, in percent, that the new side answered."""
    whole = sum(counts[one] for one in some)
    return 100 * sum(counts[one] for one in some if is_new(one)) / whole if whole else 0.0
