"""etcd, whose watches are audited every five seconds instead of once a minute."""

from __future__ import annotations

from pathlib import Path

from adapters import etcd
from adapters.etcd import Config, Etcd, place
from adapters.etcd.times import Times

__all__ = ["Config", "create", "place"]


def create(name: str, config: Config, state: Path | None) -> Etcd:
    """See `adapters.etcd.create`."""
    return etcd.create(name, config, state, Times(audit=5.0))
