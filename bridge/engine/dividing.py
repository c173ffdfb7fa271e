"""A destination is divided into the shards of its stream, or made whole again, while nobody writes there.

What operators decided goes along: from the note of the one writer into that of all members, and back.
"""

from __future__ import annotations

import contextlib

import msgspec

from bridge import adapter as interface
from bridge.adapter import Notes
from bridge.config import groups, kinds
from bridge.config.schema import Configuration
from bridge.destination import joint, note
from bridge.destination.joint import GROUP, Agreed
from bridge.destination.note import NOBODY, Shared
from bridge.engine.opening import opened
from bridge.errors import ConfigError, Conflict
from bridge.shards import Divided, Shards


async def divide(configuration: Configuration, name: str) -> int:
    """Divides it; returns into how many shards. Done again it changes nothing.

    Raises Conflict where a daemon writes there, or where it is divided otherwise; ConfigError, Unavailable, Denied.
    """
    count = _shards(configuration, name)
    async with opened(configuration, name, configuration.bridge.id) as there:
        seat, notes = _seat(there.seat, name), _notes(there.notes, name)
        await seat.divide(count)
        key = joint.key_of(name, GROUP)
        shared = note.decode(await seat.recall())
        if shared is not None and await notes.read(key) is None:
            agreed = Agreed(turn=shared.turn, decisions=shared.decisions, acts=shared.acts)
            await notes.write(key, msgspec.json.encode(agreed), None)
    return count


async def unite(configuration: Configuration, name: str) -> None:
    """Makes it whole; done again it changes nothing. Raises Conflict where a member writes there; else as `divide`."""
    async with opened(configuration, name, configuration.bridge.id) as there:
        seat, notes = _seat(there.seat, name), _notes(there.notes, name)
        await seat.unite()
        agreed = joint.decode(await notes.read(joint.key_of(name, GROUP)))
        before = await seat.recall()
        if agreed is not None:
            shared = note.decode(before) or Shared(turn=0, writer=NOBODY)
            turn = max(shared.turn, agreed.turn) + 1
            fresh = msgspec.structs.replace(shared, turn=turn, seen=0, decisions=agreed.decisions, acts=agreed.acts)
            await seat.note(note.encode(fresh), before, term=None)
        for key, one in (await notes.below(joint.start_of(name, GROUP))).items():
            with contextlib.suppress(Conflict):
                await notes.remove(key, one)


def _shards(configuration: Configuration, name: str) -> int:
    """How many shards the stream has that a destination is written from."""
    made = {each: kinds.make(each, block.kind, block.options, None) for each, block in configuration.registries.items()}
    stream: interface.Registry | None = made.get(groups.stream_of(name, configuration.links, made))
    if not isinstance(stream, Divided):
        raise ConfigError(f"links to {name}: none of them writes from a stream, so its daemons cannot share it")
    return stream.shards


def _seat(seat: interface.Seat | None, name: str) -> Shards:
    if not isinstance(seat, Shards):
        raise ConfigError(f"{name}: its locks are kept where none are kept by shard, so its daemons cannot share it")
    return seat


def _notes(notes: Notes | None, name: str) -> Notes:
    if notes is None:
        raise ConfigError(f"{name}: its locks are in a store that keeps no notes by key, which a group needs")
    return notes
