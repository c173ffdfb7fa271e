"""Stock clients in environments of their own, of Python and Java: what they need is not in ours for anything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.servers import provide

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JVM = ("-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
OPENED = ("--add-opens", "java.base/java.lang=ALL-UNNAMED")  # Dubbo 2.7 makes classes as it could before Java 16
PATIENCE = 10.0  # seconds that a client has to end
NOTHING: Mapping[str, str] = MappingProxyType({})


class Witness(NamedTuple):
    """One client. `pins`: what is installed, in this order, from requirements/; (): it is in our environment."""

    package: str  # as it is imported
    program: str
    pins: tuple[str, ...] = ()
    environment: Mapping[str, str] = NOTHING

    def python(self) -> Path:
        """The interpreter of its environment, made on first use; raises NotProvided."""
        if not self.pins:
            return Path(sys.executable)
        digests = [provide.digest(path) for path in self._paths()]
        name = "-".join([f"witness-{self.package}", *digests, f"{sys.version_info.minor}"])
        return provide.provided(name, self._build) / "bin" / "python"

    def command(self) -> list[str | Path]:
        """What its program is run by; raises NotProvided."""
        return [self.python(), HERE / self.program]

    def _paths(self) -> list[Path]:
        return [ROOT / "requirements" / f"{name}.txt" for name in self.pins]

    def _build(self, folder: Path) -> None:
        provide.run(sys.executable, "-m", "venv", folder)
        python = folder / "bin" / "python"
        for path in self._paths():
            provide.run(python, "-m", "pip", "install", "--require-hashes", "--no-build-isolation", "-r", path)
        provide.run(python, "-c", f"import {self.package}", folder=folder, **self.environment)


class JavaWitness(NamedTuple):
    """One version of a client of Java. `folder`: with its programs, and with a pom.xml for each version."""

    folder: str
    version: str
    main: str
    environment: Mapping[str, str] = NOTHING

    def library(self) -> Path:
        """The folder of its jars and compiled programs, made on first use; raises NotProvided."""
        sources = [self._pom, *self._programs]
        name = "-".join(["witness", self.folder, self.version, *map(provide.digest, sources)])
        return provide.provided(name, self._build)

    def command(self) -> list[str | Path]:
        """What its program is run by; raises NotProvided."""
        place = self.library()
        return ["java", *JVM, *OPENED, "-cp", f"{place / 'classes'}:{place / 'lib'}/*", self.main]

    @property
    def _pom(self) -> Path:
        return HERE / self.folder / self.version / "pom.xml"

    @property
    def _programs(self) -> list[Path]:
        return sorted((HERE / self.folder).glob("*.java"))

    def _build(self, folder: Path) -> None:
        provide.maven_jars(self._pom, folder / "lib")
        compiler = provide.tool("javac", provide.JAVA_REMEDY)
        provide.run(compiler, "-cp", f"{folder / 'lib'}/*", "-d", folder / "classes", *self._programs)


# etcd3 0.12 imports only where protobuf is the slow one in pure Python; what it needs comes first, to build it.
ETCD3 = Witness("etcd3", "with_etcd3.py", ("witness", "etcd3"), {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"})
CONSUL2 = Witness("consul", "with_consul2.py", ("python-consul2",))
EUREKA = Witness("py_eureka_client", "with_eureka.py", ("py-eureka-client",))
CLOUDEVENTS = Witness("cloudevents", "with_cloudevents.py", ("cloudevents",))
KUBERNETES = Witness("kubernetes", "with_kubernetes.py")
APART = (ETCD3, CONSUL2, EUREKA, CLOUDEVENTS)  # what has an environment of its own
DUBBO = tuple(JavaWitness("dubbo", version, "com.acme.WithDubbo") for version in ("2.7", "3.3"))


class Client:
    """One process with one client; what it says, as JSON, a line each, is gathered in `said`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said: list[Any] = []
        self._process = process

    @property
    def found(self) -> Any:
        """What it says last of all that it finds, None: nothing yet."""
        return next((found for kind, *found in reversed(self.said) if kind == "found"), [None])[0]

    async def listen(self) -> None:
        """Until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))


@asynccontextmanager
async def client(witness: Witness | JavaWitness, address: str, job: str, *words: str) -> AsyncIterator[Client]:
    """Runs its program with one of its jobs, and ends it in an orderly way."""
    process = await asyncio.create_subprocess_exec(
        *await asyncio.to_thread(witness.command),
        address,
        job,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | witness.environment,
    )
    made = Client(process)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening
