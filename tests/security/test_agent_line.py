"""The line between plane and machine: forged, replayed, cut and oversize frames, from either end."""

from __future__ import annotations

import asyncio
import hmac
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import unix_connect

from ciuic_jupyter.control.link import AgentLink
from ciuic_jupyter.errors import ProtocolError
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode, encode
from ciuic_jupyter.providers.base import Endpoint
from tests.kernels.agent_client import Machine, machine
from tests.security.conftest import Site
from tests.security.table import Room

ROOM = Room("The line between plane and machine")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with machine(tmp_path_factory.mktemp("agent")) as made:
        made.connect().close()
        yield made


def closing(agent: Machine, path: str, *frames: bytes | str) -> int:
    """Send frames on a line of its own and return the code it is closed with."""
    with agent.socket(path) as line:
        with suppress(ConnectionClosed):
            for frame in frames:
                line.send(frame)
        with pytest.raises(ConnectionClosed) as told:
            while True:
                line.recv(20)
    assert told.value.rcvd is not None
    return told.value.rcvd.code


HELLO = encode({"type": "hello", "after": 0})


@pytest.mark.parametrize(
    ("frames", "code"),
    ROOM.cases(
        {
            "a frame that is no frame": ("closed, 1002", (b"\0" * 9,), 1002),
            "a frame cut off": ("closed, 1002", (HELLO[:-1],), 1002),
            "a frame with bytes behind it": ("closed, 1002", (HELLO + b"x",), 1002),
            "a frame whose header claims 4 GiB": ("closed, 1002", (b"\xff\xff\xff\xff{}",), 1002),
            "a frame whose buffer claims an exabyte": (
                "closed, 1002",
                (struct.pack(">I", 41) + b'{"type":"x","buffers":[1152921504606846]}',),
                1002,
            ),
            "a frame whose buffer has a size below zero": (
                "closed, 1002",
                (struct.pack(">I", 26) + b'{"type":"x","buffers":[-1]}'[:26],),
                1002,
            ),
            "a frame with a header of 100,000 levels": (
                "closed, 1002",
                (struct.pack(">I", 200_000) + b"[" * 100_000 + b"]" * 100_000,),
                1002,
            ),
            "a text frame": ("closed, 1002", ("hello",), 1002),
            "no hello first": ("closed, 1002", (encode({"type": "request", "id": "1", "op": "interrupt"}),), 1002),
            "a hello from the future of the log": ("closed, 1002", (encode({"type": "hello", "after": 10**9}),), 1002),
            "a hello behind a number below zero": ("closed, 1002", (encode({"type": "hello", "after": -5}),), 1002),
            "a hello behind `true`": ("closed, 1002", (encode({"type": "hello", "after": True}),), 1002),
            "a request without an id": ("closed, 1002", (HELLO, encode({"type": "request", "op": "names"})), 1002),
            "a frame of an unknown type": ("closed, 1002", (HELLO, encode({"type": "root"})), 1002),
        }
    ),
)
def test_frames_to_an_agent(agent: Machine, frames: tuple[bytes | str, ...], code: int) -> None:
    assert closing(agent, "/", *frames) == code
    agent.connect().close()


@ROOM.attack("a frame of 257 MiB, announced and begun", "closed, 1009, before it is read")
def test_oversize(agent: Machine) -> None:
    with agent.socket() as line:
        line.socket.sendall(struct.pack("!BBQ", 0x82, 0x80 | 127, 257 << 20) + bytes(4) + b"x" * 1000)
        with pytest.raises(ConnectionClosed) as told:
            line.recv(20)
    assert told.value.rcvd is not None
    assert told.value.rcvd.code == 1009


@ROOM.attack("a compressed frame that would unpack to more", "compression is not agreed to; the frame breaks the line")
def test_compression(agent: Machine) -> None:
    with agent.socket() as line:
        assert not line.protocol.extensions
        line.socket.sendall(struct.pack("!BB", 0xC2, 0x80 | 4) + bytes(4) + b"xxxx")  # RSV1: compressed
        with pytest.raises(ConnectionClosed) as told:
            line.recv(20)
    assert told.value.rcvd is not None
    assert told.value.rcvd.code == 1002


