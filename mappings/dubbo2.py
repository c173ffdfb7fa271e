"""The providers of Dubbo's interface level in ZooKeeper: `interface/providers/<escaped URL>`, all of it in the name.

Source: Dubbo 2.7.23 and 3.3.6 and dubbo-go v3.3.0, as seen. The URL is escaped as a whole, once, in upper case; Java
and Go differ in `*` and `~`, and another spelling is another provider. Consumers see a provider only under its own
interface, group and version. The timestamp stays as it is: the warm-up counts from it.

A URL may hold secrets, so neither the id nor `Instance.native` repeats it: the id is made of host, port and a hash, and
native has the parameters' order without the values that are metadata.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from sys import intern
from urllib.parse import quote_plus, unquote_plus

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Health, Instance, ServiceName, Traits
from mappings import hostport, shared, weights

NAME = "dubbo2"
PREFIX = "/dubbo"
PROTOCOL = ""  # the URL's scheme says it
IN_NAME = True  # the node's name is the record: `decode` takes it as the value, and the node's own bytes say nothing
TRAITS = Traits(
    fields=frozenset({"address", "ports", "weight", "version", "metadata"}),  # the id is made of the URL
    ports=1,
    port_names=False,
    tls=False,
    namespaces=True,  # Dubbo's groups
)

_DEFAULT = 100
_PROTOCOLS = frozenset({"dubbo", "tri"})
_FIELDS = frozenset({"interface", "group", "version", "weight"})

# java.net.URLEncoder and Go's url.QueryEscape (conventions 0.3).
_RAW = {"java": "*-._", "go": "~-._"}
_TABLES = {
    style: {
        code: "+" if code == 32 else f"%{code:02X}"
        for code in range(128)
        if not chr(code).isalnum() and chr(code) not in raw
    }
    for style, raw in _RAW.items()
}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*").fullmatch
_INTERFACE = re.compile(r"\w[\w.$-]*").fullmatch
_GROUP = re.compile(r"[\w.$/:-]*").fullmatch


class _Url(msgspec.Struct, frozen=True, gc=False):
    """`parameters`: in the order read; the value is None where not even a `=` follows the key."""

    style: str
    protocol: str
    authority: str
    path: str
    parameters: dict[str, str | None]


class _Skeleton(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A URL without what the model says. `keys` in their order, `bare` those without a `=`."""

    protocol: str
    path: str
    interface: str
    group: str
    keys: tuple[str, ...]
    bare: tuple[str, ...] = ()
    style: str = "java"


_SKELETON = msgspec.json.Decoder(_Skeleton)
_FOREIGN = _Skeleton("", "", "", "", ())


