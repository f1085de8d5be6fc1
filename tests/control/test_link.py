"""The line to one agent: cut, silent, or wrong, it loses and doubles nothing, and nobody waits on it for ever."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from ciuic_jupyter.control import link as link_module
from ciuic_jupyter.control.link import AgentLink
from ciuic_jupyter.errors import AgentUnavailable, SaveFailed
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode, encode
from ciuic_jupyter.providers.base import Endpoint
from tests.control.conftest import until

Serve = Callable[[ServerConnection], Awaitable[None]]


class Heard:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.ups: list[bool] = []
        self.hellos = self.samples = 0

    def line_changed(self, up: bool) -> None:
        self.ups.append(up)

    def hello(self, header: dict[str, Any]) -> None:
        self.hellos += 1

    def event(self, header: dict[str, Any], seq: int, frame: bytes) -> None:
        self.events.append(seq)

    def sample(self, header: dict[str, Any]) -> None:
        self.samples += 1

    def progress(self, header: dict[str, Any]) -> None: ...


class Ends:
    """A link, and a server whose behaviour is the test's."""

    def __init__(self, directory: Path) -> None:
        self.heard = Heard()
        self.mirror = EventLog(directory / "events")
        self.path = directory / "agent.sock"
        self.link = AgentLink(self._where, "secret", self.mirror, self.heard)
        self.server: Server | None = None

    async def _where(self) -> Endpoint:
        return Endpoint(self.path)

    async def serve(self, serve: Serve) -> None:
        async def quiet(socket: ServerConnection) -> None:
            with contextlib.suppress(ConnectionClosed):
                await serve(socket)

        self.server = await unix_serve(quiet, str(self.path), compression=None, ping_interval=None, max_size=None)

    async def close(self) -> None:
        await self.link.close()
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
        self.mirror.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    directory = Path(tempfile.mkdtemp(prefix="ciuic-k-"))
    made = Ends(directory)
    yield made
    await made.close()
    shutil.rmtree(directory)


async def greet(socket: ServerConnection) -> int:
    """Take the plane's hello, answer it; return the event after which it wants to go on."""
    after = decode(await socket.recv()).header["after"]
    await socket.send(encode({"type": "hello", "kernel": "ready", "run": None}))
    return int(after)


def event(seq: int) -> bytes:
    return encode({"type": "event", "seq": seq, "at": 0.0, "kind": "note", "run": None, "text": str(seq)})


async def test_a_request_whose_answer_was_cut_off_is_asked_again_under_its_id(ends: Ends) -> None:
    asked: list[str] = []

    async def serve(socket: ServerConnection) -> None:
        await greet(socket)
        async for data in socket:
            frame = decode(data)
            if frame.type == "request":
                asked.append(frame.header["id"])
                if len(asked) < 3:
                    socket.transport.abort()
                    return
                await socket.send(encode({"type": "reply", "id": asked[-1], "ok": True, "n": 5}))

    await ends.serve(serve)
    ends.link.start()
    assert (await ends.link.request("names"))["n"] == 5
    assert len(asked) == 3
    assert len(set(asked)) == 1


async def test_a_refusal_comes_as_the_class_it_was_and_a_foreign_answer_harms_nobody(ends: Ends) -> None:
    async def serve(socket: ServerConnection) -> None:
        await greet(socket)
        async for data in socket:
            frame = decode(data)
            if frame.type == "request":
                await socket.send(encode({"type": "reply", "id": "never asked", "ok": True}))
                error = {"type": "SaveFailed", "message": "the disk is full"}
                reply = encode({"type": "reply", "id": frame.header["id"], "ok": False, "error": error})
                await socket.send(reply)
                await socket.send(reply)

    await ends.serve(serve)
    ends.link.start()
    for _ in range(2):
        with pytest.raises(SaveFailed, match="disk is full"):
            await ends.link.request("save")


async def test_a_silent_line_is_found_dead_and_opened_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "DEAD_AFTER", 0.2)
    opened = 0

    async def serve(socket: ServerConnection) -> None:
        nonlocal opened
        opened += 1
        await greet(socket)
        while opened > 1:
            await socket.send(encode({"type": "beat"}))
            await asyncio.sleep(0.02)
        await socket.wait_closed()

    await ends.serve(serve)
    ends.link.start()
    await until(lambda: ends.heard.ups == [True, False, True])
    assert ends.link.up
    assert ends.link.down_since is None


async def test_events_in_the_wrong_order_are_asked_for_again(ends: Ends) -> None:
    afters: list[int] = []

    async def serve(socket: ServerConnection) -> None:
        after = await greet(socket)
        afters.append(after)
        order = [1, 2, 2, 4] if len(afters) == 1 else range(after + 1, 7)
        for seq in order:
            await socket.send(event(seq))
        await socket.wait_closed()

    await ends.serve(serve)
    ends.link.start()
    await until(lambda: ends.mirror.last_seq == 6)
    assert ends.heard.events == [1, 2, 3, 4, 5, 6]
    assert afters == [0, 2]


async def test_garbage_and_strange_frames_cost_the_connection_only(ends: Ends) -> None:
    bad = [b"\xff\xff\xff\xffgarbage", encode({"type": "surprise"}), "text", b""]

    async def serve(socket: ServerConnection) -> None:
        await greet(socket)
        await socket.send(bad.pop() if bad else event(1))
        await socket.wait_closed()

    await ends.serve(serve)
    ends.link.start()
    await until(lambda: ends.heard.events == [1])
    assert not bad


async def test_who_waits_is_told_when_the_line_is_closed(ends: Ends) -> None:
    ends.link.start()  # nobody listens there
    waiting = asyncio.create_task(ends.link.request("names"))
    await asyncio.sleep(0)
    await ends.link.close()
    with pytest.raises(AgentUnavailable):
        await waiting
    with pytest.raises(AgentUnavailable):
        await ends.link.request("names")


async def test_blobs_go_both_ways_in_bounded_frames(ends: Ends) -> None:
    kept: list[bytes] = []
    sizes: list[int] = []
    paths: list[str] = []

    async def serve(socket: ServerConnection) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)
        if socket.request.path == "/blob/up":
            async for data in socket:
                if isinstance(data, str):
                    await socket.send(json.dumps({"size": sum(sizes)}))
                    return
                kept.append(data)
                sizes.append(len(data))
        for data in kept:
            await socket.send(data)
        await socket.send("end")

    await ends.serve(serve)
    content = os.urandom(9_000_001)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, 1000, 7):
            yield content[start : min(start + 7, 1000)]
        yield content[1000:]  # far more than a frame may hold

    assert await ends.link.upload("up", pieces()) == len(content)
    assert b"".join(kept) == content
    assert max(sizes) <= link_module.BLOB_CHUNK
    back = b"".join([piece async for piece in ends.link.download("down")])
    assert back == content
    assert paths == ["/blob/up", "/blob/down"]


async def test_a_blob_that_arrived_in_part_is_no_success(ends: Ends) -> None:
    async def serve(socket: ServerConnection) -> None:
        async for data in socket:
            if isinstance(data, str):
                await socket.send(json.dumps({"size": 1}))

    await ends.serve(serve)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"

    with pytest.raises(AgentUnavailable, match="1 of 3"):
        await ends.link.upload("up", pieces())
