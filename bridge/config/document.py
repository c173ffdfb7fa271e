"""A YAML file as plain data that knows the line of every key, and strict Structs built from it, all faults at once."""

from __future__ import annotations

import difflib
import enum
import math
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

from bridge.config import bounds
from bridge.errors import ConfigError
from bridge.units import READERS, SECONDS, UNIT

Place = tuple[str | int, ...]
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: 7 times faster

LONGEST = 3653 * SECONDS["d"]
MOST = 2**63 - 1

# Control characters, line breaks of any kind, and what turns the direction of the text that follows (Unicode 9.4).
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "empty",
    "object": "a mapping",
    "array": "a list",
}
SHAPES: dict[type, str] = {
    str: "str",
    bool: "bool",
    int: "int",
    float: "float",
    dict: "object",
    list: "array",
    types.NoneType: "null",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: what is known, and which one was probably meant."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}known: {', '.join(names) or 'none'}"


class Document:
    """One configuration file. Faults and warnings are collected as "FILE:LINE: key.path: what is wrong; the remedy"."""

    def __init__(self, name: str, text: str) -> None:
        """Parses; raises ConfigError at once where the text is no YAML at all."""
        self.name = name
        self.text = text
        self.lines: dict[Place, int] = {}
        self.faults: list[str] = []
        self.warnings: list[str] = []
        self._loader = Loader(text)
        try:
            if found := bounds.excess(text, Loader):
                raise ConfigError(f"{name}:{found[0]}: {found[1]}")
            node = self._loader.get_single_node()
            self.data = None if node is None else self._plain(node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise ConfigError(f"{name}{line}: no valid YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}: no valid YAML: {error}") from None
        finally:
            self._loader.dispose()

    @classmethod
    def read(cls, path: Path) -> Document:
        """Raises ConfigError where the file cannot be read."""
        try:
            with path.open("rb") as file:
                content = file.read(bounds.BYTES + 1)
            if len(content) > bounds.BYTES:
                raise ConfigError(f"{path}: is larger than {bounds.BYTES >> 20} MiB, which no configuration is")
            return cls(str(path), content.decode())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None

    def fault(self, place: Place, text: str) -> None:
        self.faults.append(self._at(place) + text)

    def warn(self, place: Place, text: str) -> None:
        self.warnings.append(self._at(place) + text)

    def _at(self, place: Place) -> str:
        near = place
        while near and near not in self.lines:
            near = near[:-1]
        key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
        key = UNSEEN.sub(lambda found: repr(found[0])[1:-1], key)
        return f"{self.name}:{self.lines.get(near, 1)}: " + (f"{key}: " if key else "")

    def _plain(self, node: yaml.Node, place: Place) -> Any:
        """The node as dicts, lists and scalars, with the line of each place noted."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, index)) for index, item in enumerate(node.value)]
        self._printable(node.value, place)
        try:
            return self._loader.construct_object(node)
        except ValueError:  # e.g. 2026-13-45, which looks like a date
            return node.value

    def _printable(self, text: str, place: Place) -> None:
        """No value of a configuration has several lines or characters that cannot be seen: they are slips, or worse."""
        if found := UNSEEN.search(text):
            end = " (a block that begins with | or > ends with one; write |- or >-)" if text.endswith("\n") else ""
            self.fault(place, f"has the character {found[0]!r}, which no name, path or number has{end}")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        self._unique(node, place)
        self._loader.flatten_mapping(node)  # the merge key <<
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                self.lines[(*place, str(key))] = line
                self.fault((*place, str(key)), "this key is no text; put it in quotes")
                continue
            self.lines[(*place, key)] = line
            self._printable(key, (*place, key))
            found[key] = self._plain(value_node, (*place, key))
        return found

    def _unique(self, node: yaml.MappingNode, place: Place) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if isinstance(key, str) and key != "<<" and first.setdefault(key, line) != line:
                self.lines[(*place, key)] = line
                self.fault((*place, key), f"the key is there twice, first in line {first[key]}; remove one")

    def build(self, kind: Any, value: Any, place: Place) -> Any:
        """The value as `kind`; every fault below is noted.

        What is faulty is replaced by its default, else by None, so that later checks can look at the rest.
        """
        shape, meta = _bare(kind)
        if value is None and types.NoneType in _options(shape):
            return None
        options = [option for option in _options(shape) if option is not types.NoneType]
        if len(options) == 1 and options[0] is not shape:
            return self.build(options[0], value, place)
        if isinstance(shape, type) and issubclass(shape, msgspec.Struct):
            return self._struct(shape, value, place)
        if (choices := _choices(shape)) is not None:
            return self._choice(choices, value, place)
        before = len(self.faults)
        if get_origin(shape) in (tuple, list) and isinstance(value, list):
            item = get_args(shape)[0]
            items = [self.build(item, one, (*place, index)) for index, one in enumerate(value)]
            return self._leaf(kind, items, place) if len(self.faults) == before else get_origin(shape)(items)
        if get_origin(shape) is dict and isinstance(value, dict):
            entries = {key: self.build(get_args(shape)[1], one, (*place, key)) for key, one in value.items()}
            return self._leaf(kind, entries, place) if len(self.faults) == before else entries
        try:
            value = _with_unit(value, meta)
        except ValueError as error:
            return self.fault(place, str(error))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            is_time = any(one.extra == UNIT for one in meta)
            if fault := _beyond(value, is_time):
                return self.fault(place, fault)
        return self._leaf(kind, value, place)

    def _struct(self, kind: type[msgspec.Struct], value: Any, place: Place) -> Any:
        if not isinstance(value, dict):
            return self.fault(place, f"is {_word(value)}; should be a mapping")
        before = len(self.faults)
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in value.keys() - fields.keys():
            self.fault((*place, key), f"unknown key; {nearest(key, fields)}")
        found: dict[str, Any] = {}
        for key, field in fields.items():
            if key in value:
                faults = len(self.faults)
                built = self.build(field.type, value[key], (*place, key))
                if built is not None or field.required or len(self.faults) == faults:
                    found[field.name] = built
            elif field.required:
                self.fault((*place, key), f"missing; should be {_wanted(field.type)}")
                found[field.name] = None
        if len(self.faults) > before and hasattr(kind, "__post_init__"):
            return None  # its own checks would stumble over what is known to be wrong
        try:
            return kind(**found)
        except ConfigError as error:
            for fault in error.found:
                self.fault((*place, *fault.key), fault.text)
        except (ValueError, TypeError) as error:
            self.fault(place, str(error))

    def _choice(self, choices: dict[str, Any], value: Any, place: Place) -> Any:
        if isinstance(value, str) and value in choices:
            return choices[value]
        said = f"{value!r} is unknown" if isinstance(value, str) else f"is {_word(value)}"
        return self.fault(place, f"{said}; should be one of {', '.join(choices)}")

    def _leaf(self, kind: Any, value: Any, place: Place) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self.fault(place, _say(str(error)))


def _with_unit(value: Any, meta: tuple[msgspec.Meta, ...]) -> Any:
    """The number that a text with a unit means, where one may be; raises ValueError."""
    units = [one.extra["unit"] for one in meta if one.extra and "unit" in one.extra]
    return READERS[units[0]](value) if isinstance(value, str) and units else value


def _beyond(value: float, is_time: bool) -> str:
    """Why no setting can have this number, "" if one may."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no number that can be counted with"
    if is_time and value > LONGEST:
        return "is more than ten years; write a shorter time"
    return "is more than 9223372036854775807" if abs(value) > MOST else ""


def _bare(kind: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    if get_origin(kind) is not Annotated:
        return kind, ()
    shape, *marks = get_args(kind)
    return shape, tuple(mark for mark in marks if isinstance(mark, msgspec.Meta))


def _options(shape: Any) -> tuple[Any, ...]:
    return get_args(shape) if get_origin(shape) in (Union, types.UnionType) else (shape,)


def _choices(shape: Any) -> dict[str, Any] | None:
    if get_origin(shape) is Literal:
        return {choice: choice for choice in get_args(shape)}
    if isinstance(shape, type) and issubclass(shape, enum.Enum):
        return {choice.value: choice for choice in shape}
    return None


def _word(value: Any) -> str:
    return WORDS.get(SHAPES.get(type(value), ""), type(value).__name__)


def _wanted(kind: Any) -> str:
    shape, _ = _bare(kind)
    if (choices := _choices(shape)) is not None:
        return f"one of {', '.join(choices)}; there is no default"
    origin = get_origin(shape) or shape
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return "a mapping"
    return WORDS.get(
        {tuple: "array", list: "array", dict: "object"}.get(origin, getattr(origin, "__name__", "")), "set"
    )


def _say(text: str) -> str:
    """msgspec's words in ours: "Expected `str`, got `int`" -> "is a whole number; should be text"."""
    match = re.match(r"Expected `([^`]+)`, got `([^`]+)`(?: - at `\$(.*)`)?$", text)
    if not match:
        return re.sub(r"^Expected", "should be", text).replace("`", "")
    wanted, got = (" or ".join(WORDS.get(word, word) for word in part.split(" | ")) for part in match.group(1, 2))
    quotes = " (put it in quotes)" if "text" in wanted and match[2] in ("int", "float", "bool", "date") else ""
    return f"is {got}; should be {wanted}{quotes}"
