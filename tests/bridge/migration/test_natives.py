"""Natives that go in batches and come back: what is kept of each lever, what is written there, and what is put back."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.migration.natives import FADES, Kept, Other, Out, Write, batch, crowded, put_back, write
from bridge.model import ServiceName

PAY = ServiceName("pay")
WANTED = Kept("m/pay", "legacy", "rule", PAY, ("a",))


def kept(before: bytes | None, stood: bytes | None, written: bytes | None) -> Kept:
    return Kept("m/pay", "legacy", "rule", PAY, ("a",), before=before, stood=stood, written=written)


CASES: dict[str, tuple[Kept | None, bytes | None, bytes | None, bytes | None, Write | None]] = {
    "nothing was there": (None, None, b"o", None, Write(b"o", kept(None, None, b"o"))),
    "others were there": (None, b"t", b"to", b"t", Write(b"to", kept(b"t", b"t", b"to"))),
    "it is so already": (kept(b"t", b"t", b"to"), b"to", b"to", b"t", None),
    "others say the same already": (None, b"o", b"o", None, None),
    "ours was taken away": (kept(None, None, b"o"), None, b"o", None, Write(b"o", kept(None, None, b"o"))),
    "noted and never written": (kept(b"t ", b"t ", b"to"), b"t ", b"to", b"t", Write(b"to", kept(b"t ", b"t ", b"to"))),
    "one more goes": (kept(b"t ", b"t ", b"to"), b"to", b"too", b"t", Write(b"too", kept(b"t ", b"to", b"too"))),
    "noted one more, never written": (
        kept(b"t ", b"to", b"too"), b"to", b"too", b"t", Write(b"too", kept(b"t ", b"to", b"too")),
    ),
    "others wrote over it": (kept(b"t ", b"t ", b"to"), b"u", b"uo", b"u", Write(b"uo", kept(b"u", b"u", b"uo"))),
    "others wrote beside it": (kept(b"t ", b"t ", b"to"), b"tuo", b"tuo", b"tu", None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_stood_there_is_kept_before_anything_is_written(case: str) -> None:
    known, stands, with_ours, without_ours, wanted = CASES[case]
    assert write(known, WANTED, stands, with_ours, without_ours) == wanted


BACK = {
    "as we wrote it": (kept(b"t ", b"t ", b"to"), b"to", b"t", b"t "),
    "never written": (kept(b"t ", b"to", b"too"), b"to", b"t", b"t "),
    "nothing was there": (kept(None, None, b"o"), b"o", None, None),
    "others wrote beside it": (kept(b"t ", b"t ", b"to"), b"tuo", b"tu", b"tu"),
    "others wrote over it": (kept(None, None, b"o"), b"UP", b"UP", b"UP"),
    "it is gone": (kept(None, None, b"o"), None, None, None),
    "put back, and the note is left": (kept(b"t ", b"to", b"too"), b"t ", b"t ", b"t "),
}


@pytest.mark.parametrize("case", BACK)
def test_what_still_stands_as_written_is_put_back_byte_for_byte(case: str) -> None:
    known, stands, without_ours, wanted = BACK[case]
    assert put_back(known, stands, without_ours) == Write(wanted, None)


class Store:
    """A lever that others write as well: texts of `t` (theirs) and `o` (ours), ours last."""

    def __init__(self, before: bytes | None) -> None:
        self.stands = before
        self.kept: Kept | None = None

    def theirs(self) -> bytes | None:
        """Spelled anew where ours was in it, as YAML is."""
        if self.stands is None or b"o" not in self.stands:
            return self.stands
        return self.stands.replace(b"o", b"").replace(b" ", b"") or None

    def look(self, out: int, dies: bool) -> None:
        """One look of the daemon, which may be killed between the note and the write."""
        if not out:
            if self.kept is not None:
                made = put_back(self.kept, self.stands, self.theirs())
                self.stands = made.content
                self.kept = self.kept if dies else None
            return
        with_ours = (self.theirs() or b"") + b"o" * out
        if self.stands is not None and self.stands.count(b"o") == out:
            with_ours = self.stands
        made_of = write(self.kept, WANTED, self.stands, with_ours, self.theirs())
        if made_of is not None:
            self.kept = made_of.kept
            if not dies:
                self.stands = made_of.content


LOOKS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20)


@settings(max_examples=100)
@given(st.sampled_from([None, b"t", b"t t ", b" "]), LOOKS)
def test_whatever_was_out_and_whenever_it_died_the_bytes_come_back(
    before: bytes | None, looks: list[tuple[int, bool]]
) -> None:
    store = Store(before)
    for out, dies in looks:
        store.look(out, dies)
    store.look(0, False)
    assert (store.stands, store.kept) == (before, None)


@settings(max_examples=100)
@given(LOOKS, st.data())
def test_what_somebody_else_wrote_last_is_never_taken_back(looks: list[tuple[int, bool]], data: st.DataObject) -> None:
    store = Store(b"t")
    for out, dies in looks:
        store.look(out, dies)
        if data.draw(st.booleans()):
            ours = data.draw(st.booleans()) and store.stands is not None and b"o" in store.stands
            store.stands = b"uu" + (b"o" if ours else b"")
    last = store.theirs()
    store.look(0, False)
    assert (store.stands, store.kept) == (last, None)


@given(st.integers(1, 60))
def test_natives_go_in_at_most_eleven_batches_each_of_a_tenth(count: int) -> None:
    left, sizes = {f"n{number}" for number in range(count)}, []
    while left:
        gone = batch("m/pay", left, count - len(left))
        assert gone
        left -= set(gone)
        sizes.append(len(gone))
    assert len(sizes) <= 10 and max(sizes) == ceil(count / 10)


def test_a_batch_waits_for_one_of_another_move_at_the_same_place() -> None:
    others = [Other("m/cart", "legacy", 100.0, 30.0), Other("m/old", "legacy", 0.0, 30.0)]
    assert crowded(others, 120.0) == "a batch of m/cart settles at legacy: 10 s more"
    assert crowded(others, 130.0) == ""


def test_what_was_put_back_may_read_as_out_a_while_longer() -> None:
    out = Out("eureka:x", PAY).plus({"a": "apps/PAY/a"}).plus({"b": "apps/PAY/b"})
    assert out.levers == {"a": "apps/PAY/a", "b": "apps/PAY/b"}
    less = out.less(1, 1000.0)
    assert less.levers == {"a": "apps/PAY/a"}
    assert less.shows(1000.0 + FADES - 1) == {"a", "b"} and less.shows(1000.0 + FADES) == {"a"}
    assert less.plus({"b": "apps/PAY/b"}).back == {}
