"""Addresses that nobody else can dial are known by their ranges, and never changed into others."""

from __future__ import annotations

import pytest

from bridge.sources.dialing import unroutable


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "stands for every address of its own host"),
        ("::", "stands for every address of its own host"),
        ("127.0.0.1", "is the loopback of whoever dials it"),
        ("127.8.8.8", "is the loopback of whoever dials it"),
        ("::1", "is the loopback of whoever dials it"),
        ("localhost", "is the loopback of whoever dials it"),
        ("Pay.localhost.", "is the loopback of whoever dials it"),
        ("169.254.1.2", "is link-local"),
        ("fe80::1", "is link-local"),
        ("fe80::1%en0", "is link-local"),
        ("224.0.0.1", "is a multicast address"),
        ("255.255.255.255", "is the broadcast address"),
    ],
)
def test_an_address_that_no_other_host_can_dial_is_named_with_the_reason(address: str, why: str) -> None:
    assert unroutable(address).startswith(f"{address} {why}")


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "2001:db8::7", "fd00::1", "pay.example", ""],
)
def test_an_address_that_others_may_dial_is_none_of_them(address: str) -> None:
    assert unroutable(address) == ""
