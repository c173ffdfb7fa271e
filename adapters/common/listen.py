"""Where a server of ours listens, and who may ask it: pure rules for the blocks of exports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec

from bridge.errors import Fault

Address = Annotated[str, msgspec.Meta(pattern=r"^.+:[0-9]{1,5}$")]  # "127.0.0.1:9798", "[::1]:9798"


class Listen(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen:
        """`127.0.0.1:9798` or `[::1]:9798`. Raises ValueError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no address and port; write e.g. 127.0.0.1:9798")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nobody on another host can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def faults(listen: str, *, protected: bool, by: str, key: str = "listen") -> Iterator[Fault]:
    """What is wrong with `listen`: beyond loopback nothing is served to whoever asks. `by`: what would protect it."""
    try:
        where = Listen.parse(listen)
    except ValueError as error:
        yield Fault(str(error), (key,))
        return
    if not protected and not where.is_loopback:
        yield Fault(f"{where.host} can be reached from outside: give {by}, or listen on 127.0.0.1", (key,))
