"""The routes: each asks who is there and what they may do, then passes on to the plane; none counts as activity."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable
from http.client import responses
from typing import Any
from urllib.parse import quote, urlencode

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import AgentUnavailable, CiuicError, PlaneUnavailable, UnknownSession, UsageError
from ciuic_jupyter.kernels.fanout import encoded
from ciuic_jupyter.server.bridge import Bridge
from ciuic_jupyter.server.outputs import run_outputs

BRIDGE = "ciuic_bridge"  # the key under which the server's settings hold the bridge
ACTIONS = ("pause", "resume", "release", "close", "keep", "interrupt")
_WAITING = ("pause", "resume", "release", "close")  # the plane can wait for their end; a page does not
_MOST_BODY = 65536  # bytes; the largest honest body has a hundred
_RESOURCE = "ciuic"


def _status_of(error: CiuicError) -> int:
    if isinstance(error, UnknownSession):
        return 404
    if isinstance(error, AgentUnavailable | PlaneUnavailable):
        return 503
    return 400 if isinstance(error, UsageError) else 409


def _path(name: str, action: str) -> str:
    return f"/sessions/{quote(check_name(name), safe='')}/{action}"


class _Handler(APIHandler):
    auth_resource = _RESOURCE
    _track_activity = False  # a panel that looks keeps no server alive

    @property
    def bridge(self) -> Bridge:
        bridge: Bridge = self.settings[BRIDGE]
        return bridge

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer every error as JSON: `error` for the panel, `message` for Jupyter's own clients."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        kind, message = "UsageError", responses.get(status_code, "refused")
        if isinstance(error, CiuicError):
            self.set_status(_status_of(error))
            kind, message = type(error).__name__, str(error)
        elif isinstance(error, HTTPError):
            message = error.log_message or message
        else:
            kind, message = "CiuicError", "the request failed in the Jupyter server; its log says why"
        self.finish(json.dumps({"error": {"type": kind, "message": message}, "message": message}))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """An error of ours is an answer, not a failure of the server."""
        if not isinstance(value, CiuicError):
            super().log_exception(typ, value, tb)

    def body(self) -> dict[str, Any]:
        """Return the request's JSON object, empty without a body; UsageError for anything else."""
        if len(self.request.body) > _MOST_BODY:
            raise HTTPError(413, f"a body of more than {_MOST_BODY >> 10} KiB; nothing was done")
        try:
            found = json.loads(self.request.body.decode() or "{}")
        except (ValueError, RecursionError):
            raise UsageError("the body is not JSON; nothing was done") from None
        if not isinstance(found, dict):
            raise UsageError("the body is not a JSON object; nothing was done")
        return found

    async def relay(self, method: str, path: str, **options: Any) -> None:
        """Answer with the plane's own status and JSON."""
        status, body = await self.bridge.call(lambda client: client.relay(method, path, **options))
        self.set_status(status)
        self.finish(body)


class SnapshotHandler(_Handler):
    """All sessions and the total."""

    @authenticated
    @authorized
    async def get(self) -> None:
        found = await self.bridge.snapshot_now()
        self.finish(found if isinstance(found, bytes) else encoded(found))


class StartHandler(_Handler):
    """Start the plane."""

    @authenticated
    @authorized
    async def post(self) -> None:
        self.finish(encoded(await self.bridge.start_plane()))


class ActionHandler(_Handler):
    """Pause, resume, release, close, keep, interrupt: the answer is the session; the watch tells what comes of it."""

    @authenticated
    @authorized
    async def post(self, name: str, action: str) -> None:
        body = self.body()
        if action in _WAITING:
            body["wait"] = False
        status, said = await self.bridge.call(lambda client: client.relay("POST", _path(name, action), json=body))
        if status < 400:
            await self.relay("GET", _path(name, "panel"))
        else:
            self.set_status(status)
            self.finish(said)


class ReceiptsHandler(_Handler):
    """The receipts of a session's pauses."""

    @authenticated
    @authorized
    async def get(self, name: str) -> None:
        await self.relay("GET", _path(name, "receipts"))


class HistoryHandler(_Handler):
    """Runs, pauses and days."""

    @authenticated
    @authorized
    async def get(self) -> None:
        asked = {name: self.get_query_argument(name, None) for name in ("session", "limit")}
        query = urlencode({name: value for name, value in asked.items() if value})
        await self.relay("GET", f"/history?{query}")


class QuoteHandler(_Handler):
    """What a cell would cost on each machine type; it is asked with POST for the cell's length, and does nothing."""

    @authenticated
    @authorized("read", _RESOURCE)
    async def post(self) -> None:
        await self.relay("POST", "/quote", json=self.body())


class OutputsHandler(_Handler):
    """What a run has shown, as a notebook would hold it."""

    @authenticated
    @authorized
    async def get(self, name: str, run: str) -> None:
        found = await self.bridge.call(lambda client: encoded(run_outputs(client, check_name(name), run)))
        self.finish(found)


class WatchHandler(WebSocketMixin, JupyterHandler, WebSocketHandler):
    """A snapshot, then every change, uncompressed; what the page sends is not read."""

    auth_resource = _RESOURCE

    @ws_authenticated
    @authorized(action="read")
    async def get(self, *args: Any, **kwargs: Any) -> None:
        opened = super().get(*args, **kwargs)
        if opened is not None:
            await opened

    _serving: asyncio.Task[None] | None = None

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Begin to serve this viewer; tornado reads nothing of a line, its end included, before this returns."""
        super().open(*args, **kwargs)
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Serve until the viewer goes, or takes nothing for 10 s."""

        stream = self.ws_connection.stream if self.ws_connection is not None else None
        if stream is None:  # gone before it was served
            return

        def send(payload: bytes) -> Awaitable[None]:
            # write_message would make a task of each frame of each viewer: half the viewers in the same time
            written: Awaitable[None] = stream.write(text_frame(payload))
            return written

        try:
            await self.settings[BRIDGE].serve(send)
        except (WebSocketClosedError, StreamClosedError):
            return
        except TimeoutError:
            self.close(1008, "nothing was taken for 10 s")

    def on_close(self) -> None:
        """The viewer is gone."""
        if self._serving is not None:
            self._serving.cancel()
        super().on_close()

    def on_message(self, message: str | bytes) -> None:
        """Nothing is asked over this line."""


def text_frame(payload: bytes) -> bytes:
    """Return one whole unmasked text frame, as a server sends it (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def handlers(base_url: str) -> list[tuple[str, type[JupyterHandler]]]:
    """Return (pattern, handler) of every route under a server's base_url."""
    name, run = r"([^/]+)", r"([A-Za-z0-9_-]{1,64})"
    table: list[tuple[str, type[JupyterHandler]]] = [
        (r"watch", WatchHandler),
        (r"snapshot", SnapshotHandler),
        (r"plane/start", StartHandler),
        (r"history", HistoryHandler),
        (r"quote", QuoteHandler),
        (rf"sessions/{name}/({'|'.join(ACTIONS)})", ActionHandler),
        (rf"sessions/{name}/receipts", ReceiptsHandler),
        (rf"sessions/{name}/runs/{run}/outputs", OutputsHandler),
    ]
    return [(url_path_join(base_url, "ciuic", path), handler) for path, handler in table]
