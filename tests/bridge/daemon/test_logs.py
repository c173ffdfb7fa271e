"""The log: one line an event, for people on a terminal and for machines everywhere else."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.daemon import logs as module
from tests.kit.running import ROOT


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


def test_a_long_value_is_cut_and_says_how_long_it_was() -> None:
    found = as_json("odd name=%s", "x" * 65_536)
    assert len(found["name"]) < 2_100 and found["name"].endswith("(65536 characters)")


def test_a_name_cannot_steer_the_terminal_that_shows_the_log() -> None:
    line = logged(Terminal(), "isthmus.feed", "odd name=%s", "pay\x1b[2J\r\n\u202e\x07\0")
    assert line.endswith(" info odd name=pay\\x1b[2J\\r\\n\\u202e\\x07\\x00\n")


def test_what_a_library_repeats_is_counted_and_not_written() -> None:
    stream = io.StringIO()
    module.configure("info", stream)
    for _ in range(1000):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
        logging.getLogger("isthmus.feed").info("ours")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sum(line["part"] == "asyncio" for line in lines) == module.OFTEN
    assert sum(line["part"] == "feed" for line in lines) == 1000


SPEAKS = """
import logging, sys, warnings
from bridge.daemon.logs import collect, configure
configure("info")
collect()
warnings.warn("a library is old")
logging.getLogger("asyncio").error("a library is in trouble")
import grpc
channel = grpc.insecure_channel("127.0.0.1:1")
try:
    channel.unary_unary("/no/such")(b"", timeout=2)
except grpc.RpcError:
    pass
raise RuntimeError("the end")
"""


def test_what_libraries_and_a_crash_say_is_lines_of_json_and_grpc_is_silent() -> None:
    ran = subprocess.run([sys.executable, "-c", SPEAKS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["log", "log", "crash"]
    assert "a library is old" in lines[0]["text"] and lines[1]["text"] == "a library is in trouble"
    assert "RuntimeError: the end" in lines[2]["traceback"]
