"""What root takes over from a bridge's folder: upstreams of servers, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.nginx.apply import REQUEST, main, wrong
from bridge.model import Instance, Port, ServiceName
from mappings import nginx
from mappings.common.naming import Naming

NAMES = Naming("{name}")
GOOD = nginx.nobody("pay")


def written() -> list[bytes]:
    """All forms that a bridge writes."""
    ports = (Port(9000, "http", "http"),)
    some = [Instance("i1", "192.0.2.1", ports), Instance("i2", "2001:db8::1", ports, weight=3.0)]
    both = nginx.files(NAMES, ServiceName("pay"), {one.id: one for one in some})
    return [GOOD, *both.values(), *nginx.files(NAMES, ServiceName("pay"), {"i1": some[0]}).values()]


def test_what_a_bridge_writes_is_taken_over() -> None:
    assert [wrong("pay", each) for each in written()] == ["", "", ""]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:-2],
        GOOD + b"load_module /tmp/evil.so;\n",
        GOOD.replace(b"server 127.0.0.1:9 down;", b"server unix:/run/docker.sock;"),
        GOOD.replace(b"server 127.0.0.1:9 down;", b"server example.com:80;"),
        GOOD.replace(b"server 127.0.0.1:9 down;", b"server 127.0.0.1:0;"),
        GOOD.replace(b"down;", b"down; include /etc/shadow;"),
        GOOD.replace(b"upstream pay {", b"upstream pay { } server { root /; }"),
        GOOD.replace(b"upstream pay", b"upstream cart"),
        b"# written by isthmus; changes are lost\nupstream pay {\n}\n",
    ],
)
def test_anything_else_is_not(content: bytes) -> None:
    assert wrong("pay", content)


def test_a_link_is_not_followed_and_its_target_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, secret = tmp_path / "source", tmp_path / "secret"
    source.mkdir()
    secret.write_text("s3cret")
    (source / REQUEST).write_text("1")
    result = tmp_path / "result.json"
    words = [str(source), str(tmp_path / "target"), str(result), "--test", "true", "--reload", "true"]
    (source / "pay.conf").symlink_to(secret)
    assert main(words) == 1
    (source / "pay.conf").unlink()
    (source / "pay.conf").write_text("s3cret")
    assert main(words) == 1
    assert "s3cret" not in result.read_text() + "".join(capsys.readouterr())
    assert list((tmp_path / "target").iterdir()) == []
    (source / "pay.conf").write_bytes(GOOD)
    assert main(words) == 0
    assert (tmp_path / "target" / "pay.conf").read_bytes() == GOOD
