"""A YAML file as plain data that knows the line of every key, and strict Structs built from it, all faults at once."""

from __future__ import annotations

import difflib
import enum
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml

from bridge.errors import ConfigError

Place = tuple[str | int, ...]
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: 7 times faster

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
UNIT = {"unit": "s"}

ALSO = "also"  # in an extra_json_schema: another type that the file may use (msgspec lets nobody replace "type")
# Beside a float, also in an adapter's Config: the file may say it as text with a unit.
TIME = msgspec.Meta(
    extra=UNIT,
    extra_json_schema={ALSO: "string", "pattern": f"^{DURATION.pattern}$", "examples": ["30s", "10m", "1h30m", 90]},
)
Duration = Annotated[float, msgspec.Meta(ge=0), TIME]

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


def seconds(text: str) -> float:
    """ "1h30m" -> 5400.0. Raises ValueError where the text is no duration."""
    if not DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write 500ms, 30s, 10m, 1h30m, 2d or a number of seconds")
    return sum(float(number) * SECONDS[unit] for number, unit in PART.findall(text))


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
            node = self._loader.get_single_node()
            self.data = None if node is None else self._plain(node, (), ())
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
            return cls(str(path), path.read_text("utf-8"))
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
        return f"{self.name}:{self.lines.get(near, 1)}: " + (f"{key}: " if key else "")

    def _plain(self, node: yaml.Node, place: Place, above: tuple[int, ...]) -> Any:
        """The node as dicts, lists and scalars, with the line of each place noted."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in above:
            self.fault(place, "an alias that contains itself; write it out")
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, index), above) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except ValueError:  # e.g. 2026-13-45, which looks like a date
            return node.value

    def _mapping(self, node: yaml.MappingNode, place: Place, above: tuple[int, ...]) -> dict[str, Any]:
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
            found[key] = self._plain(value_node, (*place, key), above)
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
        if isinstance(value, str) and any(one.extra == UNIT for one in meta):
            try:
                value = seconds(value)
            except ValueError as error:
                return self.fault(place, str(error))
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
            for text in error.faults:
                self.fault(place, text)
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
