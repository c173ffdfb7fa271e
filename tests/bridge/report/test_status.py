"""What `status` counts of all names costs no look at what feeds each of them: it is asked every second."""

from __future__ import annotations

from adapters.memory.server import Store as Server
from bridge.link import Services
from bridge.migration.block import Migration
from bridge.model import ServiceName
from bridge.plan.doses import Doses
from bridge.report.status import withdrawn
from tests.bridge.core import Core
from tests.kit.builders import instance, link
from tests.kit.calls import calls

NAMES = [ServiceName(f"s{number}") for number in range(20)]
BLOCK = Migration(name="m", services=("*",), from_=("vms",), to=("pods",), at=("mesh",))


async def test_what_a_link_withdraws_is_counted_without_a_look_at_each_name() -> None:
    servers = {name: Server(name) for name in ("vms", "pods", "mesh")}
    for name in NAMES:
        servers["vms"].register(name, instance("v1"))
        servers["pods"].register(name, instance("p2"))
    doses = Doses([BLOCK])  # which was not begun: nothing of the new side is written
    doses.heard = lambda _: True
    links = [
        link("mesh", "pods", "vms", name="moving", services=Services(include=("s*",))),
        link("mesh", "vms", name="other", services=Services(include=("other",))),
    ]
    async with Core(servers, links, ordering=doses).running() as core:
        await core.idle()
        with calls() as counted:
            found = {one.name: withdrawn(core.reconcilers["mesh"], one.name) for one in links}
    assert found == {"moving": len(NAMES), "other": 0}
    assert counted["Routing.links_to"] > 0
    assert counted["Routing.supplies"] == 0
