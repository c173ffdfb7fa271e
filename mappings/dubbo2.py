"""The providers of Dubbo's interface level in ZooKeeper: `interface/providers/<escaped URL>`, all of it in the name.

Source: Dubbo 2.7.23 and 3.3.6 and dubbo-go v3.3.0, as seen. The URL is escaped as a whole, once, in upper case; Java
and Go differ in `*` and `~`, and another spelling is another provider. Consumers see a provider only under its own
interface, group and version. The timestamp stays as it is: the warm-up counts from it. A URL of ours always has a
weight: consumers of 3 that balance at random regard no weight at all where the first URL of their list says none.

A URL is read as `org.apache.dubbo.common.URL` reads it: the last colon separates host and port, also in a bare IPv6
address; `&` and `;` separate parameters, and neither can be escaped; `default.key` counts where `key` is missing.

A URL may hold secrets, so neither the id nor metadata repeats them. Consumers need the token for every call: it is kept
apart in `Instance.native`, and goes to this layout only. A user's name and password are no part of any call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from sys import intern
from urllib.parse import quote_plus, unquote_plus

import msgspec

from bridge.errors import Rejected
from bridge.model import CONFIDENTIAL, LOST, Health, Instance, Port, ServiceName, Traits
from mappings.common import hostport, interning, weights
from mappings.common.faults import unreadable

NAME = "dubbo2"
PREFIX = "/dubbo"
PROTOCOL = ""  # the URL's scheme says it
IN_NAME = True  # the node's name is the record: `decode` takes it as the value, and the node's own bytes say nothing
# What consumers act on in a provider's URL: a copy without it is called in a way that its provider does not serve.
_NEEDED = frozenset(
    {
        "codec",
        "deprecated",
        "disabled",
        "dubbo",
        "enabled",
        "exchanger",
        "generic",
        "heartbeat",
        "methods",
        "path",
        "payload",
        "prefer.serialization",
        "release",
        "revision",
        "serialization",
        "side",
        "ssl-enabled",
        "timestamp",
        "token",
        "transporter",
        "warmup",
    }
)
TRAITS = Traits(
    fields=frozenset({"address", "ports", "weight", "version", "metadata"}),  # the id is made of the URL
    ports=1,
    port_names=False,
    tls=False,
    namespaces=True,  # Dubbo's groups
    identity=("protocol", "version"),
    confidential=f"{CONFIDENTIAL}{NAME}",
    needs=_NEEDED | {f"default.{key}" for key in _NEEDED},
)

_DEFAULT = 100
# A consumer of 2.7 that has read a URL without it fails at each later change of the interface: its list is frozen.
_APPLICATION = "isthmus"
_PROTOCOLS = frozenset({"dubbo", "tri"})
_NO_PROVIDERS = frozenset({"absent", "condition", "configurator", "consumer", "empty", "override", "route", "script"})
_DEFAULTS = "default."
_FIELDS = frozenset({"interface", "group", "version", "weight"})  # what the model says
_RESERVED = _FIELDS | {_DEFAULTS + field for field in _FIELDS}
_TOKENS = frozenset({"token", "default.token"})
# What the reader splits a URL's parameters at, in keys and in values.
_BREAKS = {"key": re.compile("[&;=]").search, "value": re.compile("[&;]").search}
# A consumer parses these for every call, also behind a method's name: each call throws over what is no number.
_NUMBERS = re.compile(
    r"(?:.*\.)?(?:weight|warmup|timestamp|timeout|retries|connections|heartbeat|payload|actives|executes)"
).fullmatch

# What java.net.URLEncoder and Go's url.QueryEscape leave as it is: they differ in `*` and `~`.
_RAW = {"java": "*-._", "go": "~-._"}
_TABLES = {
    style: {
        code: "+" if code == 32 else f"%{code:02X}"
        for code in range(128)
        if not chr(code).isalnum() and chr(code) not in raw
    }
    for style, raw in _RAW.items()
}
_CUT = tuple(map(chr, range(33)))  # what Java's String.trim takes for a blank
_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})").search
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*").fullmatch
_INTERFACE = re.compile(r"\w[\w.$-]*").fullmatch
_GROUP = re.compile(r"[\w.$/:-]*").fullmatch
_NUMBER = re.compile(r"[+-]?[0-9]{1,19}").fullmatch


class _Url(msgspec.Struct, frozen=True, gc=False):
    """`parameters`: in the order read; the value is None where not even a `=` follows the key.

    `authority`: host and port as they are spelled, with `:@` before them where that is there. `user`: whether a user's
    name or password was left out of it. `semicolons`: the keys that follow a `;`.
    """

    style: str
    protocol: str
    authority: str
    path: str
    parameters: dict[str, str | None]
    semicolons: tuple[str, ...] = ()
    user: bool = False

    def said(self, key: str) -> str:
        """The parameter's value as the reader has it, "" where there is none."""
        parameters = self.parameters
        return (parameters[key] if key in parameters else parameters.get(_DEFAULTS + key)) or ""


