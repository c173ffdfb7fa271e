"""The client that registries with an HTTP API share, against a real server on loopback."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from adapters.common.credentials import Tls, from_file
from adapters.common.http import Http
from adapters.common.urls import is_url
from bridge.errors import Conflict, Denied, Expired, Rejected, Unavailable
from tests.servers import ports
from tests.servers.certificates import Certificates, issue

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a handler at a free port; returns its base URL."""
    async with AsyncExitStack() as stack:

        async def start(handler: Handler, context: ssl.SSLContext | None = None) -> str:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            port = runner.addresses[0][1]
            return f"{'https' if context else 'http'}://127.0.0.1:{port}"

        yield start


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[Callable[..., Http]]:
    """Makes clients, which are closed at the end."""
    made: list[Http] = []

    def make(*urls: str, **options: object) -> Http:
        made.append(Http(urls, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for client in made:
        await client.close()


def dead() -> str:
    """A base URL at which nobody listens."""
    (port,) = ports.reserve(1)
    ports.release([port])
    return f"http://127.0.0.1:{port}"


async def echo(request: web.Request) -> web.Response:
    return web.json_response(
        {"path": request.raw_path, "token": request.headers.get("x-token"), "method": request.method}
    )


async def test_an_answer_has_its_status_its_headers_and_who_gave_it(serve: Serve, clients: Callable[..., Http]) -> None:
    url = await serve(echo)
    answer = await clients(url).call("GET", "/v1/a%2Fb", query={"wait": "1s"})
    assert (answer.status, answer.url) == (200, url)
    assert answer.json()["path"] == "/v1/a%2Fb?wait=1s"
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (401, Denied),
        (403, Denied),
        (404, Rejected),
        (307, Rejected),
        (409, Conflict),
        (412, Conflict),
        (410, Expired),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_a_status_has_one_meaning(
    serve: Serve, clients: Callable[..., Http], status: int, error: type[Exception]
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status, text="because")

    client = clients(await serve(refuse))
    with pytest.raises(error, match=f"{status} because"):
        await client.call("PUT", "/")
    assert (await client.call("PUT", "/", accept=(status,))).status == status


async def test_the_text_may_say_more_than_the_status(serve: Serve, clients: Callable[..., Http]) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500, text="Invalid Service Meta")

    client = clients(await serve(refuse), classify=lambda status, body: Rejected if "Invalid" in body else None)
    with pytest.raises(Rejected):
        await client.call("PUT", "/")


async def test_a_time_to_wait_is_told(serve: Serve, clients: Callable[..., Http]) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "7"})

    with pytest.raises(Unavailable) as caught:
        await clients(await serve(refuse)).call("GET", "/")
    assert caught.value.retry_after == 7.0


async def test_the_next_url_is_asked_and_then_preferred(serve: Serve, clients: Callable[..., Http]) -> None:
    alive = await serve(echo)
    client = clients(dead(), alive)
    assert (await client.call("PUT", "/")).url == alive  # nothing was sent to the one that does not listen
    assert client.url == alive


async def test_what_may_have_been_done_is_not_sent_twice(serve: Serve, clients: Callable[..., Http]) -> None:
    asked: list[str] = []

    async def hang_up(request: web.Request) -> web.Response:
        asked.append(request.method)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    client = clients(await serve(hang_up), await serve(echo))
    with pytest.raises(Unavailable):
        await client.call("PUT", "/")
    assert asked == ["PUT"]
    assert (await client.call("GET", "/")).status == 200


async def test_a_server_that_says_nothing_is_unavailable_in_time(serve: Serve, clients: Callable[..., Http]) -> None:
    ended = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await ended.wait()
        return web.Response()

    with pytest.raises(Unavailable, match="no answer within"):
        await clients(await serve(hang)).call("GET", "/", timeout=0.2)
    ended.set()


async def test_lines_of_any_length_come_as_they_are_sent(serve: Serve, clients: Callable[..., Http]) -> None:
    more = asyncio.Event()

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a\n" + b"b" * 300_000 + b"\n")
        await more.wait()
        await response.write(b"c\nrest")
        return response

    async with clients(await serve(send)).stream("GET", "/", silence=30.0) as stream:
        found: list[bytes] = []
        while len(found) < 2:
            found += await anext(stream.lines)
        assert [found[0], len(found[1])] == [b"a", 300_000]
        more.set()
        assert [line async for lines in stream.lines for line in lines] == [b"c", b"rest"]


async def test_a_stream_that_falls_silent_is_unavailable(serve: Serve, clients: Callable[..., Http]) -> None:
    ended = asyncio.Event()

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a\n")
        await ended.wait()
        return response

    async with clients(await serve(send)).stream("GET", "/", silence=0.3) as stream:
        assert await anext(stream.lines) == [b"a"]
        with pytest.raises(Unavailable, match="no answer within"):
            await anext(stream.lines)
    ended.set()


async def test_a_server_that_answers_nothing_is_given_up_long_before_a_long_answer_is(
    serve: Serve, clients: Callable[..., Http]
) -> None:
    ended = asyncio.Event()

    async def hear(_: web.Request) -> web.Response:
        await ended.wait()
        return web.Response()

    client = clients(await serve(hear))
    with pytest.raises(Unavailable, match="no answer within 0 s"):
        async with client.stream("GET", "/", silence=3600.0, begins=0.3):
            pass
    with pytest.raises(Unavailable, match="no answer within 0 s"):
        await client.call("GET", "/", timeout=3600.0, silence=0.3)
    ended.set()


