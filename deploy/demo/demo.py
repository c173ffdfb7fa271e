"""The main job, shown from real runs of the real commands: two folders, one link, and what must not go wrong.

Ends with exit code 0 only if every step did what it says. Pauses between steps on a terminal, never in a pipe.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = """\
bridge:
  id: demo
  state: ./state
registries:
  inventory: {kind: file, path: ./inventory}     # what the virtual machines register in
  cluster:   {kind: file, path: ./cluster}       # where the clients look from now on
links:
  - from: inventory
    to: cluster
    policy: POLICY
    services: {include: ["pay-*"]}
    guard: {confirm_event: 3s}
"""

SERVICES = {
    "pay-api": [("i1", "192.0.2.11"), ("i2", "192.0.2.12"), ("i3", "192.0.2.13")],
    "pay-ledger": [("i1", "192.0.2.21"), ("i2", "192.0.2.22")],
    "shop": [("i1", "192.0.2.31")],
}


class Failed(Exception):
    """A step did not do what it says."""


def say(text: str) -> None:
    """A heading; on a terminal it waits to be read."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)
    if sys.stdin.isatty() and sys.stdout.isatty():
        input("   (return) ")


def expect(true: bool, what: str) -> None:
    """Stops the demonstration unless it is so."""
    if not true:
        raise Failed(what)
    print(f"   ok: {what}", flush=True)


def until(true: Callable[[], bool], what: str, seconds: float = 15.0) -> float:
    """Waits for it; returns the milliseconds that it took."""
    began = time.perf_counter()
    while not true():
        if time.perf_counter() - began > seconds:
            raise Failed(what)
        time.sleep(0.001)
    took = (time.perf_counter() - began) * 1000
    print(f"   ok: {what}", flush=True)
    return took


class Demo:
    """One folder with two registries, a configuration, and perhaps a daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "isthmus.yaml"
        self.daemon: subprocess.Popen[bytes] | None = None
        for name in ("inventory", "cluster"):
            (folder / name).mkdir()

    def configure(self, policy: str) -> None:
        self.file.write_text(CONFIG.replace("POLICY", policy))

    def register(self, service: str, instances: list[tuple[str, str]], *, draining: str = "") -> None:
        lines = ["instances:"]
        for id, address in instances:
            health = ", health: DRAINING" if id == draining else ""
            ports = "[{name: grpc, number: 9000, protocol: grpc}]"
            lines.append(f"  - {{id: {id}, address: {address}, ports: {ports}{health}}}")
        fresh = self.folder / "inventory" / f".{service}.new"
        fresh.write_text("\n".join(lines) + "\n")
        fresh.rename(self.folder / "inventory" / f"{service}.yaml")

    def isthmus(self, *arguments: str, code: int = 0, show: bool = True) -> str:
        """Runs a command, shows it with its output, and expects an exit code."""
        command = [sys.executable, "-m", "bridge.cli.main", arguments[0], "-f", str(self.file), *arguments[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        if show:
            print(f"   $ isthmus {arguments[0]} {' '.join(arguments[1:])}")
            for line in done.stdout.splitlines():
                print(f"     {line}")
        if done.returncode != code:
            raise Failed(f"isthmus {arguments[0]} ended with {done.returncode}, not {code}:\n{done.stdout}")
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.isthmus(*arguments, "-o", "json", code=code, show=False))

    def start(self) -> None:
        log = (self.folder / "daemon.log").open("ab")
        command = [sys.executable, "-m", "bridge.cli.main", "run", "-f", str(self.file)]
        self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        until((self.folder / "state" / "admin.sock").exists, "the daemon runs")

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            code = self.daemon.wait(timeout=10)
            self.daemon = None
            expect(code == 0, "the daemon stopped in an orderly way")

    def copies(self) -> dict[str, set[str]]:
        """What stands in the cluster, by service, as its own files say."""
        found: dict[str, set[str]] = {}
        for path in (self.folder / "cluster").glob("*.yaml"):
            text = path.read_text()
            found[path.name.split(".")[0]] = {a for _, a in sum(SERVICES.values(), [("i4", "192.0.2.14")]) if a in text}
        return {service: addresses for service, addresses in found.items() if addresses}

    def run(self) -> None:
        everything = {s: {a for _, a in i} for s, i in SERVICES.items() if s.startswith("pay-")}
        for service, instances in SERVICES.items():
            self.register(service, instances)

        self._observe_then_sync(everything)
        self._change_and_drain()
        self._lose_the_source(everything)

        say("What happened, and why")
        self.isthmus("log", "--since", "1h")
        expect(any(line["kind"] == "approve" for line in self.json("log")), "the journal knows who approved what")
        self.stop()

    def _observe_then_sync(self, everything: dict[str, set[str]]) -> None:
        say("Observe first: everything runs, nothing is written")
        self.configure("observe")
        self.isthmus("check")
        self.start()
        self.isthmus("plan", code=3)
        expect(self.copies() == {}, "the cluster is as empty as before")

        say("Sync: the file says so, the daemon takes it over")
        self.configure("sync")
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGHUP)
        until(lambda: self.copies() == everything, "both services are in the cluster, and the shop is not")
        self.isthmus("plan", code=0)
        self.isthmus("diff", "inventory", "cluster", code=3)

    def _change_and_drain(self) -> None:
        say("A change arrives within milliseconds")
        grown = [*SERVICES["pay-api"], ("i4", "192.0.2.14")]
        self.register("pay-api", grown)
        took = until(lambda: "192.0.2.14" in self.copies().get("pay-api", set()), "a fourth instance is there")
        print(f"   {took:.1f} ms from the file in one folder to the file in the other")

        say("An instance is drained: the word is copied, the instance stays")
        self.register("pay-api", grown, draining="i4")
        until(lambda: self._health("i4") == "DRAINING", "i4 is marked DRAINING in the cluster")
        self.isthmus("explain", "pay-api/i4")

    def _lose_the_source(self, everything: dict[str, set[str]]) -> None:
        say("The source dies: nothing is removed")
        (self.folder / "inventory").rename(self.folder / "gone")
        until(lambda: self.json("status", code=3)["scopes"][0]["state"] == "stale", "status calls the source stale")
        self.isthmus("status", code=3)
        expect(self.copies()["pay-ledger"] == everything["pay-ledger"], "every copy is still there")

        say("It comes back empty: held, until somebody says that it is true")
        (self.folder / "inventory").mkdir()
        until(lambda: sum(hold["instances"] for hold in self.json("holds")) >= 6, "the guard holds the removals")
        self.isthmus("holds")
        expect(self.copies()["pay-ledger"] == everything["pay-ledger"], "every copy is still there")
        for hold in self.json("holds"):
            self.isthmus("approve", hold["id"], "--reason", "the demonstration is over")
        until(lambda: self.copies() == {}, "approved, and gone")

    def _health(self, instance: str) -> str:
        rows = self.json("explain", f"pay-api/{instance}")
        there = [row["decoded"] for row in rows if row["at"] == "cluster" and row.get("decoded")]
        return str(there[0].get("health", "")) if there else ""


def main() -> int:
    """The exit code."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-demo-"))
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    demo = Demo(folder)
    try:
        demo.run()
    except Failed as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        log = folder / "daemon.log"
        print(log.read_text() if log.exists() else "no daemon ran", file=sys.stderr)
        return 1
    finally:
        if demo.daemon is not None:
            demo.daemon.kill()
            demo.daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print("\nEvery step did what it says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
