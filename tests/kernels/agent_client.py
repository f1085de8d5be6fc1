"""A plane's end of an agent's websocket, for tests: the real agent, started as the providers start it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from ciuic_jupyter.kernels.protocol import MAX_FRAME, Frame, decode, encode

TOKEN = "t" * 40
KEY = bytes(range(32))
Event = dict[str, Any]


class Machine:
    """One agent process and its directories."""

    def __init__(self, root: Path, *, before: str = "", **config: Any) -> None:
        """`before` is code that runs in the agent's process first."""
        self.root = root
        self._before = before
        self.directory = root / "m"
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.config = {
            "machine": root.name,
            "intent": "intent",
            "session": "s",
            "token": TOKEN,
            "socket": str(root / "r" / "agent.sock"),
            "directory": str(self.directory),
            "first_seq": 1,
            "store": str(root / "store"),
            "key_hex": KEY.hex(),
            "checkpoint": None,
            "cwd": str(root),
            "env": {},
            "lease_seconds": 600,
            "sample_hz": 10,
            "deadline": None,
            "warm": False,
            **config,
        }
        file = self.directory / "config.json"
        file.write_text(json.dumps(self.config))
        self.process = self.start(file)

    def start(self, file: Path) -> Any:
        how = ["-m", "ciuic_jupyter.kernels.agent", str(file)]
        if self._before:
            main = f"import json\nfrom ciuic_jupyter.kernels import agent\nagent.main(json.load(open({str(file)!r})))"
            how = ["-c", f"{self._before}\n{main}"]
        with (self.directory / "out.log").open("ab") as out:
            return subprocess.Popen([sys.executable, *how], stdout=out, stderr=out)

    def connect(self, after: int = 0, *, deadline: float = 30) -> Plane:
        ends = time.monotonic() + deadline
        while True:
            try:
                return Plane(self, after)
            except (OSError, ConnectionClosed):
                if time.monotonic() > ends or self.process.poll() is not None:
                    raise AssertionError(f"no agent: {self.logs()}") from None
                time.sleep(0.01)

    def socket(self, path: str = "/", token: str = TOKEN) -> ClientConnection:
        return unix_connect(
            self.config["socket"],
            f"ws://agent{path}",
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=MAX_FRAME,
            ping_interval=None,
        )

    def kernel_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def final(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "final.json").read_text()))

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()}" for p in sorted(self.directory.glob("*.log")))

    def end(self) -> None:
        if self.process.poll() is None:
            (self.directory / "stopped").touch()  # as a provider does: no cell is worth saving
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


class Plane:
    """One connection; frames are read on demand, events kept."""

    def __init__(self, machine: Machine, after: int = 0) -> None:
        self.machine = machine
        self._open = ExitStack()
        self.socket = self._open.enter_context(machine.socket())
        self.events: list[Event] = []
        self.frames: list[Event] = []
        self.last = after
        self.replies: dict[str, Event] = {}
        self._ids = itertools.count()
        self._beaten = time.monotonic()
        self.send({"type": "hello", "after": after})
        self.hello = self.next().header
        assert self.hello["type"] == "hello"

    def send(self, header: dict[str, Any], buffers: Any = ()) -> None:
        self.socket.send(encode(header, buffers))

    def next(self, timeout: float = 30) -> Frame:
        ends = time.monotonic() + timeout
        while True:
            if time.monotonic() - self._beaten > 1:
                self._beaten = time.monotonic()
                self.send({"type": "beat"})
            try:
                frame = decode(self.socket.recv(timeout=min(1.0, max(0.0, ends - time.monotonic()))))
            except TimeoutError:
                assert time.monotonic() < ends, f"nothing came: {self.machine.logs()}"
                continue
            header = frame.header
            if header["type"] == "event":
                assert header["seq"] == self.last + 1, f"{header['seq']} after {self.last}"
                self.last = header["seq"]
                self.events.append({**header, "buffers": frame.buffers})
            elif header["type"] == "reply":
                self.replies[header["id"]] = header
            elif header["type"] != "beat":
                self.frames.append(header)
            return frame

    def until(self, condition: Callable[[Event], bool], timeout: float = 60) -> Event:
        """Return the first event, old or new, for which `condition` holds."""
        seen = 0
        ends = time.monotonic() + timeout
        while True:
            for event in self.events[seen:]:
                if condition(event):
                    return event
            seen = len(self.events)
            assert time.monotonic() < ends, f"no such event: {self.machine.logs()}"
            self.next(timeout)

    def ask(self, op: str, /, *, request: str | None = None, buffers: Any = (), **content: Any) -> str:
        name = request or os.urandom(8).hex()
        self.send({"type": "request", "id": name, "op": op, **content}, buffers)
        return name

    def reply(self, request: str, timeout: float = 60) -> Event:
        ends = time.monotonic() + timeout
        while request not in self.replies:
            assert time.monotonic() < ends
            self.next(timeout)
        return self.replies[request]

    def call(self, op: str, /, **content: Any) -> Event:
        reply = self.reply(self.ask(op, **content))
        assert reply["ok"], reply
        return reply

    def ready(self) -> Plane:
        self.until(lambda e: e["kind"] == "kernel")
        return self

    def run(self, code: str, run: str | None = None, **more: Any) -> Event:
        """Run a cell to its end; return its run_ended event."""
        run = run or f"r{next(self._ids)}-{os.urandom(4).hex()}"
        self.call("run", run=run, code=code, **more)
        return self.until(lambda e: e["kind"] == "run_ended" and e["run"] == run)

    def text(self, run: str | None = None, name: str = "stdout") -> str:
        return "".join(
            e["content"]["text"]
            for e in self.events
            if e["kind"] == "output"
            and e["msg_type"] == "stream"
            and e["content"]["name"] == name
            and run in (None, e["run"])
        )

    def cut(self) -> None:
        """Cut the line as a network does: no goodbye."""
        with suppress(OSError):  # the agent was faster
            self.socket.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._open.close()

    def take_over(self, fresh: Plane) -> None:
        """Go on with the connection of `fresh`, which continues behind our last event."""
        self.close()
        self._open, self.socket, self.hello = fresh._open, fresh.socket, fresh.hello


@contextmanager
def machine(root: Path, *, before: str = "", **config: Any) -> Iterator[Machine]:
    made = Machine(root, before=before, **config)
    try:
        yield made
    finally:
        made.end()
