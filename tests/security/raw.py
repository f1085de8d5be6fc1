"""HTTP by hand: what no client library would send."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_SECONDS = 20


@dataclass(frozen=True)
class Answer:
    """What came back; `status` is 0 if the line was closed without a word."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])


@dataclass(frozen=True)
class Address:
    """A server and the token that opens it."""

    netloc: str
    token: str

    def connect(self) -> socket.socket:
        host, _, port = self.netloc.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=_SECONDS)

    def send(self, data: bytes) -> Answer:
        """Send bytes and return what they are answered with."""
        with self.connect() as line:
            with suppress(OSError):  # it may answer, and close, before it has read everything
                line.sendall(data)
            return read(line)

    def ask(self, method: str, path: str, headers: Mapping[str, str | None] | None = None, body: Any = None) -> Answer:
        """Ask with the token; `headers` replace others, None leaves one out; a `body` is sent as JSON."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given: dict[str, str | None] = {"Host": self.netloc, "Authorization": f"Bearer {self.token}"}
        if body is not None:
            given |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        if method == "WS":
            key = base64.b64encode(b"0123456789abcdef").decode()
            given |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
            given |= {"Sec-WebSocket-Key": key}
        given |= headers or {}
        lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
        head = "\r\n".join([f"{'GET' if method == 'WS' else method} {path} HTTP/1.1", *lines, "", ""])
        return self.send(head.encode("latin-1") + data)


def read(line: socket.socket) -> Answer:
    """Read one answer; a WebSocket that opened is left at its first frame."""
    with line.makefile("rb") as file:
        try:
            first = file.readline().split()
        except ConnectionResetError:
            first = []
        if len(first) < 2:
            return Answer(0, {}, b"")
        headers = {}
        while (text := file.readline().strip()) and b":" in text:
            name, _, value = text.partition(b":")
            headers[name.decode().lower()] = value.strip().decode()
        with suppress(ConnectionResetError):
            return Answer(int(first[1]), headers, file.read(int(headers.get("content-length", 0))))
        return Answer(int(first[1]), headers, b"")


def closed(line: socket.socket) -> bool:
    """Wait for the end of a line, whatever comes before it; TimeoutError if it stays open."""
    try:
        while line.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True
