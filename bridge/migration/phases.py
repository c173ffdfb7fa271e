"""The state of one move, and what makes it another one: a command of an operator, or what is seen; pure.

Rules: a step ends when everybody follows it, has had time to settle, and nothing speaks against it. What is not known
holds, and neither passes nor rolls back. Terminal states stay until an operator begins anew. Paused is a field of its
own, so that a move can be paused while it rolls back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bridge.migration.block import Migration
from bridge.migration.gates import Result, Verdict
from bridge.migration.natives import Left


class Phase(enum.StrEnum):
    """Where a move is."""

    OBSERVE = "observe"  # both sides are compared, and nothing is written
    MIRROR = "mirror"  # what would be written at each place is planned, and none of it is refused
    ATTACH = "attach"  # every place and daemon follows, with the share at nothing
    SHIFT = "shift"  # one step after the other
    DRAIN = "drain"  # all that a share can say is said: what is left at the old side is for people to stop
    RETIRE = "retire"  # the old side gets nothing, and is there for a way back
    DONE = "done"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"  # it stays at its share, and nothing moves it any more


ENDED = frozenset({Phase.DONE, Phase.ROLLED_BACK, Phase.ABORTED})
FORWARD = (Phase.OBSERVE, Phase.MIRROR, Phase.ATTACH, Phase.SHIFT, Phase.DRAIN, Phase.RETIRE, Phase.DONE)
BEFORE_TRAFFIC = frozenset({Phase.OBSERVE, Phase.MIRROR, Phase.ATTACH})
REQUESTS = "requests"  # what `next --without` calls the count of those at natives that left


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One move. Times in seconds since the epoch.

    `number` grows with each change that daemons follow. `step`: how many are taken; `share`: percent of the new side.
    `since`: when this step began, anew after each trouble; `settled`: when everybody followed it. `serves`: instances
    of the new side that served at its start, `stood`: of the old side when the move began. `approved`: `next` was said
    for this step. `without`: gates that it was said to do without. `target`: of a way back, the step that it ends at;
    `at_once`: without a pace. `batches`: of natives that are out of service; `steers`: an operator lets us do that.
    """

    phase: Phase
    number: int = 1
    step: int = 0
    share: float = 0.0
    begun: float = 0.0
    since: float = 0.0
    settled: float | None = None
    serves: int = 0
    stood: int = 0
    paused: str = ""
    trouble: str = ""
    approved: bool = False
    without: tuple[str, ...] = ()
    target: int = 0
    at_once: bool = False
    batches: int = 0
    steers: bool = False
    reason: str = ""
    by: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing moves it but a command."""
        return self.phase in ENDED


class Facts(NamedTuple):
    """What is seen of one move. Times in seconds, `now` since the epoch.

    `trouble`: why nothing may be concluded now, "" if it may. `lacking`: who does not follow yet, "" if all do.
    `serves`: instances of the new side that serve; `old_serves`: whether the old side can take its traffic back.
    `natives`: of the old side, that still serve at a place and that no share can take away. `blocks`: differences of
    the sides. `refused`: what would not be written at a place. `gates`: what they come to. `settle`: of the
    slowest consumer. `quiet`: whether the old side has had no request for as long as it should, None: nobody measures
    it; `used`: what says so, or what is missing. `busy`: why no further move begins, "" if one may. `batch`: some of
    the natives can be taken out of service; `stuck`: why the others cannot, `crowded`: why no batch may go now.
    `left`: the requests at those that are out.
    """

    now: float
    trouble: str = ""
    lacking: str = ""
    serves: int = 0
    old_serves: bool = True
    natives: int = 0
    blocks: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    gates: Verdict = Verdict(Result.PASS)
    settle: float = 0.0
    quiet: bool | None = None
    used: str = ""
    busy: str = ""
    batch: bool = False
    stuck: str = ""
    crowded: str = ""
    left: Left = Left(counted=False)


class Waits(enum.StrEnum):
    """For what a move waits: the exit code goes by it."""

    NOTHING = "nothing"  # it has ended
    TIME = "time"
    PERSON = "person"
    DATA = "data"
    TROUBLE = "trouble"
    FAILED = "failed"


class Looked(NamedTuple):
    """What a look came to: the state from now on, and for what it waits, in words."""

    state: State
    waits: Waits
    why: str


def started(block: Migration, now: float, before: State | None, by: str, reason: str) -> State:
    """A move begins, or begins anew; one that was aborted goes on from the share that it was left at."""
    number = before.number + 1 if before is not None else 1
    steers = before is not None and before.steers
    state = State(phase=Phase.OBSERVE, number=number, begun=now, since=now, steers=steers, by=by, reason=reason)
    share = before.share if before is not None and before.phase is Phase.ABORTED else 0.0
    step = sum(1 for one in block.steps if one <= share)
    return replace(state, phase=Phase.SHIFT, step=step, share=block.steps[step - 1]) if step else state


def look(state: State, block: Migration, facts: Facts) -> Looked:
    """One look at a move: at most one transition."""
    if state.ended:
        return Looked(state, Waits.NOTHING, str(state.phase))
    if facts.trouble != state.trouble:
        # The step's time begins anew where something speaks against it, and where that has ended.
        state = replace(state, trouble=facts.trouble, since=facts.now, settled=None)
    if facts.trouble:
        return Looked(state, Waits.TROUBLE, facts.trouble)
    if state.paused:
        return Looked(state, Waits.PERSON, f"paused: {state.paused}")
    if facts.lacking:
        return _unless_too_long(state, block, facts, Looked(state, Waits.TIME, facts.lacking))
    if state.settled is None:
        state = replace(state, settled=facts.now)
    if state.phase is Phase.ROLLING_BACK:
        return _back(state, block, facts)
    for rule in RULES:
        found = rule(state, block, facts)
        if found is not None:
            return _unless_too_long(state, block, facts, found)
    return Looked(_forward(state, block, facts), Waits.TIME, "the next step begins")


def _for(state: State, facts: Facts) -> float:
    """Seconds since everybody followed the step; it is settled where this is asked."""
    return facts.now - state.settled if state.settled is not None else 0.0


# -- what speaks against the next step: in this order ----------------------------------------------------------------


def _failed(state: State, block: Migration, facts: Facts) -> Looked | None:
    if facts.gates.result is not Result.FAIL:
        return None
    reason = f"a gate failed: {facts.gates.reason}"
    if block.on_fail == "hold" or state.phase in BEFORE_TRAFFIC:
        return Looked(replace(state, paused=reason), Waits.FAILED, reason)
    if not facts.old_serves:
        reason = f"{reason}; and the old side cannot take its traffic back, so nothing is moved"
        return Looked(replace(state, paused=reason), Waits.FAILED, reason)
    return Looked(rolled_back(state, block, facts.now, reason=reason, by="isthmus"), Waits.FAILED, reason)


def _shrunk(state: State, block: Migration, facts: Facts) -> Looked | None:
    is_empty = state.phase in (Phase.SHIFT, Phase.DRAIN) and not facts.serves
    if facts.serves >= 0.9 * state.serves and not is_empty:
        return None
    text = f"{facts.serves} of the {state.serves} instances that served at the step's start serve"
    if not state.serves:
        text = "no instance of `to` serves, so no share of the calls can reach it"
    return Looked(replace(state, settled=None), Waits.TROUBLE, text)  # it settles anew when they are back


def _unequal(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.phase not in BEFORE_TRAFFIC or block.gates.parity != "block" or not facts.blocks:
        return None
    more = f", and {len(facts.blocks) - 1} more" if len(facts.blocks) > 1 else ""
    return Looked(state, Waits.PERSON, f"parity: {facts.blocks[0]}{more}")


def _crowded(state: State, block: Migration, facts: Facts) -> Looked | None:
    return Looked(state, Waits.TIME, facts.busy) if state.phase is Phase.OBSERVE and facts.busy else None


def _unwritten(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.phase not in BEFORE_TRAFFIC or not facts.refused:
        return None
    return Looked(state, Waits.PERSON, f"not all of it would be written: {facts.refused[0]}")


def _settling(state: State, block: Migration, facts: Facts) -> Looked | None:
    least = facts.settle if state.phase is not Phase.SHIFT else max(block.gates.hold_for, facts.settle)
    if state.phase in BEFORE_TRAFFIC:
        least = 0.0
    left = least - _for(state, facts)
    said = f"; {facts.left.why}" if _has_gone(state) and not facts.left.counted and facts.left.why else ""
    return Looked(state, Waits.TIME, f"{left:.0f} s more at this step{said}") if left > 0 else None


def _has_gone(state: State) -> bool:
    """Whether the step that a move is at is a batch of natives that left."""
    return state.phase is Phase.DRAIN and state.batches > 0


def _called(state: State, block: Migration, facts: Facts) -> Looked | None:
    """A batch is over once nobody calls what it took out: where that is counted, nothing goes on before."""
    left = facts.left
    if not _has_gone(state) or not left.counted:
        return None
    if left.requests:
        text = f"{left.requests:.4g} requests still reach natives that are out of service"
        return Looked(state, Waits.PERSON, f"{text}: restart who calls them; it goes on once there is none")
    if left.requests is not None or REQUESTS in state.without:
        return None
    if not left.why:
        return Looked(state, Waits.TIME, "requests at the natives that are out of service are counted")
    text = f"requests at the natives that are out of service are not known: {left.why}"
    return Looked(state, Waits.DATA, f"{text}; `migrate next --without {REQUESTS}` goes on without")


def _unknown(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.phase not in (Phase.SHIFT, Phase.DRAIN) or facts.gates.result is Result.PASS:
        return None
    waits = Waits.DATA if facts.gates.result is Result.NO_DATA else Waits.TIME
    return Looked(state, waits, f"{facts.gates.result}: {facts.gates.reason}")


def _left(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.phase is not Phase.DRAIN or not facts.natives or facts.batch:
        return None
    stuck = f" ({facts.stuck})" if facts.stuck else ""
    text = f"{facts.natives} instances of the old side serve on: stop them, batch by batch{stuck}"
    return Looked(state, Waits.PERSON, text)


def _crowded_natives(state: State, block: Migration, facts: Facts) -> Looked | None:
    return Looked(state, Waits.TIME, facts.crowded) if _has_batch(state, facts) and facts.crowded else None


def _has_batch(state: State, facts: Facts) -> bool:
    """Whether the next step is a batch of natives that goes."""
    return state.phase is Phase.DRAIN and facts.batch


def _asked(state: State, block: Migration, facts: Facts) -> Looked | None:
    """Where a person has to say `next`: at the first and the last step, and wherever no gate has ever returned data."""
    if state.approved or not (state.phase is Phase.SHIFT or _has_batch(state, facts)):
        return None
    approve = block.gates.approve if state.phase is Phase.SHIFT else ()
    if (state.step == 1 and "first" in approve) or (state.step == len(block.steps) and "last" in approve):
        return Looked(state, Waits.PERSON, f"at {state.share:g} %: waits for `migrate next`")
    if not facts.gates.by_itself:
        return Looked(state, Waits.PERSON, f"{facts.gates.waits}: each step waits for `migrate next`")
    return None


def _outside(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.approved or block.window is None or block.window.has(facts.now) or state.phase in BEFORE_TRAFFIC:
        return None
    return Looked(state, Waits.TIME, f"outside the window {block.window.days} {block.window.hours}")


def _used(state: State, block: Migration, facts: Facts) -> Looked | None:
    if state.phase is not Phase.RETIRE or state.approved:
        return None
    if not facts.quiet:
        text = "the old side still has requests" if facts.quiet is False else "nobody measures the old side's requests"
        said = f"{text} ({facts.used})" if facts.used else text
        return Looked(state, Waits.PERSON, f"{said}: `migrate finish --unmeasured --reason` ends it all the same")
    left = block.keep - _for(state, facts)
    return Looked(state, Waits.TIME, f"the way back stays open {left:.0f} s more") if left > 0 else None


Rule = Callable[[State, Migration, Facts], Looked | None]
RULES: tuple[Rule, ...] = (
    _failed,
    _shrunk,
    _unequal,
    _unwritten,
    _crowded,
    _left,
    _settling,
    _called,
    _unknown,
    _asked,
    _outside,
    _crowded_natives,
    _used,
)


def _unless_too_long(state: State, block: Migration, facts: Facts, found: Looked) -> Looked:
    """Every wait has a limit, which turns it into a pause: nothing is forgotten in the middle of a move."""
    limit = 14 * 86400.0 if state.phase is Phase.RETIRE else block.wait_at_most
    if found.waits is Waits.FAILED or state.paused or facts.now - state.since <= limit:
        return found
    why = f"waited for more than {limit / 3600:.0f} h: {found.why}"
    return Looked(replace(state, paused=why), Waits.PERSON, f"paused: {why}")


# -- transitions -----------------------------------------------------------------------------------------------------


def _forward(state: State, block: Migration, facts: Facts) -> State:
    if state.phase is Phase.SHIFT and state.step < len(block.steps):
        return _at(state, block, facts, Phase.SHIFT, state.step + 1)
    if _has_batch(state, facts):
        return replace(_at(state, block, facts, Phase.DRAIN, state.step), batches=state.batches + 1)
    phase = FORWARD[FORWARD.index(state.phase) + 1]
    step = {Phase.SHIFT: 1}.get(phase, state.step)
    return _at(state, block, facts, phase, step)


def _at(state: State, block: Migration, facts: Facts, phase: Phase, step: int) -> State:
    """The move at a step: everything about the one before is over."""
    share = block.steps[step - 1] if step else 0.0
    moved = replace(state, phase=phase, step=step, share=share, number=state.number + 1, since=facts.now, settled=None)
    return replace(moved, serves=facts.serves, approved=False, without=(), reason="", by="")


def _back(state: State, block: Migration, facts: Facts) -> Looked:
    """One step back at a time, each with its time to settle, and only to a side that serves.

    Natives come back first, batch by batch: before that the old side has nothing that could take over.
    """
    goes_on = state.step > state.target or state.batches > 0  # at its end it has got all that it is to get
    if goes_on and not facts.old_serves:
        return Looked(state, Waits.TROUBLE, "the old side cannot take its traffic back: the rollback waits for it")
    left = facts.settle - _for(state, facts)
    if left > 0 and not (state.at_once and state.step > state.target):
        return Looked(state, Waits.TIME, f"rolling back: {left:.0f} s more at {state.share:g} %")
    if state.batches:
        moved = _at(state, block, facts, Phase.ROLLING_BACK, state.step)
        moved = replace(moved, batches=0 if state.at_once else state.batches - 1, reason=state.reason, by=state.by)
        return Looked(moved, Waits.TIME, f"rolling back: {moved.batches} batches of natives are out")
    if state.step > state.target:
        step = state.target if state.at_once else state.step - 1
        moved = _at(state, block, facts, Phase.ROLLING_BACK, step)
        moved = replace(moved, reason=state.reason, by=state.by)
        return Looked(moved, Waits.TIME, f"rolling back: {moved.share:g} %")
    ended = Phase.SHIFT if state.target else Phase.ROLLED_BACK
    made = replace(state, phase=ended, number=state.number + 1, since=facts.now, settled=None, approved=False)
    made = replace(made, at_once=False)
    return Looked(made, Waits.TIME, "the way back is done")  # and nothing is waited for once that is written down


def rolled_back(
    state: State,
    block: Migration,
    now: float,
    *,
    reason: str,
    by: str,
    target: int = 0,
    at_once: bool = False,
    stopped: bool = False,
) -> State:
    """The way back begins, to the step `target`. `at_once`: without a pace; natives come back first all the same.

    `stopped`: nothing may change now, so that its first step waits, too.
    """
    step = min(state.step, target if at_once else max(target, state.step - 1))
    batches = 0
    if state.batches:
        step, batches = state.step, 0 if at_once else state.batches - 1
    if stopped:
        step, batches = state.step, state.batches
    share = block.steps[step - 1] if step else 0.0
    made = replace(state, phase=Phase.ROLLING_BACK, number=state.number + 1, step=step, share=share, target=target)
    made = replace(made, batches=batches, at_once=at_once)
    return replace(made, since=now, settled=None, paused="", approved=False, without=(), reason=reason, by=by)


# -- commands --------------------------------------------------------------------------------------------------------

MOVING = frozenset(Phase) - ENDED
AHEAD = MOVING - {Phase.ROLLING_BACK}
# In which phases each command does something; None: a move that was never started.
COMMANDS: Mapping[str, frozenset[Phase | None]] = {
    "start": frozenset({None, Phase.ROLLED_BACK, Phase.ABORTED}),
    "next": frozenset(AHEAD - {Phase.RETIRE}),  # which `finish` ends, by a measure or a person
    "pause": frozenset(MOVING),
    "resume": frozenset(MOVING),
    "back": frozenset({Phase.SHIFT, Phase.DRAIN, Phase.RETIRE}),
    "rollback": frozenset(MOVING),
    "abort": frozenset(MOVING),
    "finish": frozenset({Phase.RETIRE}),
    "reopen": frozenset({Phase.DONE}),
    "forget": frozenset({None, *ENDED}),
    "apply": frozenset(MOVING),
}


def nothing_to_do(state: State | None, command: str) -> str:
    """Why a command does nothing in this state, "" if it does."""
    phase = state.phase if state is not None else None
    if phase not in COMMANDS[command]:
        return f"it is {phase or 'not started'}: there is nothing to {command}"
    if state is not None and command in ("resume", "apply") and not state.paused:
        return "it is not paused"
    if state is not None and command == "pause" and state.paused:
        return f"it is paused already: {state.paused}"
    return ""
