"""Kubernetes, whose watches end every three seconds instead of every five minutes, and may be silent for six."""

from __future__ import annotations

from pathlib import Path

from adapters import kubernetes
from adapters.kubernetes import Config, Kubernetes
from adapters.kubernetes.times import Times

__all__ = ["Config", "create"]


def create(name: str, config: Config, state: Path | None) -> Kubernetes:
    """See `adapters.kubernetes.create`. Before a watch ends there is a bookmark, so that a live one is never silent."""
    return kubernetes.create(name, config, state, times=Times(watch=3.0, silence=6.0))
