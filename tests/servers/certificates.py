"""An authority of the tests' own, with a certificate for servers on 127.0.0.1 and one for a client."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme

from tests.servers.etcd import Tls

DAY = timedelta(days=1)


class Certificates(NamedTuple):
    """PEM files. `client` has the common name `isthmus`; `stranger` is a client of an authority that nobody trusts.

    `expired` is a client whose time is over.
    """

    ca: Path
    server: Tls
    client: Tls
    stranger: Tls
    expired: Tls


def issue(folder: Path) -> Certificates:
    """Writes a new authority's files into the folder."""
    authority = trustme.CA()
    ca = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    server = authority.issue_cert("127.0.0.1", "localhost")
    client = authority.issue_cert("isthmus.test", common_name="isthmus")
    past = datetime.now(UTC) - timedelta(days=1)
    over = authority.issue_cert("isthmus.test", common_name="isthmus", not_before=past - DAY, not_after=past)
    stranger = trustme.CA().issue_cert("isthmus.test", common_name="isthmus")
    return Certificates(
        ca,
        _written(server, folder / "server"),
        _written(client, folder / "client"),
        _written(stranger, folder / "stranger"),
        _written(over, folder / "expired"),
    )


def _written(leaf: trustme.LeafCert, stem: Path) -> Tls:
    cert, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    return Tls(cert, key)
