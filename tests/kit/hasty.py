"""The program with waits of its own cut short, for tests that would sit them out; all else is as users run it."""

from __future__ import annotations

from adapters.etcd.source import AUDIT_TIME, PROBE_TIME, EtcdSource
from bridge.cli.main import main
from mappings import eureka

AUDIT, RENEWAL = 5.0, 3  # seconds, for 60 and 30

if __name__ == "__main__":
    made = EtcdSource.__init__
    assert made.__defaults__ == (AUDIT_TIME, PROBE_TIME)
    made.__defaults__ = (AUDIT, PROBE_TIME)
    eureka.RENEWAL = RENEWAL
    main(prog_name="isthmus")
