"""Who is connected to a port of this machine: the kernel's own table, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import Unavailable
from bridge.report.connections import Tcp, look, mine, rows, table
from bridge.report.targets import Target, Targets

HERE = "127.0.3.1"


@pytest.fixture(params=[(socket.AF_INET, "0.0.0.0"), (socket.AF_INET, HERE), (socket.AF_INET6, "::")])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """One that listens as a server of one family does, or one of both (most Java servers)."""
    family, address = request.param
    with socket.socket(family, socket.SOCK_STREAM) as one:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((address, 0))
        one.listen()
        yield one


def targets(*ports: int) -> Targets:
    return Targets(link="pay from", targets=tuple(Target("pay", f"i{port}", HERE, port, "") for port in ports))


def test_who_is_connected_is_seen_whatever_family_the_server_listens_with(server: socket.socket) -> None:
    port = server.getsockname()[1]
    asked, here = targets(port, 1), mine([HERE])

    def watched(*ignored: str) -> list[tuple[int, tuple[str, ...]]]:
        return [(one.port, one.peers) for one in look(asked, here, table({port, 1}), ignored, 5.0).watched]

    assert watched() == [(port, ())]  # and nobody listens at port 1
    with socket.create_connection((HERE, port), source_address=("127.0.3.9", 0)), server.accept()[0] as accepted:
        found = look(asked, here, table({port}), (), 5.0)
        assert (found.watched[0].last, found.watched[0].peers) == (5.0, ("127.0.3.9",))
        assert watched("127.0.3.*") == [(port, ())]
        accepted.shutdown(socket.SHUT_RDWR)
        accepted.close()
        assert watched() == [(port, ("127.0.3.9",))]  # it was just there


def test_only_addresses_of_this_machine_are_looked_at() -> None:
    assert mine([HERE, "192.0.2.1", "no.such.host.invalid"]) == {HERE: frozenset({HERE})}
    assert look(targets(80), {}, (), (), 5.0).watched == ()


def test_a_table_is_read_as_the_kernel_writes_it() -> None:
    text = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n"
        "   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000200007F:C350 01 0:0 0:0 0 0\n"
        "   2: B80D01200000000067452301EFCDAB89:1F91 B80D01200000000067452301EFCDAB89:C350 01 0:0 0:0 0 0\n"
    )
    assert list(rows(text, {8080})) == [
        (("127.0.0.1", 8080), ("0.0.0.0", 0), Tcp.LISTEN),
        (("127.0.0.1", 8080), ("127.0.0.2", 50000), 1),
    ]
    assert [row.here for row in rows(text, {8081})] == [("2001:db8::123:4567:89ab:cdef", 8081)]


def test_a_system_without_such_a_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="needs Linux"):
        table({80}, tmp_path)
