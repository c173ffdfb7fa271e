"""Reconciling: what is written, what is held back, and what is left alone."""

from __future__ import annotations

import time
from math import inf

from adapters.memory.server import Store as Server
from bridge.adapter import Cause
from bridge.errors import Rejected
from bridge.link import Guard, Policy, Services, Unhealthy
from bridge.model import Health, Mark, ServiceName
from bridge.plan.values import Kind
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until


def fleet(server: Server, services: int, instances: int) -> None:
    for s in range(services):
        for i in range(instances):
            server.register(ServiceName(f"s{s}"), instance(f"i{i}", f"192.0.{s}.{i}"))


async def test_what_a_source_holds_arrives_and_follows_changes() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        assert target.instances(PAY) == source.instances(PAY)
        source.register(PAY, instance("i2"))
        source.register(PAY, instance("i1", version="v2"))
        await until(lambda: target.instances(PAY) == source.instances(PAY))
        source.deregister(PAY, "i2")
        await until(lambda: target.instances(PAY) == source.instances(PAY))


async def test_each_change_is_one_write_and_nothing_is_written_in_idle() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 3, 4)
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        assert target.writes == 12
        core.reconcilers["target"].poke()
        source.cut()
        await until(lambda: sum(view.lists for view in core.store.views()) == 2)
        await core.idle()
        assert target.writes == 12


async def test_observing_writes_nothing_and_shows_what_it_would() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 2, 2)
    async with Core({"source": source, "target": target}, [link(policy=Policy.OBSERVE)]).running() as core:
        await core.idle()
        assert target.writes == 0
        assert sum(len(plan.upserts) for plan in core.reconcilers["target"].destination.plans.values()) == 4


async def test_the_last_instance_is_held_until_a_replacement_comes() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 5, 3)
    source.register(PAY, instance("i1", "192.0.2.1"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        source.deregister(PAY, "i1")
        await until(lambda: core.reconcilers["target"].destination.holds.count() == 1)
        assert "i1" in target.instances(PAY)
        source.register(PAY, instance("i2", "192.0.2.2"))
        await until(lambda: target.instances(PAY).keys() == {"i2"})
        assert core.reconcilers["target"].destination.holds.count() == 0


async def test_what_is_held_stays_held_while_its_source_is_asked_anew() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 5, 3)
    source.register(PAY, instance("i1", "192.0.2.1"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        source.deregister(PAY, "i1")
        reconciler, (view,) = core.reconcilers["target"], core.store.views()
        await until(lambda: reconciler.destination.holds.count() == 1)
        (hold,) = reconciler.destination.holds.show(0.0)
        source.silence()
        view.mark_stale()
        reconciler.poke()
        await until(lambda: reconciler.backlog.is_empty)
        assert reconciler.destination.kept[PAY]["i1"].kind is Kind.UNHEARD
        assert reconciler.destination.holds.show(0.0) == [hold]
        reconciler.destination.holds.approve(hold.id, time.monotonic())
        reconciler.poke()
        await until(lambda: reconciler.backlog.is_empty)
        assert "i1" in target.instances(PAY)
        source.heal()
        core.feeds[view].relist("asked anew")
        await until(lambda: not target.instances(PAY))
        assert core.record.count("hold") == 1
        assert core.record.count("no longer asked") == 0


async def test_an_event_that_a_fresh_read_confirms_is_let_go() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 5, 3)
    source.register(PAY, instance("i1", "192.0.2.1"))
    links = [link(guard=Guard(confirm_event=0.0))]
    async with Core({"source": source, "target": target}, links).running() as core:
        await core.idle()
        source.deregister(PAY, "i1")
        await until(lambda: not target.instances(PAY))


async def test_a_source_that_comes_back_empty_takes_nothing_until_approved() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 4, 5)
    async with Core({"source": source, "target": target}, [link(guard=Guard(confirm_absence=0.0))]).running() as core:
        await core.idle()
        source.empty()
        source.cut()
        reconciler = core.reconcilers["target"]
        await until(lambda: reconciler.destination.holds.count() == 20)
        (hold,) = reconciler.destination.holds.show(0.0)
        assert hold.due_in is None and hold.instances == 20 and hold.services == 4
        approved = reconciler.destination.holds.approve(hold.id, time.monotonic())
        assert len(approved) == 20
        reconciler.poke()
        await until(lambda: not any(target.instances(ServiceName(f"s{s}")) for s in range(4)))


async def test_half_an_answer_is_held_and_a_single_removal_still_flows() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 10, 10)
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        for s in range(10):
            for i in range(4):
                source.deregister(ServiceName(f"s{s}"), f"i{i}")
        source.cut()
        reconciler = core.reconcilers["target"]
        await until(lambda: sum(view.lists for view in core.store.views()) == 2)
        await core.idle()
        gone = 100 - sum(len(target.instances(ServiceName(f"s{s}"))) for s in range(10))
        assert gone <= 10 and reconciler.destination.holds.count() == 40 - gone
        source.deregister(ServiceName("s9"), "i9")
        await until(lambda: "i9" not in target.instances(ServiceName("s9")))


