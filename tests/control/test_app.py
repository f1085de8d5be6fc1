"""Every route refuses who is not its user; errors are JSON of our own tree; bad input changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ciuic_jupyter.control.app import Gate, make_app
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.daemon import proof
from ciuic_jupyter.errors import UnknownSession, UsageError
from tests.control.conftest import Cloud, until

TOKEN = "t" * 48


class Served:
    def __init__(self, cloud: Cloud, app: Gate, url: str) -> None:
        self.cloud, self.app, self.url = cloud, app, url
        self.http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False)

    def routes(self) -> list[tuple[str, str]]:
        """Return (method, path) of every registered route, websockets as WS."""
        inner = self.app._app
        assert isinstance(inner, FastAPI)
        found = []
        todo = list(inner.routes)
        while todo:
            route = todo.pop()
            nested = getattr(route, "original_router", None) or getattr(route, "app", None)
            if isinstance(route, APIRoute):
                found += [(method, route.path) for method in sorted(route.methods)]
            elif isinstance(route, APIWebSocketRoute):
                found.append(("WS", route.path))
            elif hasattr(nested, "routes"):
                todo += list(nested.routes)
        return found


@pytest.fixture
async def served(cloud: Cloud) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = make_app(cloud.plane, TOKEN, port)
    assert isinstance(app, Gate)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio", lifespan="off"))
    server.capture_signals = __import__("contextlib").nullcontext  # type: ignore[method-assign]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    made = Served(cloud, app, f"http://127.0.0.1:{port}")
    yield made
    await made.http.aclose()
    server.should_exit = True
    await task
    listener.close()


ATTACKS: dict[str, tuple[dict[str, str], int]] = {
    "anonymous": ({"Authorization": ""}, 401),
    "a wrong token": ({"Authorization": f"Bearer {'x' * 48}"}, 401),
    "one character off": ({"Authorization": f"Bearer {'t' * 47}x"}, 401),
    "the token as basic": ({"Authorization": f"Basic {TOKEN}"}, 401),
    "a foreign host": ({"Host": "evil.example:80"}, 403),
    "the right host, another port": ({"Host": "127.0.0.1:1"}, 403),
    "a web page": ({"Origin": "http://evil.example"}, 403),
    "a page of no origin": ({"Origin": "null"}, 403),
    "a page of this very address": ({"Origin": "http://127.0.0.1"}, 403),
    "a browser's cross-site request": ({"Sec-Fetch-Site": "cross-site"}, 403),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_every_route_refuses(served: Served, attack: str) -> None:
    headers, status = ATTACKS[attack]
    routes = served.routes()
    assert len(routes) >= 22
    for method, template in routes:
        path = template.replace("{name}", "s")
        if path == "/v1/challenge" and status == 401:
            continue  # the one open door: it gives away nothing but a proof
        if method == "WS":
            target = served.url.replace("http", "ws") + path
            given = {"Authorization": f"Bearer {TOKEN}"} | headers
            with pytest.raises((InvalidStatus, ConnectionClosed)):
                async with connect(target, additional_headers=given, proxy=None) as line:
                    await line.recv()
        else:
            answer = await served.http.request(method, path, headers=headers, json={})
            assert answer.status_code == status, (method, path, answer.text)
            assert "error" in answer.json()
    assert served.cloud.plane.runners == {}


async def test_the_challenge_proves_the_token_without_sending_it(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as stranger:
        answer = await stranger.get("/v1/challenge", params={"nonce": "ab" * 16})
        assert answer.json()["proof"] == proof(TOKEN, "ab" * 16)
        assert (await stranger.get("/v1/challenge", params={"nonce": "<script>"})).status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sessions", {"name": "../etc"}),
        ("/v1/sessions", {"name": "a\n"}),
        ("/v1/sessions", {"name": "x" * 10_000}),
        ("/v1/sessions", {"name": "s", "budget_nano": 0}),
        ("/v1/sessions", {"name": "s", "budget_nano": -5}),
        ("/v1/sessions", {"name": "s", "budget_nano": 1.5}),
        ("/v1/sessions", {"name": "s", "budget_nano": 10**30}),
        ("/v1/sessions", {"name": "s", "surprise": 1}),
        ("/v1/sessions/s/runs", {"run": "../x", "code": "1"}),
        ("/v1/sessions/s/runs", {"code": "1"}),
        ("/v1/sessions/none/pause", {"wait": True}),
        ("/v1/sessions/none/keep", {"seconds": 5}),
    ],
)
async def test_bad_input_is_one_clear_line_and_starts_nothing(served: Served, path: str, body: dict[str, Any]) -> None:
    answer = await served.http.post(path, json=body)
    assert 400 <= answer.status_code < 500
    said = answer.json()["error"]
    assert set(said) == {"type", "message"}
    assert "\n" not in said["message"]
    assert served.cloud.provider.started == 0


async def test_the_client_raises_what_the_plane_raised(served: Served) -> None:
    client = PlaneClient(served.url, TOKEN)
    with pytest.raises(UnknownSession, match="no session 'x'"):
        await asyncio.to_thread(client.session, "x")
    with pytest.raises(UsageError):
        await asyncio.to_thread(client.create, "NOT A NAME")
    with pytest.raises(UsageError, match="token"):
        await asyncio.to_thread(PlaneClient(served.url, "wrong").sessions)


@pytest.mark.parametrize("said", [True, False])
async def test_a_body_without_end_is_refused_before_it_is_all_read(served: Served, said: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(4096):
            sent += 1 << 20
            yield b"x" * (1 << 20)

    headers = {"Content-Length": str(4 << 30)} if said else {}
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # to hang up on us is to refuse, too
        answer = await served.http.post("/v1/sessions", content=endless(), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "UsageError"
    assert sent < 64 << 20


async def test_two_hosts_or_two_tokens_are_refused(served: Served) -> None:
    for twice in ("Host", "Authorization"):
        good = {"Host": served.url.removeprefix("http://"), "Authorization": f"Bearer {TOKEN}"}
        request = "".join(f"{name}: {value}\r\n" for name, value in [*good.items(), (twice, good[twice])])
        host, port = good["Host"].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /v1/health HTTP/1.1\r\n{request}Connection: close\r\n\r\n".encode())
        assert (await reader.readline()).split()[1] in (b"400", b"403")
        writer.close()
        await writer.wait_closed()


async def test_what_is_not_there_is_an_error_of_our_kind(served: Served) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("DELETE", "/v1/sessions", 405), ("GET", "/docs", 404)):
        answer = await served.http.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"type", "message"}


async def test_a_cell_that_waits_is_taken_back_over_the_stream(served: Served) -> None:
    runner = await served.cloud.session()
    await runner.submit("a", "hang", None)
    await runner.submit("b", "ok", None)
    stream = await asyncio.to_thread(PlaneClient(served.url, TOKEN).stream, "s")
    asked = await asyncio.to_thread(lambda: stream.request("interrupt", run="b"))

    def reply() -> dict[str, Any]:
        while True:
            frame = stream.recv(10)
            assert frame is not None
            if frame.header.get("id") == asked:
                return dict(frame.header)

    assert (await asyncio.to_thread(reply))["ok"]
    assert {name: run.status for name, run in runner.book.runs.items()} == {"a": "running", "b": "aborted"}
    await asyncio.to_thread(stream.close)


async def test_a_stream_of_an_unknown_session_says_so(served: Served) -> None:
    client = PlaneClient(served.url, TOKEN)
    stream = await asyncio.to_thread(client.stream, "nobody")
    with pytest.raises(UnknownSession):
        await asyncio.to_thread(stream.recv, 5)
    await asyncio.to_thread(stream.close)


async def test_viewers_get_every_event_once_and_one_that_never_reads_holds_up_nobody(served: Served) -> None:
    await served.cloud.session()
    client = PlaneClient(served.url, TOKEN)
    stalled = await asyncio.to_thread(client.stream, "s")
    reader = await asyncio.to_thread(client.stream, "s")
    text = "x" * 20_000
    for index in range(600):
        await served.cloud.agent.emit(kind="output", run=None, msg_type="stream", content={"text": f"{index} {text}"})

    def read() -> list[int]:
        found: list[int] = []
        while len(found) < 600:
            frame = reader.recv(10)
            assert frame is not None
            if frame.type == "event":
                found.append(int(frame.header["content"]["text"].split()[0]))
        return found

    assert await asyncio.to_thread(read) == list(range(600))
    for stream in (stalled, reader):
        await asyncio.to_thread(stream.close)


async def test_a_cell_with_options_is_paused_in_its_middle_and_dropped(served: Served) -> None:
    cloud, body = served.cloud, {"run": "r", "code": "loop", "checkpoint_every": 1800, "grace": 5}
    answer = await served.http.post("/v1/sessions/s/runs", json=body)
    assert answer.status_code == 202, answer.text
    runner = cloud.plane.runner("s")
    await until(lambda: runner.book.runs["r"].started_ms is not None)
    assert (runner.book.runs["r"].checkpoint_every, runner.book.runs["r"].grace) == (1800, 5)
    paused = (await served.http.post("/v1/sessions/s/pause", json={})).json()
    assert (paused["state"], paused["suspended"]["run"]) == ("paused", "r")
    (listed,) = (await served.http.get("/v1/sessions/s/runs")).json()
    assert (listed["status"], listed["ended"], listed["where"]) == ("suspended", None, "line 7 of the cell")
    resumed = (await served.http.post("/v1/sessions/s/resume", json={"cell": "drop"})).json()
    assert (resumed["state"], resumed["suspended"]) == ("running", None)
    assert cloud.agent.resumed == []
    again = await served.http.post("/v1/sessions/s/runs", json={"run": "r2", "code": "hang"})
    assert again.status_code == 202
    await until(lambda: cloud.agent.current == "r2")
    now = (await served.http.post("/v1/sessions/s/pause", json={"now": True})).json()
    assert now["state"] == "paused"
    assert runner.book.runs["r2"].status == "error"
    wrong = await served.http.post("/v1/sessions/s/resume", json={"cell": "forget"})
    assert wrong.status_code == 422