def locate(key: str) -> tuple[ServiceName, str] | None:
    """Of `interface/providers/URL`, the namespace being the group; consumers and configurators are no instances."""
    interface, _, rest = key.partition("/")
    folder, _, segment = rest.partition("/")
    if folder != "providers" or not interface or not segment or "/" in segment:
        return None
    try:
        url = _url(segment)
    except ValueError:
        return ServiceName(unquote_plus(interface)), _id(segment)
    return ServiceName(unquote_plus(interface), url.parameters.get("group") or ""), _id(segment)


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    """Of the node's name, as `value`: see `IN_NAME`."""
    try:
        url = _url(value.decode())
        address, number = hostport.split(url.authority)
        if url.protocol in ("consumer", "override", "empty", "route"):
            raise ValueError(f"{url.protocol}:// is no provider")
        if url.parameters.get("category", "providers") != "providers":
            raise ValueError(f"category={url.parameters['category']}")
        if (url.parameters.get("interface") or url.path) != name.name:
            raise ValueError("it names another interface")
        weight = _weight(url.parameters.get("weight"))
    except ValueError as error:
        raise Undecodable(f"not a provider's URL: {error}") from None
    metadata = {key: text or "" for key, text in url.parameters.items() if key not in _FIELDS}
    skeleton = _Skeleton(
        url.protocol,
        url.path,
        name.name,
        url.parameters.get("group") or "",
        tuple(url.parameters),
        tuple([key for key, text in url.parameters.items() if text is None]),
        url.style,
    )
    return Instance(
        id,
        address,
        (hostport.port(number, url.protocol),),
        health=_health(metadata),
        weight=weight,
        version=url.parameters.get("version") or "",
        metadata=metadata,
        native=shared.dump(NAME, skeleton),
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    skeleton = shared.load(instance, NAME, _SKELETON, _FOREIGN)
    port = hostport.one_port(instance)
    if skeleton is _FOREIGN:
        if port.protocol not in _PROTOCOLS:
            raise Rejected(f"not a Dubbo provider: port {port.number} speaks {port.protocol or 'an unknown protocol'}")
        if not _INTERFACE(name.name) or not _GROUP(name.namespace):
            raise Rejected(f"{name} is no interface that Dubbo could serve")
    elif (skeleton.interface, skeleton.group) != name:
        said = ServiceName(skeleton.interface, skeleton.group)
        raise Rejected(f"a Dubbo provider answers for its own interface and group, {said}, and not for {name}")
    elif skeleton.protocol != port.protocol:
        raise Rejected(f"the provider speaks {skeleton.protocol}, and port {port.number} {port.protocol}")
    query = "&".join(_parameters(name, instance, skeleton))
    text = (
        f"{port.protocol}://{hostport.join(hostport.address_of(instance), port.number)}"
        f"/{skeleton.path or name.name}{'?' if query else ''}{query}"
    )
    style = skeleton.style if skeleton.style in _RAW else "java"
    return f"{_escape(name.name, style)}/providers/{_escape(text, style)}", b""


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    segment = encode(name, instance)[0].rpartition("/")[2]
    made = decode(name, _id(segment), segment.encode(), protocol)
    return instance if made == instance else made


@lru_cache(maxsize=1024)  # a path is located first, and decoded next
def _url(segment: str) -> _Url:
    text = unquote_plus(segment, errors="strict")
    style = next((style for style in _RAW if _escape(text, style) == segment), "java")
    body, _, query = text.partition("?")
    protocol, colon, rest = body.partition("://")
    authority, _, path = rest.partition("/")
    if not colon or not _SCHEME(protocol):
        raise ValueError(f"no URL: {text!r}")
    if "@" in authority:
        raise ValueError("a URL with a user's name in it is not carried")
    parameters: dict[str, str | None] = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if key:
            parameters[intern(key)] = intern(value) if equals else None
    return _Url(style, protocol, authority, path, parameters)


def _id(segment: str) -> str:
    """A short name for the node: host and port, and a hash, for the same socket may serve several versions."""
    digest = blake2b(segment.encode(), digest_size=6).hexdigest()
    try:
        return f"{_url(segment).authority}-{digest}"
    except ValueError:
        return digest


def _parameters(name: ServiceName, instance: Instance, skeleton: _Skeleton) -> list[str]:
    """Of the URL: those that were read, in their order, with the values of now, and new ones sorted."""
    weight = weights.write(instance.weight, _DEFAULT, 0)
    values = {key: text for key, text in instance.metadata.items() if key not in _FIELDS}
    for key, text in values.items():
        if "&" in text or "&" in key or "=" in key or not key:
            raise Rejected(f"metadata {key!r} would break the URL: Dubbo escapes no '&' and no '='")
    if skeleton is _FOREIGN or "interface" in skeleton.keys:
        values["interface"] = name.name
    if name.namespace:
        values["group"] = name.namespace
    if instance.version:
        if "&" in instance.version:
            raise Rejected(f"version {instance.version!r} would break the URL")
        values["version"] = instance.version
    if weight != _DEFAULT or "weight" in skeleton.keys:
        values["weight"] = str(weight)
    known = set(skeleton.keys)
    order = [key for key in skeleton.keys if key in values]
    new = [key for key in values if key not in known]
    if new:
        order = sorted(values) if skeleton is _FOREIGN else order + sorted(new)
    return [key if not values[key] and key in skeleton.bare else f"{key}={values[key]}" for key in order]


def _weight(text: str | None) -> float:
    if text is None:
        return 1.0
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"weight={text} makes every call throw")
    return weights.read(int(text), _DEFAULT)


def _health(metadata: dict[str, str]) -> Health:
    off = metadata.get("disabled") == "true" or metadata.get("enabled") == "false"
    return Health.DRAINING if off else Health.UNKNOWN


def _escape(text: str, style: str) -> str:
    if text.isascii():
        return text.translate(_TABLES[style])
    escaped = quote_plus(text, safe=_RAW[style].replace("-", "").replace("_", "").replace(".", ""))
    return escaped.replace("~", "%7E") if style == "java" else escaped