@ROOM.attack(
    "a request that is sent again under its id (a replay), by a new line too", "done once; the same answer each time"
)
def test_replay(agent: Machine) -> None:
    mark = agent.root / "times"
    plane = agent.connect().ready()
    asked = plane.ask("run", request="one", run="replayed", code=f"open({str(mark)!r}, 'a').write('x')")
    first = plane.reply(asked)
    plane.until(lambda event: event["kind"] == "run_ended")
    for _ in range(3):
        plane.replies.clear()
        plane.ask("run", request="one", run="replayed", code=f"open({str(mark)!r}, 'a').write('y')")
        assert plane.reply("one") == first
    plane.close()
    again = agent.connect(after=plane.last)
    again.ask("run", request="one", run="replayed", code=f"open({str(mark)!r}, 'a').write('z')")
    assert again.reply("one") == first
    again.close()
    assert mark.read_text() == "x"


@pytest.mark.parametrize(
    "path",
    ROOM.cases(
        {
            "a blob named `../agent.json`": ("closed, 1002", "/blob/..%2fagent.json"),
            "a blob named `..`": ("closed, 1002", "/blob/.."),
            "a blob with an absolute path": ("closed, 1002", "/blob//etc/passwd"),
            "a blob with a name of 65 characters": ("closed, 1002", f"/blob/{'a' * 65}"),
            "a blob without a name": ("closed, 1002", "/blob/"),
        }
    ),
)
def test_blobs(agent: Machine, path: str) -> None:
    assert closing(agent, path, b"x", "end") == 1002
    assert json.loads((agent.directory / "config.json").read_text())["machine"] == agent.config["machine"]


def opened(socket: Path, headers: dict[str, str] | None = None, path: str = "/") -> int:
    try:
        with unix_connect(str(socket), f"ws://agent{path}", additional_headers=headers or {}, compression=None):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def sockets_of(site: Site) -> tuple[Path, dict[str, Any]]:
    config = json.loads((site.machine / "agent.json").read_text())
    return Path(config["socket"]), config


@ROOM.attack("a line to an agent without its token, with another machine's, or with a path of its own", "401, 401, 404")
def test_tokens(site: Site, agent: Machine) -> None:
    socket, config = sockets_of(site)
    assert opened(socket) == 401
    assert opened(socket, {"Authorization": f"Bearer {agent.config['token']}"}) == 401
    assert opened(socket, {"Authorization": f"Bearer {site.plane.token}"}) == 401
    for path in ("/blob/x", "/anything"):
        assert opened(socket, path=path) == 401
    assert opened(socket, {"Authorization": f"Bearer {config['token']}"}, "/anything") == 404


@ROOM.attack(
    "a machine makes another's token of all it knows",
    "401: tokens come from the user's key, which no machine gets",
)
def test_another_machines_token(site: Site) -> None:
    socket, config = sockets_of(site)
    for secret in (bytes.fromhex(config["key_hex"]), config["token"].encode(), config["key_hex"].encode()):
        made = hmac.new(secret, f"agent {site.machine.name}".encode(), "sha256").hexdigest()
        assert made != config["token"]
        assert opened(socket, {"Authorization": f"Bearer {made}"}) == 401
    assert (site.settings.state_dir / "key").read_text().strip() not in json.dumps(config)


# a hostile machine, and the plane's end


