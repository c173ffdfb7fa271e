"""What an operator says of instances in the place of their source: by command, or in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

LONGEST = 512  # characters of what one is of
Weight = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Override(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One override. None, and no metadata: that is left to the source.

    `of`: SERVICE[@REGISTRY][/INSTANCE], as named at the source; without a registry it is of each that has the service.
    `at`: the destination, "" each. `weight`: relative, 1 is a convention's default; 0 counts as not serving.
    `including_last`: it may take the last serving instance of a service.
    """

    of: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST)]
    at: str = ""
    weight: Weight | None = None
    zone: str | None = None
    health: Literal["DRAINING", "UNHEALTHY"] | None = None
    metadata: dict[str, str] = {}
    including_last: bool = False
    reason: str = ""

    @property
    def says(self) -> str:
        """What it says, as `isthmus set` takes it; "" where it says nothing."""
        fields = {"weight": None if self.weight is None else f"{self.weight:g}", "zone": self.zone}
        fields |= {"health": self.health, **{f"metadata.{key}": text for key, text in self.metadata.items()}}
        return " ".join(f"{field}={text}" for field, text in fields.items() if text is not None)

    @property
    def stops(self) -> bool:
        """Whether what it is of does not serve any more."""
        return self.health is not None or self.weight == 0

    def readings(self) -> Iterator[tuple[str, str, str | None]]:
        """Everything that `of` may mean: service, registry ("": any), instance (None: all of the service).

        Names and ids may have an `@` and a `/` of their own; only one reading names what there is.
        """
        yield self.of, "", None
        yield from ((service, "", instance) for service, instance in _splits(self.of, "/"))
        for service, rest in _splits(self.of, "@"):
            registry, slash, instance = rest.partition("/")  # registries have no slash in their names
            yield service, registry, instance if slash else None

    def meant(self, service: str, registry: str) -> set[str | None]:
        """The instances of that service of that registry that it is of; None: all of them."""
        return {instance for name, at, instance in self.readings() if name == service and at in ("", registry)}


def _splits(text: str, sign: str) -> Iterator[tuple[str, str]]:
    at = text.find(sign)
    while at > 0:
        yield text[:at], text[at + 1 :]
        at = text.find(sign, at + 1)