async def test_a_refused_stream_says_why(serve: Serve, clients: Callable[..., Http]) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=410, text="too old")

    with pytest.raises(Expired, match="too old"):
        async with clients(await serve(refuse)).stream("GET", "/", silence=5.0):
            pass


async def test_a_token_is_read_again_when_its_file_changes(
    serve: Serve, clients: Callable[..., Http], tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    read = from_file(str(token))
    client = clients(await serve(echo), headers=lambda: {"x-token": read()})
    assert (await client.call("GET", "/")).json()["token"] == "first"
    token.write_text("the second\n")
    assert (await client.call("GET", "/")).json()["token"] == "the second"
    token.write_text("\n")
    with pytest.raises(Denied, match="empty"):
        await client.call("GET", "/")
    token.unlink()
    with pytest.raises(Denied, match=str(token)):
        await client.call("GET", "/")


def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.server.cert, certificates.server.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_certificates_rotate_without_a_restart(
    serve: Serve, clients: Callable[..., Http], tmp_path: Path
) -> None:
    old, new = issue_at(tmp_path / "old"), issue_at(tmp_path / "new")
    used = tmp_path / "used"
    used.mkdir()

    def install(certificates: Certificates) -> Tls:
        for source, name in (
            (certificates.ca, "ca"),
            (certificates.client.cert, "cert"),
            (certificates.client.key, "key"),
        ):
            shutil.copy(source, used / name)
        return Tls(ca=str(used / "ca"), cert=str(used / "cert"), key=str(used / "key"))

    first, second = await serve(echo, server_context(old)), await serve(echo, server_context(new))
    client = clients(first, second, tls=install(old))
    assert (await client.call("GET", "/", only=first)).status == 200
    with pytest.raises(Unavailable, match="not trusted"):
        await client.call("GET", "/", only=second)
    install(new)
    assert (await client.call("GET", "/", only=second)).status == 200


async def test_a_half_done_rotation_goes_on_with_the_last_good_files(
    serve: Serve, clients: Callable[..., Http], tmp_path: Path
) -> None:
    certificates, others = issue_at(tmp_path / "one"), issue_at(tmp_path / "other")
    tls = Tls(ca=str(certificates.ca), cert=str(certificates.client.cert), key=str(certificates.client.key))
    client = clients(await serve(echo, server_context(certificates)), tls=tls)
    assert (await client.call("GET", "/")).status == 200
    shutil.copy(others.client.key, certificates.client.key)  # of another certificate
    assert (await client.call("GET", "/")).status == 200


async def test_a_client_certificate_that_has_ended_is_denied_by_name(
    serve: Serve, clients: Callable[..., Http], tmp_path: Path
) -> None:
    certificates = issue_at(tmp_path / "one")
    given = certificates.expired
    tls = Tls(ca=str(certificates.ca), cert=str(given.cert), key=str(given.key))
    client = clients(await serve(echo, server_context(certificates)), tls=tls)
    with pytest.raises(Denied, match=r"expired\.pem ended at 20"):
        await client.call("GET", "/")
    (shown,) = client.credentials()
    assert shown.what.endswith("expired.pem")


async def test_files_that_were_never_good_are_named(clients: Callable[..., Http], tmp_path: Path) -> None:
    client = clients("https://127.0.0.1:1", tls=Tls(ca=str(tmp_path / "missing.pem")))
    with pytest.raises(Denied, match=r"missing\.pem"):
        await client.call("GET", "/")


def issue_at(folder: Path) -> Certificates:
    folder.mkdir()
    return issue(folder)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("http://127.0.0.1:8500", True),
        ("https://consul.example/path", True),
        ("127.0.0.1:8500", False),
        ("http://:8500", False),
        ("http://a:b", False),
        ("http://user:secret@a", False),
        ("ftp://a", False),
    ],
)
def test_a_url_says_its_scheme_and_its_host(text: str, good: bool) -> None:
    assert is_url(text) is good


async def test_an_answer_or_a_line_beyond_its_limit_is_cut_off(serve: Serve, clients: Callable[..., Http]) -> None:
    sent = 0

    async def send(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(int(request.query["chunks"])):
            await response.write(b"x" * (1 << 19))
            sent += 1
        await response.write(b"\n")
        return response

    client = clients(await serve(send), largest=2 << 20, longest=1 << 20)
    assert len((await client.call("GET", "/", query={"chunks": "3"})).body) == (3 << 19) + 1
    with pytest.raises(Unavailable, match="answered with more than 2 MiB"):
        await client.call("GET", "/", query={"chunks": "1000"})
    async with client.stream("GET", "/", query={"chunks": "2"}, silence=30.0) as stream:
        assert [len(line) async for lines in stream.lines for line in lines] == [1 << 20]
    async with client.stream("GET", "/", query={"chunks": "1000"}, silence=30.0) as stream:
        with pytest.raises(Unavailable, match="a line of more than 1 MiB"):
            await anext(stream.lines)
    assert sent < 1000, "neither was read to its end"
