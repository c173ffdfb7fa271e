"""What a client has is what it would have by a dictionary of its own, whatever it shares with others."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from adapters.xds import accepted
from adapters.xds.accepted import Accepted

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
VERSIONS = st.sampled_from(["", "1", "2"])
STEPS = st.lists(st.dictionaries(NAMES, VERSIONS, max_size=5) | NAMES | st.frozensets(NAMES), max_size=12)


@given(steps=STEPS)
def test_what_is_shared_reads_as_what_is_ones_own(steps: list[dict[str, str] | str | frozenset[str]]) -> None:
    made, plain = Accepted(), dict[str, str]()
    with mock.patch.multiple(accepted, MANY=2, LAYERS=3):
        for step in steps:
            if isinstance(step, dict):
                before = dict(step)
                made.take(step)
                assert step == before
                plain |= step
            elif isinstance(step, str):
                made.drop(step)
                plain.pop(step, None)
            else:
                made.only(step.__contains__)
                plain = {name: version for name, version in plain.items() if name in step}
            plain = {name: version for name, version in plain.items() if version}
            assert {name: made.get(name) for name in "abcde" if name in made} == made.all() == plain
            assert len(made) == len(plain)
