"""Commands without the second in which Python imports the program: a process that has imported it forks for each.

`python -m tests.kit.zygote FD` serves at a socket: a message is the words, the folder and the environment of a command,
with the files of its two outputs and a socket, which is told its process id and, at its end, its exit code.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

LONGEST = 1 << 20  # bytes of a message: the environment is in it
NUMBER = struct.Struct("i")
PRELOADED = ("adapters.consul", "adapters.etcd", "adapters.eureka", "adapters.file", "adapters.kubernetes")


class Zygote:
    """The process, as the tests of one process use it; it ends with them."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=root,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """It ends when nobody can ask it any more."""
        self._channel.close()
        self._process.wait()

    async def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], patience: float
    ) -> tuple[int, str, str]:
        """The exit code and both outputs of `isthmus WORDS`; raises TimeoutError, and kills it."""
        message = json.dumps([list(words), str(folder), dict(environment)]).encode()
        here, there = socket.socketpair()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with there:
                socket.send_fds(self._channel, [message], [out.fileno(), err.fileno(), there.fileno()])
            reader, writer = await asyncio.open_unix_connection(sock=here)
            try:
                (pid,) = NUMBER.unpack(await reader.readexactly(NUMBER.size))
                try:
                    async with asyncio.timeout(patience):
                        (code,) = NUMBER.unpack(await reader.readexactly(NUMBER.size))
                except BaseException:
                    os.kill(pid, signal.SIGKILL)
                    raise
            finally:
                writer.close()
            out.seek(0)
            err.seek(0)
            return code, out.read().decode(), err.read().decode()


def _serve(channel: socket.socket) -> None:
    """Forks for each message until nobody can send one. Returns in the child alone, which is the command then."""
    waking, wakes = socket.socketpair()
    waking.setblocking(False)
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    running: dict[int, int] = {}  # the socket that is told of each process
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(waking, selectors.EVENT_READ)
        while True:
            for ready, _ in selector.select():
                if ready.fileobj is waking:
                    waking.recv(4096)
                    _tell_ends(running)
                    continue
                message, given, *_ = socket.recv_fds(channel, LONGEST, 3)
                if not message:
                    os._exit(0)
                pid = os.fork()
                if pid == 0:
                    for other in running.values():
                        os.close(other)
                    _become(message, given)
                    return
                out, err, told = given
                os.close(out)
                os.close(err)
                os.write(told, NUMBER.pack(pid))
                running[pid] = told


def _tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = running.pop(pid)
        try:
            os.write(told, NUMBER.pack(os.waitstatus_to_exitcode(status)))
        except BrokenPipeError:  # nobody waits for it any more
            pass
        finally:
            os.close(told)


def _become(message: bytes, given: Sequence[int]) -> None:
    """As a new process would be: its signals, files, folder, environment and words."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, _told = given
    os.dup2(out, 1)
    os.dup2(err, 2)
    for each in given:
        os.close(each)
    words, folder, environment = json.loads(message)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    sys.argv = ["isthmus", *words]


def _main() -> NoReturn:
    from bridge.cli import main

    for name in (*dict.fromkeys(main.MODULES.values()), *PRELOADED):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        _serve(channel)
    try:
        main.main(prog_name="isthmus")
        code: object = 0
    except SystemExit as end:
        code = end.code
    # All that ending would do beyond that is to take apart what was imported, which takes longer than most commands.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _main()
