"""The log: one line an event, for people on a terminal and for machines everywhere else."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from bridge import log as module


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("isthmus")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before[0], before[1], before[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(stream: io.StringIO, name: str, template: str, *args: object, level: int = logging.INFO) -> str:
    module.configure("info", stream)
    logging.getLogger(name).log(level, template, *args)
    return stream.getvalue()


def as_json(template: str, *args: object, name: str = "isthmus.feed") -> dict[str, Any]:
    line = logged(io.StringIO(), name, template, *args, level=logging.WARNING)
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_names_in_a_template_are_the_keys_in_json() -> None:
    found = as_json("synced registry=%r services=%d took=%.3f", "core", 12, 0.5)
    assert found.pop("at").endswith("Z")
    assert found == {
        "level": "warning",
        "part": "feed",
        "event": "synced",
        "registry": "core",
        "services": 12,
        "took": 0.5,
    }


def test_what_is_no_number_or_text_is_said_as_text() -> None:
    assert as_json("denied registry=%r", ("core", ""))["registry"] == "('core', '')"


@pytest.mark.parametrize(
    ("template", "args", "expected"),
    [
        ("%s link=%s service=%s", ("add", "l", "pay"), {"event": "add", "link": "l", "service": "pay"}),
        ("%s %s", ("writer", "to=x"), {"event": "writer", "text": "writer to=x"}),
        ("the file is broken", (), {"event": "the", "text": "the file is broken"}),
        ("full used=%d%%", (99,), {"event": "full", "used": 99}),
        ("odd at=%s", ("x",), {"event": "odd"}),
        ("odd name=%s", ("\udcff",), {"event": "odd", "name": "\udcff"}),
        ("alone", (), {"event": "alone"}),
    ],
)
def test_every_other_template_loses_nothing(template: str, args: tuple[object, ...], expected: dict[str, Any]) -> None:
    found = as_json(template, *args)
    assert {key: found[key] for key in expected} == expected
    assert ("text" in found) == ("text" in expected)


def test_a_line_break_in_a_value_makes_no_second_line() -> None:
    assert as_json("unavailable reason=%r", "a\nb")["reason"] == "a\nb"


def test_an_error_is_one_line_with_its_traceback() -> None:
    stream = io.StringIO()
    module.configure("info", stream)
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        logging.getLogger("isthmus.feed").exception("bug registry=%r", "core")
    found = json.loads(stream.getvalue())
    assert (found["event"], found["registry"]) == ("bug", "core")
    assert "ZeroDivisionError: oops" in found["traceback"]


def test_libraries_are_heard_from_warnings_on() -> None:
    assert logged(io.StringIO(), "kazoo.client", "Connecting to %s", "x") == ""
    assert as_json("Connection %s lost", "x", name="kazoo.client")["text"] == "Connection x lost"


def test_a_terminal_gets_text() -> None:
    line = logged(Terminal(), "isthmus.feed", "synced registry=%r services=%d", "core", 12)
    assert line[12:] == " info synced registry='core' services=12\n"


def test_what_is_below_the_level_is_not_logged() -> None:
    assert logged(io.StringIO(), "isthmus.feed", "synced", level=logging.DEBUG) == ""
