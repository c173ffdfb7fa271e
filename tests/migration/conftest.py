"""The servers of the matrix, for moves from each kind of registry."""

from __future__ import annotations

from tests.matrix.conftest import etcd_store, stores, zookeeper_store

__all__ = ["etcd_store", "stores", "zookeeper_store"]