class Recorder:
    """Takes what a link tells, as a session does."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self.hellos = 0

    def line_changed(self, up: bool) -> None:
        pass

    def hello(self, header: dict[str, Any]) -> None:
        int(header["last_seq"])
        self.hellos += 1

    def event(self, header: dict[str, Any], seq: int, frame: bytes) -> None:
        self.events.append((seq, header["kind"]))

    def sample(self, header: dict[str, Any]) -> None:
        header["usage"]["cpu"]

    def progress(self, header: dict[str, Any]) -> None:
        pass


class Hostile:
    """A machine that begins its first line with what it likes, and is honest from the second one on."""

    def __init__(self, frames: tuple[bytes | str, ...]) -> None:
        self.frames = frames
        self.lines = 0

    async def serve(self, socket: ServerConnection) -> None:
        self.lines += 1
        await socket.recv()
        with suppress(ConnectionClosed):
            if self.lines == 1:
                for frame in self.frames:
                    await socket.send(frame)
                await socket.wait_closed()
            await socket.send(hello)
            await socket.send(event(1))
            await socket.wait_closed()


@asynccontextmanager
async def linked(
    hostile: Hostile, mirror: EventLog, recorder: Recorder, reached: Callable[[], bool]
) -> AsyncIterator[AgentLink]:
    """Have a plane's end linked to a hostile machine; what is inside runs once `reached`."""
    path = mirror.directory.parent / "a.sock"

    async def where() -> Endpoint:
        return Endpoint(path)

    async with unix_serve(hostile.serve, str(path)):
        link = AgentLink(where, "token", mirror, recorder)
        link.start()
        try:
            async with asyncio.timeout(30):
                while not reached():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            yield link
        finally:
            await link.close()


hello = encode({"type": "hello", "last_seq": 1})


def event(seq: Any, **more: Any) -> bytes:
    return encode({"type": "event", "seq": seq, "kind": "output", **more})


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    yield Recorder()


@pytest.mark.parametrize(
    "frames",
    ROOM.cases(
        {
            "a machine that says no hello": ("the line breaks; the next one is taken", (event(1),)),
            "a machine whose hello says nothing": (
                "the line breaks; the next one is taken",
                (encode({"type": "hello"}),),
            ),
            "a machine that sends text": ("the line breaks; the next one is taken", (hello, "{}")),
            "a machine that sends a frame cut off": ("the line breaks; the next one is taken", (hello, event(1)[:-2])),
            "an event out of order": ("the line breaks; the next one is taken", (hello, event(7))),
            "an event without a number": ("the line breaks; the next one is taken", (hello, encode({"type": "event"}))),
            "an event with the number `1e9`": ("the line breaks; the next one is taken", (hello, event("1e9"))),
            "an event with the number `true`": ("the line breaks; the next one is taken", (hello, event(True))),
            "a sample that is none": ("the line breaks; the next one is taken", (hello, encode({"type": "sample"}))),
            "a frame of a kind that no machine sends": (
                "the line breaks; the next one is taken",
                (hello, encode({"type": "shutdown"})),
            ),
        }
    ),
)
async def test_frames_of_a_machine(tmp_path: Path, recorder: Recorder, frames: tuple[bytes | str, ...]) -> None:
    hostile = Hostile(frames)
    with EventLog(tmp_path / "mirror") as mirror:
        async with linked(hostile, mirror, recorder, lambda: recorder.events == [(1, "output")]) as link:
            assert link.up
            assert hostile.lines == 2
            assert mirror.last_seq == 1


@ROOM.attack("an event sent twice, and a reply that nobody asked for", "taken once; ignored")
async def test_doubled_events(tmp_path: Path, recorder: Recorder) -> None:
    reply = encode({"type": "reply", "id": "forged", "ok": True})
    other = event(1, note="another text")
    hostile = Hostile((hello, event(1), other, reply, event(2)))
    with EventLog(tmp_path / "mirror") as mirror:
        async with linked(hostile, mirror, recorder, lambda: len(recorder.events) >= 2):
            pass
        assert recorder.events == [(1, "output"), (2, "output")]
        assert [decode(frame).header.get("note") for _, frame in mirror.read(0)] == [None, None]


@ROOM.attack("a frame with NaN, Infinity or half a character in its JSON", "refused by both ends")
def test_json() -> None:
    for text in (
        b'{"type":"x","n":NaN,"buffers":[]}',
        b'{"type":"x","n":-Infinity,"buffers":[]}',
        b'{"type":"\xc3","buffers":[]}',
    ):
        with pytest.raises(ProtocolError):
            decode(struct.pack(">I", len(text)) + text)
    with pytest.raises(ProtocolError):
        encode({"type": "x", "n": float("nan")})
