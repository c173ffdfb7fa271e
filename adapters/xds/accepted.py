"""The versions of resources that one client has: what many were told in one response is kept once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

MANY = 64  # names in a response that is kept as it is
LAYERS = 32  # of such responses, beyond which a client keeps what it is told for itself


class Accepted:
    """A mapping of names to versions. Responses are never changed, so that clients may share them."""

    def __init__(self) -> None:
        self._own: dict[str, str] = {}  # before the others; "": it is gone
        self._shared: list[Mapping[str, str]] = []  # the last one counts

    def __contains__(self, name: str) -> bool:
        return bool(self.get(name))

    def __len__(self) -> int:
        return len(self.all())

    def get(self, name: str) -> str:
        """The version that it has, "" none."""
        found = self._own.get(name)
        if found is not None:
            return found
        return next((layer[name] for layer in reversed(self._shared) if name in layer), "")

    def take(self, names: Mapping[str, str]) -> None:
        """It has these now; "": it has it no more."""
        if len(names) < MANY or len(self._shared) >= LAYERS:
            for name, version in names.items():
                if version:
                    self._own[name] = version
                else:
                    self.drop(name)
            return
        for name in self._own.keys() & names.keys():
            del self._own[name]
        self._shared.append(names)

    def drop(self, name: str) -> None:
        """It has it no more."""
        self._own.pop(name, None)
        if any(name in layer for layer in self._shared):
            self._own[name] = ""

    def only(self, wanted: Callable[[str], bool]) -> None:
        """It has no others any more."""
        self._own = {name: version for name, version in self.all().items() if wanted(name)}
        self._shared = []

    def all(self) -> dict[str, str]:
        """The version of each that it has."""
        found: dict[str, str] = {}
        for layer in (*self._shared, self._own):
            found.update(layer)
        return {name: version for name, version in found.items() if version}
