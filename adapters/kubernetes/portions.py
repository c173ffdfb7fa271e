"""How the services of a cluster are read for a destination: a few each by itself, many in lists of everything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from bridge.model import ServiceName

T = TypeVar("T")

ONE_BY_ONE = 30  # services that are read each by itself: beyond, two lists of everything are less work for the server


async def read(
    names: Collection[ServiceName] | None,
    one: Callable[[ServiceName], Awaitable[T]],
    everything: Callable[[], Awaitable[dict[ServiceName, T]]],
) -> dict[ServiceName, T]:
    """What stands there of these services, None: of all. Raises what the two do."""
    if names is None:
        return await everything()
    wanted = dict.fromkeys(names)
    if len(wanted) > ONE_BY_ONE:
        return {name: found for name, found in (await everything()).items() if name in wanted}
    return {name: await one(name) for name in wanted}
