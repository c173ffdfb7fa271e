"""What a reconciler says of a target in trouble: the same word for as long as the trouble is the same."""

from __future__ import annotations

import pytest

from adapters.memory.server import Store as Server
from bridge.errors import Unavailable
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until


class Asked(Server):
    """Counts how often it was asked anything."""

    asked = 0

    async def reached(self) -> None:
        self.asked += 1
        await super().reached()


async def test_a_target_out_of_reach_is_one_word_whatever_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    source, target = Server("a"), Asked("b")
    source.register(PAY, instance("i1"))
    target.fail_with(Unavailable("nobody answers"))
    async with Core({"source": source, "target": target}, [link()]).running() as core:
        reconciler = core.reconcilers["target"]
        await until(lambda: reconciler.reason.endswith(": nobody answers"))
        said = set[str]()
        asked = target.asked

        def tried() -> bool:
            said.add(reconciler.reason)
            return target.asked > asked + 6  # to read, to follow its drift and for the lock, all of them again

        await until(tried)
        assert len(said) == 1
        assert sum("trouble" in record.message for record in caplog.records) == 1
        target.heal()
        await core.idle()
        assert reconciler.reason == ""
