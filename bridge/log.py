"""How events are logged: one line each, as text for a terminal and as JSON for everything else.

The standard library does this alone: every module says `log.info("synced registry=%r services=%d", ...)`, and the
names in that template are the keys in JSON, so nothing is formatted or bound that nobody reads (structlog costs
20 us a line and a dependency for the same).
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from functools import lru_cache
from typing import Any, NamedTuple, TextIO

SLOT = re.compile(r"(?:(?<!\S)(\w+)=)?%(?:[-#0 +]*\d*(?:\.\d+)?[a-zA-Z]|%)")


class Shape(NamedTuple):
    """A template, taken apart: the event's word, the key of each slot ("" where unnamed), and whether it says more."""

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
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower()} {record.getMessage()}"
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


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
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # ASCII alone: a name may hold what is no Unicode


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    template, args = str(record.msg), record.args
    if not record.name.startswith("isthmus") or not isinstance(args, tuple):
        return {"event": "log", "text": record.getMessage()}
    event, keys, wordy = shape(template)
    fields: dict[str, Any] = {"event": event % args[:1] if "%" in event else event}
    for key, value in zip(keys, args, strict=False):
        if key:
            fields[key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    if wordy:
        fields["text"] = record.getMessage()
    return fields


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Once, before the daemon runs: our events from `level` on, those of libraries from warnings on."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Text() if stream.isatty() else Json())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("isthmus").setLevel(level.upper())
