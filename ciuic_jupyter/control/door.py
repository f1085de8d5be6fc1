"""The plane's end of an HTTP line: who never finishes a request is let go, so that strangers can't use up its files."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0  # from a line's or a request's beginning to the end of its headers
MOST_HEAD = 64 << 10  # bytes of headers
MOST_WAITING = 256  # lines that have not said yet what they want; beyond, the oldest goes

_waiting: OrderedDict[Door, None] = OrderedDict()  # of this process


class Door(HttpToolsProtocol):
    """uvicorn's protocol, with a limit in time, size and number on what comes before a token can be looked at."""

    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._come_in()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is not None:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:  # a further request on a line that was kept
            self._wait()

    def on_headers_complete(self) -> None:
        self._come_in()
        super().on_headers_complete()

    def _wait(self) -> None:
        self._head = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        _waiting[self] = None
        if len(_waiting) > MOST_WAITING:
            oldest, _ = _waiting.popitem(last=False)
            oldest.transport.abort()

    def _too_slow(self) -> None:
        self.transport.abort()

    def _come_in(self) -> None:
        _waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
