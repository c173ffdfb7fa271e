"""Secrets and certificates in files, read again when the files change, so that they rotate without a restart."""

from __future__ import annotations

import base64
import os
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509

from bridge.adapter import Credential
from bridge.errors import Denied, Fault, Unavailable

Stamp = tuple[int, int, int]


class Tls(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Paths of PEM files; `server_name` where the certificate is for another name than the address says."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None

    def faults(self) -> Iterator[Fault]:
        """What is wrong with a block `tls`, wherever its files may be."""
        if (self.cert is None) != (self.key is None):
            yield Fault("cert and key go together: give both or neither", ("tls",))

    def files(self) -> list[str]:
        """The paths that are given."""
        return [path for path in (self.ca, self.cert, self.key) if path is not None]


class Pems(NamedTuple):
    """What the files of a `Tls` say: equal as long as none of them is replaced."""

    stamps: tuple[Stamp, ...] = ()
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
    shown: Credential | None = None

    def read(self, tls: Tls) -> Pems:
        """As the files are now, for a library that reads none; itself where they are as before. Raises Unavailable."""
        try:
            stamps = tuple(map(_stamp, tls.files()))
            if stamps == self.stamps:
                return self
            ca, cert, key = (Path(path).read_bytes() if path else None for path in (tls.ca, tls.cert, tls.key))
        except OSError as error:
            raise Unavailable(f"cannot read a TLS file: {error}") from None
        return Pems(stamps, ca, cert, key, certificate_end(cert, tls.cert or "") if cert is not None else None)


def secret(text: str | None, path: str | None) -> Callable[[], str]:
    """A password or token that stands in the configuration itself or in a file of its own; see `from_file`."""
    return from_file(path) if path is not None else lambda: text or ""


def from_file(path: str) -> Callable[[], str]:
    """The text of a file without the newline at its end, read again when the file changes. Raises Denied.

    A missing or empty secret is the operator's to mend, as one that the server refuses is.
    """
    known: tuple[Stamp, str] | None = None

    def read() -> str:
        nonlocal known
        try:
            stamp = _stamp(path)
            if known is None or known[0] != stamp:
                known = stamp, Path(path).read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise Denied(f"{path} cannot be read: {error}") from error
        if not known[1]:
            raise Denied(f"{path} is empty")
        return known[1]

    return read


class _Claims(msgspec.Struct, frozen=True):
    """Of a JSON web token (RFC 7519)."""

    exp: float
    iat: float | None = None


def token_end(token: str, path: str) -> Credential | None:
    """When a JSON web token ends; None: it is none, or has no end."""
    parts = token.split(".")
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)) if len(parts) == 3 else b""
        found = msgspec.json.decode(claims, type=_Claims)
    except ValueError:
        return None
    return Credential(f"the token of {path}", found.exp, found.iat)


def certificate_end(pem: bytes, path: str) -> Credential | None:
    """When the first certificate of a PEM file ends; None: there is none that can be read."""
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return None
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return Credential(f"the client certificate {path}", ends, begins)


# What a server says when it ends a TLS connection for our certificate, by the name that OpenSSL has for it.
ALERTS = ("CERTIFICATE_REQUIRED", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "CERTIFICATE_UNKNOWN",
          "BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")  # fmt: skip


def ended(shown: Credential) -> str:
    """That a credential has ended, and when, for people; "" where it has not."""
    return "" if shown.ends > time.time() else f"ended at {datetime.fromtimestamp(shown.ends, UTC):%Y-%m-%dT%H:%M:%SZ}"


def named(shown: Credential) -> str:
    """A credential for the reason why it is not taken."""
    over = ended(shown)
    return f"{shown.what}, which {over}" if over else shown.what


def refused(error: BaseException, shown: Credential | None) -> str:
    """What is wrong with our certificate, where a server ended a TLS connection for that; "" where nothing says so."""
    said, seen = "", set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        reason = getattr(found, "reason", None)
        if isinstance(found, ssl.SSLError) and reason and "ALERT" in reason:
            said = reason
        found = getattr(found, "os_error", None) or found.__cause__ or found.__context__
    alert = next((words for words in ALERTS if words in said), "")
    if shown is None:
        return "it asks for a client certificate: name `tls.cert` and `tls.key`" if alert == ALERTS[0] else ""
    if over := ended(shown):
        return f"{shown.what} {over}"
    return f"{shown.what} is not taken ({alert.lower().replace('_', ' ')})" if alert else ""


class Contexts:
    """The TLS context of a client, made anew when one of its files changes.

    `shown`: the certificate in it, which is called `name`, or by its file.
    """

    def __init__(self, tls: Tls | None, name: str = "") -> None:
        self.shown: Credential | None = None
        self._name = name
        self._tls = tls
        self._known: tuple[tuple[Stamp, ...], ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are now; raises Denied with the file that cannot be used.

        While a rotation is half done (a new certificate beside the old key), the last good context goes on.
        """
        tls = self._tls or Tls()
        paths = tls.files()
        try:
            stamps = tuple(_stamp(path) for path in paths)
            if self._known is None or self._known[0] != stamps:
                context = ssl.create_default_context(cafile=tls.ca)
                if tls.cert is not None:
                    context.load_cert_chain(tls.cert, tls.key)
                    self.shown = certificate_end(Path(tls.cert).read_bytes(), self._name or tls.cert)
                self._known = stamps, context
        except OSError as error:  # ssl.SSLError is one
            if self._known is None:
                raise Denied(f"TLS files {', '.join(paths)} cannot be used: {error}") from error
        return self._known[1]


def _stamp(path: str) -> Stamp:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
