"""What a registry's address may look like."""

from __future__ import annotations

from urllib.parse import urlsplit


def is_url(text: str, *, path: bool = True) -> bool:
    """Whether a text is `http://host:port` or `https://host:port` and nothing else; `path`: one may follow."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  it raises ValueError where it is no port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and (path or parts.path in ("", "/"))
