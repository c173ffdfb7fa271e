"""Who of a group should write each shard of a destination, who may, and what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from bridge.destination.group import Group
from bridge.engine.engine import Engine
from bridge.errors import IsthmusError
from bridge.report.values import Row
from bridge.shards import Member, Standing

ANSWERS = 5.0  # seconds that the group and the store of the locks have to answer


async def group_rows(engine: Engine) -> list[Row]:
    """Each destination that a group writes: its members, its shards, and what this process knows of both."""
    leads = {name: one.lead for name, one in engine.reconcilers.items() if isinstance(one.lead, Group)}
    return [await _row(name, lead) for name, lead in leads.items()]


async def _row(name: str, lead: Group) -> Row:
    faults: list[str] = [lead.share.fault] if lead.share.fault else []
    members: Sequence[Member] = ()
    standing: Mapping[int, Standing] = {}
    try:
        async with asyncio.timeout(ANSWERS):
            members = await lead.membership.members() if lead.membership is not None else ()
    except (IsthmusError, TimeoutError) as error:
        faults.append(f"the group does not say who is a member: {str(error) or 'no answer'}")
    try:
        async with asyncio.timeout(ANSWERS):
            standing = await lead.seat.standing()
    except (IsthmusError, TimeoutError) as error:
        faults.append(f"the locks cannot be read: {str(error) or 'no answer'}")
    return {
        "destination": name,
        "group": lead.group,
        "here": lead.who,
        "of": lead.share.of,
        "faults": faults,
        "members": [{"who": one.who, "shards": sorted(one.shards), "here": one.who == lead.who} for one in members],
        "shards": shard_rows(lead.share.of, members, standing),
    }


def shard_rows(count: int, members: Sequence[Member], standing: Mapping[int, Standing]) -> list[Row]:
    """One row a shard: who should write it, who does, who claims it, and what that waits for."""
    should = {shard: one.who for one in members for shard in one.shards}
    rows = []
    for shard in range(count):
        lock, wanted = standing.get(shard, Standing()), should.get(shard, "")
        rows.append(
            {
                "shard": shard,
                "should": wanted,
                "writes": lock.holder,
                "claims": list(lock.claims),
                "waits": waits(wanted, lock),
            }
        )
    return rows


def waits(should: str, lock: Standing) -> str:
    """What a shard waits for, "" where who should write it does."""
    if should == lock.holder:
        return "" if should else "nobody writes it, and the group has nobody for it"
    if not lock.holder:
        return f"nobody writes it yet: {should} is about to"
    if not should:
        return f"the group has nobody for it: {lock.holder} adds and updates, and removes nothing"
    if should in lock.claims:
        return f"{lock.holder} is about to hand it over to {should}"
    return f"{should} has not read all of it yet: until then {lock.holder} adds and updates, and removes nothing"
