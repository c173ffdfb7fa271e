"""What a member believes of its group, word by word."""

from __future__ import annotations

import json

from adapters.kafka.belief import Belief
from adapters.kafka.grouping import Ended, Given, Heard, Taken, Trouble, heard

ALL = frozenset(range(4))


def member(session: float = 6.0) -> Belief:
    """One that was given everything, and has heard of the coordinator at 100.0."""
    belief = Belief(4, session)
    belief.take(Given(ALL), 100.0)
    belief.take(Heard(100.0, 1, settled=True), 100.0)
    return belief


def test_a_member_has_what_it_was_given_and_nothing_that_was_taken() -> None:
    belief = member()
    assert (belief.should, belief.assignment(0), belief.fault(100.0)) == (ALL, 1, "")
    belief.take(Taken(frozenset((0, 1))), 101.0)
    assert belief.should == {2, 3}
    assert belief.fault(101.0) == ""
    belief.take(Given(frozenset((1,))), 102.0)
    assert belief.should == {1, 2, 3}
    assert [belief.assignment(shard) for shard in range(4)] == [1, 2, 1, 1]
    belief.take(Taken(belief.should, lost=True), 103.0)
    assert (belief.should, belief.fault(103.0)) == (frozenset(), "the group went on without it")


def test_who_has_heard_nothing_for_a_session_is_away_without_being_told() -> None:
    belief = member()
    assert not belief.away(106.0)
    assert belief.away(106.1)
    assert belief.should == ALL, "nobody has taken it"
    assert "has not answered for 6 s" in belief.fault(106.1)


def test_who_was_away_is_back_with_a_heartbeat_of_its_own_that_was_answered() -> None:
    belief = member()
    belief.take(Heard(107.0, 3, settled=False), 107.0)
    assert belief.away(107.0), "the connection is back; what was sent before has no answer"
    belief.take(Heard(107.1, 3, settled=True), 107.5)
    assert belief.away(107.5), "something was answered, and it may be any question"
    belief.take(Heard(), 108.0)
    belief.take(Heard(108.3, 5, settled=True), 108.4)
    assert belief.away(108.4), "those were sent on a connection that ended"
    belief.take(Heard(109.0, 6, settled=True), 109.5)
    assert not belief.away(109.5)


def test_who_has_lost_all_is_back_as_soon_as_it_hears_of_the_coordinator() -> None:
    belief = member()
    belief.take(Heard(), 107.0)
    belief.take(Taken(ALL, lost=True), 107.1)
    belief.take(Given(frozenset((3,))), 110.0)
    assert belief.away(110.0)
    belief.take(Heard(110.0, 3, settled=True), 110.2)
    assert not belief.away(110.2)


def test_statistics_that_are_read_late_are_no_late_word() -> None:
    belief = member()
    belief.take(Heard(105.0, 3, settled=True), 120.0)
    assert belief.away(120.0)


def test_who_has_left_and_joins_again_begins_anew() -> None:
    belief = member()
    belief.take(Ended(), 101.0)
    assert (belief.should, belief.away(101.0), belief.fault(101.0)) == (frozenset(), True, "it has left the group")
    belief.take(Given(frozenset((2,))), 102.0)
    assert belief.away(102.0)
    belief.take(Heard(102.0, 1, settled=True), 102.0)
    assert (sorted(belief.should), belief.away(102.0), belief.assignment(2)) == ([2], False, 2)


def test_partitions_that_the_file_does_not_know_are_a_fault_and_no_shards() -> None:
    belief = member()
    belief.take(Given(frozenset((4,))), 100.0)
    assert belief.should == ALL
    assert "partitions that the file does not know: 4" in belief.fault(100.0)
    belief.take(Taken(frozenset((4,))), 101.0)
    assert belief.fault(101.0) == ""


def test_what_is_wrong_is_said_once_however_often_the_client_says_it() -> None:
    belief = Belief(4, 6.0)
    for number in range(3):
        belief.take(Trouble("_TRANSPORT", f"refused after {number} ms"), 100.0)
    assert belief.fault(100.0) == "refused after 0 ms"
    belief.take(Trouble("GROUP_AUTHORIZATION_FAILED", "not authorised"), 100.0)
    belief.take(Trouble("_TRANSPORT", "refused after 9 ms"), 100.0)
    assert belief.fault(100.0) == "not authorised"


def test_of_the_statistics_the_coordinators_own_connection_counts_alone() -> None:
    broker = {"state": "UP", "tx": 12, "req": {"Fetch": 4}, "waitresp_cnt": 0, "outbuf_cnt": 0}
    other = {**broker, "source": "learned", "rxidle": 5}
    mine = {**broker, "source": "logical", "rxidle": 2_000_000, "req": {"Heartbeat": 3, "Metadata": 2}}

    def said(**changes: object) -> Heard:
        return heard(json.dumps({"ts": 10_000_000, "brokers": {"a": other, "b": {**mine, **changes}}}))

    assert said() == Heard(8.0, 10, settled=True)
    assert said(waitresp_cnt=1) == Heard(8.0, 10, settled=False)
    assert said(state="CONNECT") == said(rxidle=-1) == Heard()
