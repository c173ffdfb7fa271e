"""Several kinds of objects of one cluster, each followed in its own watch, told to one consumer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import msgspec

from adapters.common.inbox import Inbox
from adapters.kubernetes import identity
from adapters.kubernetes.client import SLICES, Client, Resource
from adapters.kubernetes.watching import Changed, Everything, Follower
from bridge.errors import Expired

BACKLOG = 256  # events that are read ahead of their consumer


class Kind(NamedTuple):
    """What is followed: the objects of a namespace, "" for all or for those in none, and of them those selected."""

    resource: Resource
    namespace: str
    type: type[msgspec.Struct]
    selector: str = ""


class Following:
    """What arrives from all watches. `identity`: the cluster's."""

    def __init__(self, identity: str, inbox: Inbox[Everything | Changed], kinds: int) -> None:
        self.identity = identity
        self._inbox = inbox
        self._missing = kinds

    @property
    def is_listed(self) -> bool:
        """Whether each kind has told Everything."""
        return self._missing <= 0

    async def take(self) -> list[Everything | Changed]:
        """All that has arrived, at least one; raises what ended a watch, after all that came before it.

        What fails while it lists has listed nothing: that is raised at once.
        """
        arrived, failure = await self._inbox.take()
        if failure is not None and not (arrived and self.is_listed):
            raise failure
        self._missing -= sum(isinstance(each, Everything) for each in arrived)
        return arrived


@asynccontextmanager
async def following(
    client: Client,
    kinds: Sequence[Kind],
    rng: random.Random,
) -> AsyncIterator[Following]:
    """Follows these kinds until the block ends. A watch ends by Expired, Unavailable or Denied."""
    who = await identity.of(client)

    async def stands() -> None:
        if (now := await identity.of(client)) != who:
            raise Expired(f"another cluster answers: {now} instead of {who}")

    inbox: Inbox[Everything | Changed] = Inbox(BACKLOG)
    followers: list[Follower[Any]] = [
        Follower(
            client,
            kind.resource.path(kind.namespace),
            kind.type,
            rng,
            stands,
            kind.selector,
            proof=SLICES if kind.resource is SLICES else None,
        )
        for kind in kinds
    ]
    tasks = [inbox.run(partial(each.run, inbox.put)) for each in followers]
    try:
        yield Following(who, inbox, len(tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
