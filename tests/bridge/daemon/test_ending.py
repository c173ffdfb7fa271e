"""A process that was told to stop ends in bounded time, and says what it did not wait for."""

from __future__ import annotations

import sys
import time

import pytest

from tests.kit.running import Ran, ended

PROCESS = """
import asyncio, logging, threading, time
from bridge.daemon import ending

logging.basicConfig()
never = threading.Event()

async def waits_for_ever():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main():
    ending.bounded(asyncio.get_running_loop(), 1.0)
    STUCK

asyncio.run(main())
"""
IN_TIME = 60.0  # seconds, on a machine that is busy with other tests


async def ran(stuck: str) -> Ran:
    began = time.monotonic()
    done = await ended(sys.executable, "-c", PROCESS.replace("STUCK", stuck))
    assert time.monotonic() - began < IN_TIME
    return done


@pytest.mark.parametrize(
    ("stuck", "named"),
    [
        ("asyncio.create_task(waits_for_ever(), name='plan pay'); await asyncio.sleep(0)", "task plan pay"),
        ("asyncio.get_running_loop().run_in_executor(None, never.wait); await asyncio.sleep(0)", "thread asyncio_0"),
        ("threading.Thread(target=never.wait, name='library').start()", "thread library"),
    ],
    ids=["task", "executor", "thread"],
)
async def test_what_does_not_end_is_named_and_left(stuck: str, named: str) -> None:
    done = await ran(stuck)
    assert done.code == 1
    assert "did not end within=1" in done.err and named in done.err


async def test_what_ends_in_time_says_nothing() -> None:
    done = await ran("pass")
    assert (done.code, done.err) == (0, "")
