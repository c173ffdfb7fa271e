"""How events are logged: one line each, as text for a terminal and as JSON for everything else.

The standard library does this alone: every module says `log.info("synced registry=%r services=%d", ...)`, and the
names in that template are the keys in JSON, so nothing is formatted or bound that nobody reads (structlog costs
20 us a line and a dependency for the same).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from bridge.report.text import LINE, shown

SLOT = re.compile(r"(?:(?<!\S)(\w+)=)?%(?:[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]|%)")


TRACEBACK = 20_000  # characters
OFTEN, PERIOD = 5, 60.0  # a library says one thing so many times in so many seconds; the rest is counted


class Shape(NamedTuple):
    """A template, taken apart: the event's name, the key of each slot ("" where unnamed), and whether it says more."""

    event: str
    keys: tuple[str, ...]
    wordy: bool


@lru_cache(maxsize=1000)
def shape(template: str) -> Shape:
    """ "synced registry=%r services=%d" -> Shape("synced", ("registry", "services"), False)."""
    event, _, rest = template.partition(" ")
    keys = tuple(match[1] or "" for match in SLOT.finditer(template) if match[0] != "%%")
    nameless = keys.count("") - ("%" in event)
    return Shape(event, keys, nameless > 0 or bool(SLOT.sub("", rest).strip()))


class Text(logging.Formatter):
    """17:04:05.123 warning denied registry='core' reason='...'"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower()} {shown(record.getMessage())}"
        return line + ("\n" + self.formatException(record.exc_info)[-TRACEBACK:] if record.exc_info else "")


class Json(logging.Formatter):
    """{"at":"2026-11-23T17:04:05.123Z","level":"warning","part":"feed","event":"denied","registry":"core", ...}"""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "at": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": record.name.removeprefix("isthmus."),
        }
        line = {**line, **{key: value for key, value in _fields(record).items() if key not in line}}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-TRACEBACK:]
        return json.dumps(line)  # ASCII alone: a name may hold what is no Unicode


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    template, args = str(record.msg), record.args
    if not record.name.startswith("isthmus") or not isinstance(args, tuple):
        return {"event": "log", "text": _cut(record.getMessage())}
    event, keys, wordy = shape(template)
    fields: dict[str, Any] = {"event": _cut(event % args[:1]) if "%" in event else event}
    for key, value in zip(keys, args, strict=False):
        if key:
            fields[key] = value if isinstance(value, bool | int | float | None) else _cut(str(value))
    if wordy:
        fields["text"] = _cut(record.getMessage())
    return fields


def _cut(text: str) -> str:
    return text if len(text) <= LINE else f"{text[:LINE]}… ({len(text)} characters)"


class Damper(logging.Filter):
    """Lets a library say one thing OFTEN times in PERIOD seconds; the next line after that says how many were left out.

    A library in trouble may log the same line a thousand times a second, which fills the disk that the bridge needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}  # since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.name.startswith("isthmus"):
            return True
        key = record.name, str(record.msg)[:LINE]
        since, count = self._said.get(key, (record.created, 0))
        if record.created - since > PERIOD:
            if count > OFTEN:
                record.msg, record.args = f"{record.getMessage()} (and {count - OFTEN} more like it)", ()
            since, count = record.created, 0
        if key not in self._said and len(self._said) >= 1000:
            self._said.clear()
        self._said[key] = since, count + 1
        return count < OFTEN


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Once, before the daemon runs: our events from `level` on, those of libraries from warnings on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if stream.isatty() else Json())
    handler.addFilter(Damper())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("isthmus").setLevel(level.upper())


def collect() -> None:
    """Leads into the log what would be written to standard error beside it, so that each line there has one form."""
    logging.captureWarnings(True)
    # gRPC's core writes lines of its own form, past Python; each failure that it reports so is also an error of a call.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    sys.excepthook = _crash


def _crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        logging.getLogger("isthmus.daemon").critical("crash", exc_info=(kind, error, trace))
