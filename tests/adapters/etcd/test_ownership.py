"""What is ours in etcd is ours by the store's word alone, whatever natives do in whatever order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bridge.adapter import Change, Entry
from bridge.errors import Conflict, Rejected
from bridge.model import Instance, ServiceName
from tests.adapters.etcd.lab import (
    USER,
    Natives,
    create,
    entry,
    errors,
    instance,
    key,
    mark,
    narrow,
    record,
    registry,
    remove,
    replace,
)
from tests.kit.seated import Seated
from tests.servers.etcd import Etcd


@pytest_asyncio.fixture
async def sink(etcd: Etcd) -> AsyncIterator[Seated]:
    """Of the bridge b1, which is the writer."""
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            yield sink


async def test_a_copy_is_what_the_stock_client_writes_with_a_ledger_entry_beside_it(
    natives: Natives, sink: Seated
) -> None:
    (made,) = await sink.apply([create("i1")])
    assert await natives.get("/microservices/") == {key("i1"): record("i1", "10.0.0.1")}
    assert list(await natives.get("/isthmus/ledger/")) == ["/isthmus/ledger//microservices/user/i1"]
    held = await sink.held()
    assert held.services == {USER: {"i1": Entry(instance("i1"), mark("i1"), made.version)}}
    assert held.loose == {}
    assert held.identity.startswith("etcd:")
    assert held.identity.endswith(":kratos:/microservices/")


async def test_a_replacement_and_a_removal_take_the_ledger_word_along(natives: Natives, sink: Seated) -> None:
    (made,) = await sink.apply([create("i1")])
    (replaced,) = await sink.apply([replace("i1", entry(made), address="10.0.0.2")])
    held = await sink.held([USER])
    assert held.services[USER]["i1"] == Entry(instance("i1", "10.0.0.2"), mark("i1"), replaced.version)
    assert errors(await sink.apply([remove("i1", entry(made))])) == [Conflict]
    assert errors(await sink.apply([remove("i1", entry(replaced))])) == [None]
    assert await natives.get("/microservices/") == {}
    assert await natives.get("/isthmus/ledger/") == {}


async def test_a_native_that_was_there_first_is_not_written_over(natives: Natives, sink: Seated) -> None:
    await natives.put((key("i1"), record("i1")))
    assert errors(await sink.apply([create("i1"), create("i2")])) == [Conflict, None]
    assert (await natives.get(key("i1")))[key("i1")] == record("i1")
    assert list(await natives.get("/isthmus/ledger/")) == ["/isthmus/ledger//microservices/user/i2"]


async def test_what_a_native_wrote_over_is_foreign_from_then_on_and_is_forgotten(
    natives: Natives, sink: Seated
) -> None:
    (made,) = await sink.apply([create("i1")])
    await natives.put((key("i1"), record("i1")))  # the create revision stays, as with every stock client
    for change in (remove("i1", entry(made)), replace("i1", entry(made), address="10.0.0.9")):
        assert errors(await sink.apply([change])) == [Conflict]
    held = await sink.held()
    assert held.services[USER]["i1"].mark is None
    assert held.services[USER]["i1"].instance.address == "10.0.0.7"
    assert held.loose == {USER: {"i1": made.version}}
    forget = Change(USER, "i1", before=Entry(Instance("i1", ""), version=made.version), forget=True)
    assert errors(await sink.apply([forget])) == [None]
    assert (await sink.held()).loose == {}
    assert await natives.get("/microservices/") == {key("i1"): record("i1")}


async def test_even_the_same_bytes_make_a_native_the_owner(natives: Natives, sink: Seated) -> None:
    (made,) = await sink.apply([create("i1")])
    await natives.put((key("i1"), record("i1", "10.0.0.1")))
    assert errors(await sink.apply([remove("i1", entry(made))])) == [Conflict]
    assert key("i1") in await natives.get("/microservices/")


async def test_what_an_operator_took_from_the_ledger_is_not_ours_any_more(natives: Natives, sink: Seated) -> None:
    (made,) = await sink.apply([create("i1")])
    await natives.delete(f"/isthmus/ledger/{key('i1')}")
    for change in (remove("i1", entry(made)), replace("i1", entry(made), address="10.0.0.9")):
        assert errors(await sink.apply([change])) == [Conflict]
    held = await sink.held()
    assert held.services[USER]["i1"].mark is None
    assert held.loose == {}


async def test_an_entry_that_a_native_deleted_can_be_made_again(natives: Natives, sink: Seated) -> None:
    (made,) = await sink.apply([create("i1")])
    await natives.delete(key("i1"))
    held = await sink.held([USER])
    assert held.services == {}
    assert held.loose == {USER: {"i1": made.version}}
    assert errors(await sink.apply([remove("i1", entry(made))])) == [Conflict]
    (again,) = await sink.apply([create("i1")])
    held = await sink.held([USER])
    assert held.services[USER]["i1"] == Entry(instance("i1"), mark("i1"), again.version)
    assert held.loose == {}


async def test_a_native_whose_lease_ended_and_who_came_back_stays_the_owner(natives: Natives, sink: Seated) -> None:
    (made,) = await sink.apply([create("i1")])
    lease = await natives.lease()
    await natives.put((key("i1"), record("i1")), lease=lease)
    await natives.revoke(lease)
    assert errors(await sink.apply([remove("i1", entry(made))])) == [Conflict]
    await natives.put((key("i1"), record("i1")), lease=await natives.lease())
    assert errors(await sink.apply([remove("i1", entry(made)), create("i1")])) == [Conflict, Conflict]
    held = await sink.held()
    assert held.services[USER]["i1"].mark is None
    assert held.loose == {USER: {"i1": made.version}}


async def test_a_delete_spares_what_others_own(natives: Natives, sink: Seated) -> None:
    made = await sink.apply([create(f"i{n}") for n in range(5)])
    await natives.put((key("i3"), record("i3")))
    outcomes = await sink.apply([remove(outcome.change.id, entry(outcome)) for outcome in made])
    assert errors(outcomes) == [None, None, None, Conflict, None]
    assert await natives.get("/microservices/") == {key("i3"): record("i3")}


async def test_another_bridges_copy_is_not_ours_to_change(etcd: Etcd, natives: Natives, sink: Seated) -> None:
    async with registry(etcd) as opened:
        other = Seated(opened, "b2")
        async with other.writer():
            (made,) = await other.apply([create("i1", owner="b2")])
            held = await sink.held()
            assert held.services[USER]["i1"].mark == mark("i1", "b2")
            assert errors(await sink.apply([remove("i1", entry(made))])) == [Conflict]
            await natives.put((key("i1"), record("i1")))
            assert (await sink.held()).loose == {}, "whose word is loose is for its owner to forget"
            assert (await other.held()).loose == {USER: {"i1": made.version}}


async def test_what_nobody_can_decode_still_occupies_its_key(natives: Natives, sink: Seated) -> None:
    await natives.put((key("i1"), "not json"))
    held = await sink.held([USER])
    assert held.services[USER]["i1"].mark is None
    assert held.services[USER]["i1"].instance == Instance("i1", "")
    assert errors(await sink.apply([create("i1")])) == [Conflict]


async def test_a_value_that_is_too_large_is_rejected_and_its_siblings_are_written(
    natives: Natives, sink: Seated
) -> None:
    for size in (1_600_000, 3_000_000):  # etcd refuses the first, its gRPC server the second
        changes = [create(f"a{size}"), create("large", metadata={"text": "x" * size}), create(f"b{size}")]
        assert errors(await sink.apply(changes)) == [None, Rejected, None]


async def test_a_record_that_the_layout_cannot_hold_is_rejected_alone(sink: Seated) -> None:
    slash = Change(USER, "a/b", after=instance("a/b"), mark=mark("a/b"))
    other = Change(USER, "i1", after=instance("i2"), mark=mark("i2"))
    assert errors(await sink.apply([slash, other, create("i3")])) == [Rejected, Rejected, None]


async def test_large_batches_are_split_and_every_change_has_its_outcome(natives: Natives, sink: Seated) -> None:
    await natives.put(*[(key(f"i{n}", f"s{n % 7}"), record(f"i{n}", service=f"s{n % 7}")) for n in range(0, 500, 50)])
    changes = [create(f"i{n}", service=ServiceName(f"s{n % 7}")) for n in range(500)]
    outcomes = await sink.apply(changes)
    assert [outcome.change for outcome in outcomes] == changes
    assert [error is Conflict for error in errors(outcomes)] == [n % 50 == 0 for n in range(500)]
    held = await sink.held({change.service for change in changes})
    assert sum(1 for entries in held.services.values() for each in entries.values() if each.mark) == 490
    assert held == await sink.held()


async def test_services_larger_than_a_message_may_be_are_read_in_pages(etcd: Etcd, natives: Natives) -> None:
    for n in range(20):
        await natives.put(*[(key(f"i{n}-{m}"), record(f"i{n}-{m}")) for m in range(100)])
    async with narrow(etcd) as opened:
        sink = Seated(opened, "b1")
        assert len((await sink.held([USER, ServiceName("none")])).services[USER]) == 2000
        assert len((await opened.source.read(USER)).service.instances) == 2000


async def test_held_is_of_the_services_asked_for_and_no_neighbour(natives: Natives, sink: Seated) -> None:
    await natives.put(
        (key("i1"), record("i1")),
        (key("i1", "user-v2"), record("i1", service="user-v2")),
        (key("i1", "use"), record("i1", service="use")),
    )
    assert set((await sink.held([USER])).services) == {USER}
    assert (await sink.held([ServiceName("none")])).services == {}
    assert (await sink.held([])).services == {}


GO_ZERO, GRPC = ("user/7587850000000000001", "10.0.0.9:8080"), ("user/i9", '{"Op":0,"Addr":"10.0.0.9:8080"}')
KITEX = ("user/10.0.0.9:8080", '{"network":"tcp","address":"10.0.0.9:8080","weight":10,"tags":null}')


@pytest.mark.parametrize(
    ("layout", "theirs", "why"),
    [
        ("grpc", GO_ZERO, "go-zero dials whatever is below"),
        ("go-zero", GRPC, "go-zero dials whatever is below"),
        ("grpc", KITEX, "take any JSON object for an instance"),
        ("kratos", ("user/x", "10.0.0.9:8080"), "go-zero dials whatever is below"),
        ("grpc", GRPC, None),
        ("go-zero", GO_ZERO, None),
        ("go-zero", ("user/x", "no record at all"), None),
    ],
)
async def test_nothing_is_written_beside_another_layout_whose_readers_it_breaks(
    etcd: Etcd, natives: Natives, layout: str, theirs: tuple[str, str], why: str | None
) -> None:
    await natives.put(theirs)
    async with registry(etcd, layout=layout, prefix="") as opened:
        sink = Seated(opened, "b1")
        names = [USER, ServiceName("user/v2"), ServiceName("cart")]
        changes = [Change(name, one.id, after=one, mark=mark("i1", service=name)) for name, one in formed(sink, names)]
        async with sink.writer():
            await sink.held()
            refused = [Rejected, Rejected, None] if why else [None, None, None]
            if why:
                with pytest.raises(Rejected, match=why):
                    sink.canonical(USER, instance("i1"))
            assert errors(await sink.apply(changes)) == refused
            await natives.delete(theirs[0])
            await sink.held([USER])
            assert errors(await sink.apply(changes[:2])) == [None, None] if why else True


def formed(sink: Seated, names: list[ServiceName]) -> list[tuple[ServiceName, Instance]]:
    return [(name, sink.canonical(name, instance("i1"))) for name in names]


async def test_copies_of_another_layout_by_the_same_bridge_are_not_this_sinks(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd, layout="go-zero", prefix="") as one, registry(etcd, layout="grpc", prefix="") as other:
        zero, grpc = Seated(one, "b1"), Seated(other, "b1")
        form = zero.canonical(USER, instance("i1"))
        async with zero.writer(), grpc.writer():
            assert errors(await zero.apply([Change(USER, form.id, after=form, mark=mark("i1"))])) == [None]
            (standing,) = (await grpc.held()).services[USER].values()
            assert standing.mark is not None and standing.mark.owner != "b1"
            assert standing.instance.address == ""
            with pytest.raises(Rejected, match="holds a record of layout go-zero"):
                grpc.canonical(USER, instance("i1"))
