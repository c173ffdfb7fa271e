"""Asks a running daemon over its admin socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec

from bridge.admin.protocol import NOT_PERMITTED, Answer, NoDaemonError, RefusedError, Request, SilentDaemonError
from bridge.errors import ConfigError, Unavailable
from bridge.state.files import why

ANSWERS = 60.0  # seconds that a daemon may take to answer
ERRORS = {2: ConfigError, NOT_PERMITTED: RefusedError}  # by the code of an answer; of any other: Unavailable


def call(path: Path, command: str, *, within: float = ANSWERS, by: str | None = None, **arguments: Any) -> Any:
    """Asks a running daemon and returns the result, `within` so many seconds. `by`: who says so, where that is claimed.

    Raises NoDaemonError where there is none, SilentDaemonError where it does not answer or goes away, Unavailable where
    it may not be asked, RefusedError where `bridge.access` does not let us, ConfigError and Unavailable for what else
    the daemon refuses (codes 4, 2 and 1).
    """
    request = msgspec.json.encode(Request(command, arguments, by or "")) + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(within)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoDaemonError(f"no daemon answers at {path}; start one with `isthmus run`") from None
        except PermissionError:
            raise RefusedError(f"{path} is closed to this user: bridge.access says who may ask the daemon") from None
        except OSError as error:
            raise Unavailable(f"{path}: {why(error)}") from None
        try:
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except TimeoutError:
            raise SilentDaemonError(
                f"the daemon at {path} has not answered for {within:.0f} s; is it stopped?"
            ) from None
        except OSError as error:
            raise SilentDaemonError(f"the daemon went away: {why(error)}") from None
    if not line.endswith(b"\n"):
        raise SilentDaemonError("the daemon went away before it answered")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.ok:
        return answer.result
    raise ERRORS.get(answer.code, Unavailable)(answer.error)