class _Skeleton(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A URL without what the model says. `keys` in their order, `bare` those without a `=`, `semicolons` after a `;`.

    `authority` and `weight`: as they are spelled, where they would be written in another way.
    """

    protocol: str
    path: str
    interface: str
    group: str
    keys: tuple[str, ...]
    bare: tuple[str, ...] = ()
    style: str = "java"
    semicolons: tuple[str, ...] = ()
    authority: str = ""
    weight: str | None = None


_SKELETON = msgspec.json.Decoder(_Skeleton)
_FOREIGN = _Skeleton("", "", "", "", ())
_SECRETS = msgspec.json.Decoder(dict[str, str])


def locate(key: str) -> tuple[ServiceName, str] | None:
    """Of `interface/providers/URL`, the namespace being the group; consumers and configurators are no instances."""
    interface, _, rest = key.partition("/")
    folder, _, segment = rest.partition("/")
    if folder != "providers" or not interface or not segment or "/" in segment:
        return None
    try:
        group = _url(segment).said("group")
    except ValueError:
        group = ""
    return ServiceName(unquote_plus(interface), group), _id(segment)


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    """Of the node's name, as `value`: see `IN_NAME`."""
    try:
        url = _url(value.decode())
        address, number = _socket(url.authority)
        _is_provider(url, name)
    except ValueError as error:
        raise unreadable("not a provider's URL", error) from None
    port = (hostport.port(number, url.protocol),) if 0 < number < 65536 else ()
    weight = _weight(url.said("weight"))
    metadata, tokens, numberless = _told_apart(url.parameters)
    lost = [*(["user name"] if url.user else []), *([f"port {number}"] if number >= 65536 else []), *numberless]
    skeleton = _Skeleton(
        url.protocol,
        url.path,
        name.name,
        name.namespace,
        tuple(url.parameters),
        tuple([key for key, text in url.parameters.items() if text is None]),
        url.style,
        url.semicolons,
        "" if port and url.authority == hostport.join(address, number) else url.authority,
        _spelled(url.parameters.get("weight"), weight),
    )
    native = interning.dump(NAME, skeleton)
    if tokens or lost:
        native = dict(native)
        if tokens:
            native[TRAITS.confidential] = msgspec.json.encode(tokens).decode()
        if lost:
            native[LOST] = ", ".join(lost)
    return Instance(
        id,
        address,
        port,
        health=Health.DRAINING if _is_off(url) else Health.UNKNOWN,
        weight=weight,
        version=url.said("version"),
        metadata=metadata,
        native=native,
    )


def _told_apart(parameters: Mapping[str, str | None]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """A URL's parameters: metadata, tokens, and what is lost because its readers take it for a number."""
    metadata: dict[str, str] = {}
    tokens: dict[str, str] = {}
    lost: list[str] = []
    for key, text in parameters.items():
        if text != "" and _NUMBERS(key) and _number(key, text or key) is None:  # 2.7 takes a bare key for its value
            lost.append(f"{key}={text} (no number)" if text else f"{key} (no number)")
        elif key in _TOKENS:
            tokens[key] = text or ""
        elif key not in _FIELDS:
            metadata[key] = text or ""
    return metadata, tokens, lost


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    skeleton = interning.load(instance, NAME, _SKELETON, _FOREIGN)
    scheme, authority = _target(name, instance, skeleton)
    values = _values(name, instance, skeleton)
    query = ""
    for key, value in values.items():
        _parse(key, value)
        query += (";" if key in skeleton.semicolons else "&") if query else ""
        query += key if not value and key in skeleton.bare else f"{key}={value}"
    text = f"{scheme}://{authority}/{skeleton.path or name.name}{'?' if query else ''}{query}"
    style = skeleton.style if skeleton.style in _RAW else "java"
    segment = _escape(text, style)
    _read_back(name, instance, segment, values)
    return f"{_escape(name.name, style)}/providers/{segment}", b""


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    segment = encode(name, instance)[0].rpartition("/")[2]
    made = decode(name, _id(segment), segment.encode(), protocol)
    return instance if made == instance else made


# Reading.


@lru_cache(maxsize=1024)  # a path is located first, and decoded next
def _url(segment: str) -> _Url:
    if _NO_ESCAPE(segment):
        raise ValueError("a % in it begins no escape")
    text = unquote_plus(segment)
    style = next((style for style in _RAW if _escape(text, style) == segment), "java")
    body, _, query = text.partition("?")
    protocol, colon, rest = body.partition("://")
    whole, _, path = rest.partition("/")
    if not colon or not _SCHEME(protocol):
        raise ValueError("no scheme:// at its beginning")
    user, at, authority = whole.rpartition("@")
    empty = user == ":"
    parameters: dict[str, str | None] = {}
    semicolons: list[str] = []
    separator = "&"
    for part in re.split("([&;])", query):
        if part in ("&", ";"):
            separator = part
            continue
        key, equals, value = part.partition("=")
        if not key or (key in parameters and key.startswith(_DEFAULTS)):  # the first default counts, and the last value
            continue
        if separator == ";" and parameters:
            semicolons.append(key)
        parameters[intern(key)] = intern(value) if equals else None
    spelled = f":@{authority}" if at and empty else authority
    return _Url(style, protocol, spelled, path, parameters, tuple(semicolons), bool(at and user and not empty))


def _socket(authority: str) -> tuple[str, int]:
    """The address, and the port: 0 where there is none. Raises ValueError."""
    authority = authority.removeprefix(":@")
    host, colon, number = authority.rpartition(":")
    if not colon or "%" in number:  # the colon is one of a bare IPv6 address with a zone
        return hostport.host(authority), 0
    if not _NUMBER(number):
        raise ValueError(f"no port behind the last colon of {authority!r}")
    return hostport.host(host), max(0, int(number))


def _is_provider(url: _Url, name: ServiceName) -> None:
    """Raises ValueError where consumers of that interface would not take it for a provider."""
    if url.protocol in _NO_PROVIDERS:
        raise ValueError(f"{url.protocol}:// is no provider")
    if url.said("category") not in ("", "providers"):
        raise ValueError(f"category={url.said('category')}")
    if (url.said("interface") or url.path) != name.name:
        raise ValueError("it names another interface")


def _number(key: str, text: str) -> int | None:
    """As Java parses it, a weight in 32 bits, times in 64; None: it throws."""
    return weights.parse(text, 64 if key.endswith("timestamp") else 32)


def _weight(text: str) -> float:
    number = _number("weight", text)
    return 1.0 if number is None else weights.read(max(0, number), _DEFAULT)


def _spelled(text: str | None, weight: float) -> str | None:
    """The weight's text where the reader takes it for that weight, and it would be written in another way."""
    if text is None or (text and _number("weight", text) is None) or text == str(weights.write(weight, _DEFAULT, 0)):
        return None
    return text


def _is_off(url: _Url) -> bool:
    disabled, enabled = url.said("disabled").lower(), url.said("enabled").lower()
    return disabled == "true" or enabled not in ("", "true")


def _id(segment: str) -> str:
    """A short name for the node: host and port, and a hash, for the same socket may serve several versions."""
    digest = blake2b(segment.encode(), digest_size=6).hexdigest()
    try:
        return f"{_url(segment).authority.removeprefix(':@')}-{digest}"
    except ValueError:
        return digest


# Writing.


def _target(name: ServiceName, instance: Instance, skeleton: _Skeleton) -> tuple[str, str]:
    """Scheme and authority. Raises Rejected where this is no provider of that interface and group."""
    address = hostport.address_of(instance)
    port = hostport.one_port(instance) if instance.ports or not skeleton.authority else None
    if skeleton is _FOREIGN:
        if port is None or port.protocol not in _PROTOCOLS:
            raise Rejected(f"not a Dubbo provider: {_spoken(port)}")
        if not _INTERFACE(name.name) or not _GROUP(name.namespace):
            raise Rejected(f"{name} is no interface that Dubbo could serve")
        return port.protocol, hostport.join(address, port.number)
    if (skeleton.interface, skeleton.group) != name:
        said = ServiceName(skeleton.interface, skeleton.group)
        raise Rejected(f"a Dubbo provider answers for its own interface and group, {said}, and not for {name}")
    if port is not None and skeleton.protocol != port.protocol:
        raise Rejected(f"the provider speaks {skeleton.protocol}, and {_spoken(port)}")
    if skeleton.authority and _same(skeleton.authority, address, port):
        return skeleton.protocol, skeleton.authority
    if port is None:
        raise Rejected("no port")
    return skeleton.protocol, hostport.join(address, port.number)


def _spoken(port: Port | None) -> str:
    return "no port" if port is None else f"port {port.number} speaks {port.protocol or 'an unknown protocol'}"


def _same(authority: str, address: str, port: Port | None) -> bool:
    try:
        host, number = _socket(authority)
    except ValueError:
        return False
    return host == address and (number if 0 < number < 65536 else None) == (port.number if port is not None else None)


def _values(name: ServiceName, instance: Instance, skeleton: _Skeleton) -> dict[str, str]:
    """The parameters: those that were read, in their order, with the values of now, and new ones sorted."""
    own = skeleton is not _FOREIGN
    values = {key: text for key, text in instance.metadata.items() if key not in (_FIELDS if own else _RESERVED)}
    if own:
        values |= _tokens(instance)
    if not own and not values.get("application"):
        values["application"] = _APPLICATION
    if not own or "interface" in skeleton.keys:
        values["interface"] = name.name
    for key, text in (("group", name.namespace), ("version", instance.version)):
        if key in skeleton.keys or text != values.get(_DEFAULTS + key, ""):
            values[key] = text
    number = weights.write(instance.weight, _DEFAULT, 0)
    spelled = skeleton.weight if _weight(skeleton.weight or "") == instance.weight else None
    inherited = values.get(_DEFAULTS + "weight", "")
    if inherited and _number("weight", inherited) is None:
        del values[_DEFAULTS + "weight"]
    if not own or "weight" in skeleton.keys or weights.write(_weight(inherited), _DEFAULT, 0) != number:
        values["weight"] = str(number) if spelled is None else spelled
    known = set(skeleton.keys)
    order = [key for key in skeleton.keys if key in values]
    new = sorted(key for key in values if key not in known)
    return {key: values[key] for key in (order + new if own else sorted(values))}


def _tokens(instance: Instance) -> dict[str, str]:
    try:
        found = _SECRETS.decode(instance.native.get(TRAITS.confidential, "{}"))
    except ValueError:
        return {}
    return {key: text for key, text in found.items() if key in _TOKENS}


def _parse(key: str, value: str) -> None:
    """Raises Rejected where the reader would see something else, or could not live with it."""
    if not key or _BREAKS["key"](key) or _BREAKS["value"](value):
        raise Rejected(f"{key!r} would break the URL: Dubbo splits it at '&', ';' and '=' and escapes none")
    if value and _NUMBERS(key) and _number(key, value) is None:
        raise Rejected(f"{key!r} is no number, and every call of a Dubbo consumer would throw")


def _read_back(name: ServiceName, instance: Instance, segment: str, values: dict[str, str]) -> None:
    """Raises Rejected where a reader of the written URL would not find what was meant: the last resort."""
    try:
        url = _url(segment)
        _is_provider(url, name)
    except ValueError as error:
        raise Rejected(f"consumers would not take it for a provider: {error}") from None
    read = {key: text or "" for key, text in url.parameters.items()}
    if read != values or (url.said("group"), url.said("version")) != (name.namespace, instance.version):
        raise Rejected("a Dubbo consumer would read another URL than was written")
    if instance.version.endswith(_CUT) or name.namespace.endswith(_CUT):
        raise Rejected(
            "a version or group with a blank at its end: Dubbo 2.7 cuts it off, and its consumers find another"
        )


def _escape(text: str, style: str) -> str:
    if text.isascii():
        return text.translate(_TABLES[style])
    escaped = quote_plus(text, safe=_RAW[style].replace("-", "").replace("_", "").replace(".", ""))
    return escaped.replace("~", "%7E") if style == "java" else escaped
