"""The name that a data plane knows a service by, from a template of the registry's block."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter

from bridge.errors import Fault
from bridge.model import Port, ServiceName

FIELDS = ("name", "namespace", "port")


class Naming:
    """A template such as `{namespace}-{name}`; with `{port}` each port of a service has a name of its own."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._fields = frozenset(_fields(template))

    @property
    def by_port(self) -> bool:
        """Whether an instance may have several ports here."""
        return "port" in self._fields

    @property
    def by_namespace(self) -> bool:
        """Whether services of two namespaces may have one name."""
        return "namespace" in self._fields

    def name(self, service: ServiceName, port: Port) -> str:
        """The name of a service at one of its ports, which is named by its name or else its number."""
        return self._template.format(name=service.name, namespace=service.namespace, port=port.name or port.number)

    def service(self, name: str) -> ServiceName | None:
        """The one service that has a name; None where several could, or none can."""
        if self._fields != {"name"} or self._template.count("{name}") != 1:
            return None
        before, after = (part.format() for part in self._template.split("{name}"))
        inside = name[len(before) : len(name) - len(after)]
        return ServiceName(inside) if inside and name == before + inside + after else None


def faults(template: str, key: str) -> Iterator[Fault]:
    """What is wrong with a template under that key."""
    try:
        fields = list(_fields(template))
    except ValueError as error:
        yield Fault(f"is no template: {error}; write e.g. {{namespace}}-{{name}}", (key,))
        return
    for field in fields:
        if field not in FIELDS:
            yield Fault(f"{{{field}}} is unknown; only {', '.join(f'{{{one}}}' for one in FIELDS)}", (key,))
    if "name" not in fields:
        yield Fault("has no {name}: all services would be one", (key,))


def _fields(template: str) -> Iterator[str]:
    for _, field, spec, conversion in Formatter().parse(template):
        if field is not None:
            yield field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
