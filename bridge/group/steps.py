"""What a member does about one shard of a destination: the rules of the model (tests/model/group.pml) as one table."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Facts(NamedTuple):
    """One shard, as a member knows it.

    `should`: the group gave it to this member. `away`: no word from the coordinator for a session. `holds`: its lock is
    ours. `claimed`: another member has a claim on that lock. `whole`: the picture was complete since the assignment.
    `late`: what is asked of the store is asked for an assignment that is over.
    """

    should: bool
    away: bool
    holds: bool
    claimed: bool
    whole: bool
    late: bool = False

    @property
    def wanted(self) -> bool:
        """Whether it is this member's to write."""
        return self.should and not self.away


class Step(enum.Enum):
    """What is to be done about a shard now."""

    CLAIM = "claims"  # a claim beside the lock, which its holder hands over to
    TAKE = "waits"  # the lock, once it is free: the picture is not complete yet
    WITHDRAW = "none"  # neither claim nor lock is asked for
    KEEP = "writes"  # claims are ignored: who claims will learn that it should not
    CARE = "cares"  # adds and updates go, removals wait, until somebody claims it
    HAND_OVER = "hands over"


# By (holds, wanted), and what decides between the two there: whether it is whole, or claimed.
_TABLE: dict[tuple[bool, bool], tuple[Step, Step]] = {
    (False, False): (Step.WITHDRAW, Step.WITHDRAW),
    (False, True): (Step.TAKE, Step.CLAIM),
    (True, False): (Step.CARE, Step.HAND_OVER),
    (True, True): (Step.KEEP, Step.KEEP),
}


def step(facts: Facts) -> Step:
    """What a member does. A claim belongs to one assignment: a later one begins when it is withdrawn."""
    if facts.late and not facts.holds:
        return Step.WITHDRAW
    found = _TABLE[facts.holds, facts.wanted]
    return found[facts.claimed if facts.holds else facts.whole]