async def test_a_native_at_the_target_wins_and_is_taken_up_when_it_goes() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1", "192.0.2.1"))
    target.register(PAY, instance("n1", "192.0.2.1"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        assert target.instances(PAY).keys() == {"n1"}
        assert "i1" in core.reconcilers["target"].destination.shadowed[PAY]
        target.deregister(PAY, "n1")
        await until(lambda: target.instances(PAY).keys() == {"i1"})
        target.register(PAY, instance("n1", "192.0.2.1"))
        await until(lambda: target.instances(PAY).keys() == {"n1"})


async def test_a_native_that_writes_over_our_entry_keeps_it() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1", "192.0.2.1"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        native = instance("i1", "192.0.2.99")
        target.register(PAY, native)
        await until(lambda: "i1" in core.reconcilers["target"].destination.shadowed.get(PAY, {}))
        source.deregister(PAY, "i1")
        await core.idle()
        assert target.instances(PAY) == {"i1": native}


async def test_what_others_take_off_and_we_put_back_pays_for_no_loss() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 1, 3)
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        name, stood = ServiceName("s0"), target.instances(ServiceName("s0"))
        target.deregister(name, "i0")
        await until(lambda: target.instances(name) == stood)
        assert core.reconcilers["target"].destination.losses.windows.start(name, 3, time.monotonic(), 600.0) == 3


async def test_two_ways_do_not_echo() -> None:
    a, b = Server("a"), Server("b")
    a.register(PAY, instance("i1"))
    b.register(PAY, instance("i2"))
    async with Core({"a": a, "b": b}, [link("b", "a"), link("a", "b")]).running() as core:
        await until(lambda: a.instances(PAY).keys() == b.instances(PAY).keys() == {"i1", "i2"})
        await core.idle()
        assert (a.writes, b.writes) == (1, 1)
        a.deregister(PAY, "i1")
        await until(lambda: b.instances(PAY).keys() == {"i2"})


async def test_a_removal_by_the_file_waits_for_the_operator() -> None:
    source, target = Server("a"), Server("b")
    fleet(source, 2, 2)
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        reconciler = core.reconcilers["target"]
        reconciler.route([link(rename="new-{name}")])
        await until(lambda: len(target.instances(ServiceName("new-s0"))) == 2)
        await until(lambda: reconciler.destination.holds.count() == 4)
        assert len(target.instances(ServiceName("s0"))) == 2
        assert {hold.due_in for hold in reconciler.destination.holds.show(0.0)} == {None}


async def test_where_an_instance_leaves_by_its_own_metadata_it_goes_as_an_event() -> None:
    source, target = Server("a"), Server("b")
    for i in range(4):
        source.register(PAY, instance(f"i{i}", metadata={"team": "pay-1"}))
    fleet(source, 3, 3)
    links = [link(where={"team": "pay-*"})]
    async with Core({"source": source, "target": target}, links).running() as core:
        await core.idle()
        assert len(target.instances(PAY)) == 4
        source.register(PAY, instance("i0", metadata={"team": "shop"}))
        await until(lambda: len(target.instances(PAY)) == 3)


async def test_a_draining_instance_is_withdrawn_but_never_the_last() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    source.register(PAY, instance("i2"))
    core = Core({"source": source, "target": target}, [link(unhealthy=Unhealthy.WITHDRAW)])
    async with core.running():
        await core.idle()
        source.register(PAY, instance("i1", health=Health.DRAINING))
        await until(lambda: target.instances(PAY).keys() == {"i2"})
        source.register(PAY, instance("i2", health=Health.UNHEALTHY))
        await until(lambda: "i2" in core.reconcilers["target"].destination.kept.get(PAY, {}))
        assert target.instances(PAY).keys() == {"i2"}


async def test_an_orphan_is_left_and_another_owners_entry_is_not_touched() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    target.register(PAY, instance("o1", "192.0.2.1"), Mark("bridge", "gone-link", ("z",), "", PAY, "o1"))
    target.register(PAY, instance("o2"), Mark("other", "x", ("z",), "", PAY, "o2"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        await core.idle()
        assert target.instances(PAY).keys() == {"i1", "o1", "o2"}
        assert core.reconcilers["target"].destination.kept[PAY]["o1"].kind is Kind.ORPHAN


async def test_another_winner_of_a_merge_is_an_update() -> None:
    first, second, target = Server("a"), Server("b"), Server("c")
    first.register(PAY, instance("i1", "192.0.2.1", version="v1"))
    second.register(PAY, instance("i1", "192.0.2.1", version="v2"))
    links = [link("target", "first", "second")]
    servers = {"first": first, "second": second, "target": target}
    async with Core(servers, links).running() as core:
        await core.idle()
        assert target.instances(PAY)["i1"].version == "v1"
        first.deregister(PAY, "i1")
        await until(lambda: target.instances(PAY)["i1"].version == "v2")
        assert core.record.count("remove") == core.record.count("hold") == 0


async def test_what_comes_by_another_way_is_no_loss_of_the_way_that_it_came_by() -> None:
    first, second, target = Server("a"), Server("b"), Server("c")
    for number in range(1, 5):
        first.register(PAY, instance(f"x{number}", f"192.0.2.{number}"))
    links = [link("target", "second", "first")]
    async with Core({"first": first, "second": second, "target": target}, links).running() as core:
        await core.idle()
        for number in range(1, 4):
            second.register(PAY, instance(f"y{number}", f"192.0.2.{number}"))
        await until(lambda: target.instances(PAY).keys() == {"y1", "y2", "y3", "x4"})
        first.deregister(PAY, "x4")
        await until(lambda: target.instances(PAY).keys() == {"y1", "y2", "y3"})
        assert core.record.count("hold") == 0


async def test_what_a_changed_file_adds_to_a_served_name_waits_for_approval() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    source.register(ServiceName("new"), instance("i2"))
    target.register(PAY, instance("n9"))
    few = link(services=Services(include=("nothing",)))
    async with Core({"source": source, "target": target}, [few]).running() as core:
        await core.idle()
        reconciler = core.reconcilers["target"]
        reconciler.route([link()])
        await until(lambda: "i2" in target.instances(ServiceName("new")))
        await core.idle()
        assert target.instances(PAY).keys() == {"n9"}
        (hold,) = reconciler.destination.holds.show(time.monotonic())
        assert (hold.cause, hold.instances, hold.due_in) == (Cause.CONFIG, 1, None)
        source.register(ServiceName("new"), instance("i3"))
        await until(lambda: "i3" in target.instances(ServiceName("new")))
        reconciler.destination.holds.approve(hold.id, time.monotonic())
        reconciler.poke()
        await until(lambda: target.instances(PAY).keys() == {"n9", "i1"})
        await core.idle()
        source.register(PAY, instance("i4"))
        await until(lambda: "i4" in target.instances(PAY))


async def test_what_is_kept_from_withdrawal_shows_its_true_health() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    guard = Guard(confirm_event=0.0)
    async with Core(
        {"source": source, "target": target}, [link(unhealthy=Unhealthy.WITHDRAW, guard=guard)]
    ).running() as core:
        await core.idle()
        source.register(PAY, instance("i1", health=Health.UNHEALTHY))
        await until(lambda: target.instances(PAY)["i1"].health is Health.UNHEALTHY)
        await core.idle()
        assert core.reconcilers["target"].destination.kept[PAY]["i1"].kind is Kind.LAST
        source.register(PAY, instance("i2"))
        await until(lambda: target.instances(PAY).keys() == {"i2"})


async def test_what_something_at_the_target_is_in_the_way_of_is_tried_again() -> None:
    source, target = Server("a"), Server("b")
    source.register(PAY, instance("i1"))
    target.refused[PAY] = Rejected("its namespace is not there", again=0.05)
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        desk = core.reconcilers["target"].destination
        await until(lambda: (PAY, "i1") in desk.refused)
        refused = desk.refused[PAY, "i1"]
        await until(lambda: desk.refused[PAY, "i1"].at > refused.at)
        assert str(desk.parked[PAY, "i1"]) == "its namespace is not there"
        assert core.record.count("Rejected") == 1
        del target.refused[PAY]
        await until(lambda: "i1" in target.instances(PAY))
        assert not desk.parked and not desk.refused
        target.refused[PAY] = Rejected("never")
        source.register(PAY, instance("i1", version="v2"))
        await until(lambda: (PAY, "i1") in desk.refused)
        assert desk.refused[PAY, "i1"].again == inf
