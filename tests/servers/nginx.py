"""nginx 1.22 as Debian ships it, with one `server` that passes to the upstream that the path names."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.servers import ports, provide
from tests.servers.process import Process, said

_CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    include {folder}/up/*.conf;
    server {{
        listen 127.0.0.1:{port};
        location /here {{ return 200 "ok"; }}
        include {folder}/locations/*.conf;
    }}
}}
"""


def program() -> Path:
    """nginx itself, provided on first use; raises NotProvided."""
    return provide.provided("nginx-1.22", partial(provide.debian, "nginx", "1.22")) / "usr/sbin/nginx"


class Nginx:
    """One server; an async context manager. `upstreams` is the folder whose files it includes; `port` serves.

    `test` and `reload` are commands, as words.
    """

    def __init__(self, folder: Path, *, name: str = "nginx") -> None:
        self.process = Process(name, folder)
        self.folder = folder
        self.upstreams = folder / "up"
        (self.port,) = ports.reserve(1)
        for each in (self.upstreams, folder / "locations"):
            each.mkdir(parents=True, exist_ok=True)
        (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, port=self.port))

    @property
    def test(self) -> list[str]:
        """Accepts the files, or not."""
        return [str(program()), "-t", *self._options]

    @property
    def reload(self) -> list[str]:
        """Has the running one read them again."""
        return [str(program()), "-s", "reload", *self._options]

    @property
    def _options(self) -> list[str]:
        return ["-c", str(self.folder / "nginx.conf"), "-p", str(self.folder), "-e", str(self.folder / "start.log")]

    def passes(self, upstream: str) -> None:
        """From its next reload on, /UPSTREAM goes to that upstream."""
        text = f"location /{upstream} {{ proxy_pass http://{upstream}; }}\n"
        (self.folder / "locations" / f"{upstream}.conf").write_text(text)

    async def __aenter__(self) -> Nginx:
        binary = await asyncio.to_thread(program)
        await self.process.start([str(binary), *self._options], self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()
        ports.release([self.port])

    async def _ready(self) -> bool:
        return b"200 OK" in await said(self.port, b"GET /here HTTP/1.0\r\n\r\n")
