"""The server side of shards: into how many each seat is divided, and who holds and claims each of them."""

from __future__ import annotations

import asyncio

import msgspec

from adapters.common.shards import Claim, Lot, Picture, Wish
from adapters.common.term import LeasedTerm
from bridge.errors import Conflict, Superseded


class Part(msgspec.Struct, frozen=True):
    """What a transaction of the writer of one shard compares."""

    key: str
    shard: int
    version: int
    count: int


class MemoryLife(LeasedTerm[str]):
    """What the locks and claims of one process end with; it lasts until somebody ends it."""

    def __init__(self, id: str) -> None:
        super().__init__(id, 0, float("inf"))
        self.id = id


class Lots:
    """The locks of all shards of all seats of one store. The methods are one transaction each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}  # by seat
        self.turns = 0  # grows with every change
        self.moved = asyncio.Event()  # set, and replaced, with every change
        self._lots: dict[str, dict[int, Lot]] = {}  # by seat
        self._lives: dict[str, MemoryLife] = {}
        self._born = 0

    def born(self) -> MemoryLife:
        """A new life, for one process."""
        self._born += 1
        life = self._lives[f"life {self._born}"] = MemoryLife(f"life {self._born}")
        return life

    def end(self, id: str) -> None:
        """A life ends, and what it holds and claims is nobody's: as when its process is silent for too long."""
        if (life := self._lives.pop(id, None)) is not None:
            life.lose()
        for key, lots in self._lots.items():
            for shard in list(lots):
                self.release(key, id, shard)

    def lives(self) -> list[str]:
        """Those that have not ended, the oldest first."""
        return list(self._lives)

    def held(self) -> frozenset[str]:
        """The seats of which a shard is held."""
        return frozenset(key for key, lots in self._lots.items() if any(lot.life for lot in lots.values()))

    def divide(self, key: str, count: int) -> None:
        """Raises Conflict where there is another number."""
        if self.counts.setdefault(key, count) != count:
            raise Conflict(f"the key `shards` of {key} says {self.counts[key]}")
        self._move()

    def unite(self, key: str) -> None:
        """Raises Conflict where a shard is held or claimed."""
        if any(lot.life or lot.claims for lot in self._lots.get(key, {}).values()):
            raise Conflict(f"a process holds a shard of {key}, or claims it")
        self.counts.pop(key, None)
        self._move()

    def picture(self, key: str) -> Picture:
        """All shards of a seat now."""
        lots = {shard: lot for shard, lot in self._lots.get(key, {}).items() if lot.life or lot.claims}
        return Picture(self.counts.get(key), lots, self.turns)

    def claim(self, key: str, life: str, wish: Wish) -> int:
        """Puts a claim, unless there is one."""
        lot = self._lot(key, wish.shard)
        if life in self._lives and all(one.life != life for one in lot.claims):
            turn = self._move()
            claims = (*lot.claims, Claim(life, wish.who, turn))
            self._lots.setdefault(key, {})[wish.shard] = lot._replace(claims=claims)
        return self.turns

    def take(self, key: str, life: str, wish: Wish) -> int | None:
        """A free lock becomes that life's, and its claim goes."""
        lot = self._lot(key, wish.shard)
        if lot.life == life:
            return lot.version
        is_free = not lot.life and (wish.claims or not lot.claims)
        if not is_free or life not in self._lives or self.counts.get(key) != wish.count:
            return None
        return self._give(key, wish.shard, life, wish.who)

    def give(self, part: Part, claim: Claim) -> bool:
        """The lock becomes the claimant's, if both stand."""
        lot = self._lot(part.key, part.shard)
        if lot.version != part.version or claim not in lot.claims:
            return False
        self._give(part.key, part.shard, claim.life, claim.who)
        return True

    def release(self, key: str, life: str, shard: int) -> None:
        """What that life has of a shard is nobody's."""
        lot = self._lot(key, shard)
        kept = lot._replace(claims=tuple(one for one in lot.claims if one.life != life))
        if lot.life == life:
            kept = Lot(claims=kept.claims)
        if kept != lot:
            self._lots[key][shard] = kept
            self._move()

    def compare(self, part: Part) -> None:
        """Raises Superseded unless that is the lock as it stands, and there are as many shards."""
        if self._lot(part.key, part.shard).version != part.version or self.counts.get(part.key) != part.count:
            raise Superseded(f"the lock of shard {part.shard} of {part.key} is not ours")

    def _lot(self, key: str, shard: int) -> Lot:
        return self._lots.get(key, {}).get(shard, Lot())

    def _give(self, key: str, shard: int, life: str, who: str) -> int:
        claims = tuple(one for one in self._lot(key, shard).claims if one.life != life)
        turn = self._move()
        self._lots.setdefault(key, {})[shard] = Lot(life, who, turn, claims)
        return turn

    def _move(self) -> int:
        self.turns += 1
        self.moved.set()
        self.moved = asyncio.Event()
        return self.turns
