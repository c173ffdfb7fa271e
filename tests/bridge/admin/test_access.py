"""`bridge.access` as a pure rule: who is meant, on which services, and what nobody can tell is not given."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.admin.access import NEEDS, Right, may
from bridge.cli.main import MODULES
from bridge.config.schema import Access
from bridge.link import Services
from bridge.model import ServiceName

OWNER, GUEST = 500, 501
PAY = Access(who=("user:501",), services=("pay-*",), may=("approve",))


def of(*access: Access, uid: int = GUEST, gids: Any = ()) -> Any:
    return may(access, uid, frozenset(gids), OWNER)


@pytest.mark.parametrize("uid", [0, OWNER])
def test_root_and_the_daemons_own_user_may_everything(uid: int) -> None:
    assert all(of(uid=uid).on_all(right) for right in Right)


def test_without_a_rule_nobody_else_may_anything() -> None:
    assert not any(of().has(right) for right in Right)
    assert not any(of(PAY, uid=502).has(right) for right in Right)


@pytest.mark.parametrize("who", ["user:501", "group:77", "group:78"])
def test_a_rule_means_a_user_or_any_group_of_the_process(who: str) -> None:
    rule = Access(who=("user:nobody-has-this-name", who), may=("read",))
    assert of(rule, gids={77, 78}).has(Right.READ)
    assert not of(rule, uid=502, gids={79}).has(Right.READ)


def test_whoever_decides_may_read_and_an_administrator_may_all() -> None:
    assert of(PAY).on(Right.READ, ServiceName("pay-api")) and of(PAY).on(Right.APPROVE, ServiceName("pay-api"))
    assert not of(PAY).has(Right.FREEZE)
    assert not of(PAY).on(Right.READ, ServiceName("shop"))
    admin = of(Access(who=("user:501",), may=("admin",)))
    assert all(admin.on_all(right) for right in Right)


def test_rules_of_one_user_add_up_by_right() -> None:
    found = of(PAY, Access(who=("group:77",), services=("shop",), may=("read",)), gids={77})
    assert found.on(Right.READ, ServiceName("shop")) and not found.on(Right.APPROVE, ServiceName("shop"))


@pytest.mark.parametrize(
    ("given", "taken", "whole"),
    [
        ("*", "anything[ab]?", True),
        ("pay-*", "pay-*", True),
        ("pay-*", "pay-api", True),
        ("pay-*", "pay-api-?", True),
        ("pay-*", "shop:pay-*", True),
        ("shop:*", "shop:pay-*", True),
        ("shop:*", "pay-*", False),
        ("pay-*", "*", False),
        ("pay-*", "pay*", False),
        ("pay-?", "pay-*", False),
        ("pay-a*", "pay-[ab]", False),
        ("*a*", "[ab]", False),
    ],
)
def test_a_link_is_whole_only_where_every_name_it_can_take_is(given: str, taken: str, whole: bool) -> None:
    rule = Access(who=("user:501",), services=(given,), may=("freeze",))
    assert of(rule).on_whole(Right.FREEZE, Services(include=(taken,))) is whole


def test_every_command_has_a_line_in_the_table_of_rights() -> None:
    assert NEEDS.keys() >= MODULES.keys()
