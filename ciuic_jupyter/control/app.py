"""The plane over HTTP and WebSocket: thin routes, one bearer token, loopback names only, no browsers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ciuic_jupyter.control import stored
from ciuic_jupyter.control.counted import of_run
from ciuic_jupyter.control.daemon import VERSION, proof
from ciuic_jupyter.control.metrics_routes import PAGES, MetricsRoutes, metrics_token
from ciuic_jupyter.control.money_routes import MoneyRoutes
from ciuic_jupyter.control.panel_routes import PanelRoutes
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import AgentUnavailable, CiuicError, UnknownSession, UsageError
from ciuic_jupyter.kernels.protocol import decode, encode

_log = logging.getLogger(__name__)

_SEND_SECONDS = 10.0  # a viewer that takes nothing for so long is let go
_OPEN = "/v1/challenge"
_NONCE = re.compile(r"[0-9a-f]{16,64}")
_STREAM_OPS = ("comm", "input", "interrupt")
_MOST_BODY = 16 << 20  # bytes of any request but variables, which are streamed
_MOST_CODE = 1 << 20  # characters of a cell


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Create(_Body):
    name: str = Field(max_length=200)
    instance: str | None = Field(None, max_length=200)
    budget_nano: int | None = Field(None, ge=1, le=10**18)
    cwd: str | None = Field(None, max_length=4096)


class Import(_Body):
    path: str = Field(max_length=4096)
    trust: bool = False


class NewRun(_Body):
    run: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    code: str = Field(max_length=_MOST_CODE)
    cell_id: str | None = Field(None, max_length=200)
    detach: bool = False
    checkpoint_every: float | None = Field(None, ge=1, le=10**7)  # seconds
    grace: float | None = Field(None, ge=0, le=10**7)  # seconds
    trace: list[str] = Field([], max_length=100)  # modules
    budget_nano: int | None = Field(None, ge=1, le=10**18)
    flops: bool = False  # count them


class Wait(_Body):
    wait: bool = True


class Pause(Wait):
    now: bool = False


class Resume(Wait):
    cell: Literal["continue", "drop"] = "continue"
    instance: str | None = None
    run_budget_nano: int | None = Field(None, ge=1, le=10**18)


class Release(_Body):
    discard: bool = False
    wait: bool = True


class Keep(_Body):
    seconds: float


class Every(_Body):
    seconds: float = Field(ge=1, le=10**7)


class Interrupt(_Body):
    run: str | None = Field(None, max_length=200)


class Answer(_Body):
    run: str = Field(max_length=200)
    value: str = Field(max_length=_MOST_CODE)


class Gate:
    """Lets in who knows the token, by a loopback name, and is no browser page; pages of metrics have their own."""

    def __init__(self, app: ASGIApp, token: str, port: int, pages_token: str) -> None:
        self._app = app
        self._token = f"Bearer {token}".encode()
        self._pages_token = f"Bearer {pages_token}".encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if headers.get(b"host") not in self._hosts or _more_than_one(scope, b"host", b"authorization"):
            await _refuse(scope, receive, send, 403, "this name is not the control plane's")
        elif b"origin" in headers or headers.get(b"sec-fetch-site", b"none") != b"none":
            await _refuse(scope, receive, send, 403, "web pages can't call the control plane")
        elif scope["path"] != _OPEN and not self._knows(scope["path"], headers.get(b"authorization", b"")):
            await _refuse(scope, receive, send, 401, "the token is missing or wrong")
        elif scope["type"] == "websocket" or (scope["method"] == "PUT" and scope["path"].endswith("/variables")):
            await self._app(scope, receive, send)
        else:
            await self._app(scope, _limited(receive), send)

    def _knows(self, path: str, said: bytes) -> bool:
        """Tell whether the token of this path was said: the scraper's opens the pages of metrics, and nothing else."""
        return hmac.compare_digest(said, self._pages_token if path in PAGES else self._token)


def _more_than_one(scope: Scope, *names: bytes) -> bool:
    found = [name for name, _ in scope["headers"] if name in names]
    return len(found) > len(set(found))


def _limited(receive: Receive) -> Receive:
    """Let through so much of a body, and refuse the request that goes on."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _MOST_BODY:
            most = f"a request of more than {_MOST_BODY >> 20} MiB; nothing was done"
            raise HTTPException(413, most, {"Connection": "close"})
        return message

    return counted


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": message})
        return
    answer = _error(status, "UsageError", message)
    answer.headers["Connection"] = "close"  # the rest of its body is not even read
    await answer(scope, receive, send)


def _status_of(error: CiuicError) -> int:
    if isinstance(error, UnknownSession):
        return 404
    if isinstance(error, AgentUnavailable):
        return 503
    return 400 if isinstance(error, UsageError) else 409


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status)


async def _on_ciuic_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, CiuicError)
    return _error(_status_of(error), type(error).__name__, str(error))


async def _on_bad_input(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return _error(422, "UsageError", f"{where}: {first['msg']}; nothing was done")


async def _on_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    answer = _error(error.status_code, "UsageError", error.detail)
    answer.headers.update(error.headers or {})
    return answer


async def _on_failure(_: Request, error: Exception) -> JSONResponse:
    _log.error("a request failed", exc_info=error)
    return _error(500, "CiuicError", f"the control plane failed: {type(error).__name__}; its log says more")


class Routes:
    """The routes of one plane."""

    def __init__(self, plane: Plane, token: str) -> None:
        self._plane = plane
        self._token = token
        self.router = APIRouter(prefix="/v1")
        table: list[tuple[str, str, Callable[..., Awaitable[Any]]]] = [
            ("GET", "/challenge", self.challenge),
            ("GET", "/health", self.health),
            ("POST", "/shutdown", self.shutdown),
            ("GET", "/cost", self.total_cost),
            ("GET", "/sessions", self.sessions),
            ("POST", "/sessions", self.create),
            ("GET", "/sessions/{name}", self.session),
            ("POST", "/sessions/{name}/import", self.take_in),
            ("GET", "/sessions/{name}/runs", self.runs),
            ("POST", "/sessions/{name}/runs", self.run),
            ("POST", "/sessions/{name}/pause", self.pause),
            ("POST", "/sessions/{name}/resume", self.resume),
            ("POST", "/sessions/{name}/release", self.release),
            ("POST", "/sessions/{name}/close", self.close),
            ("POST", "/sessions/{name}/keep", self.keep),
            ("POST", "/sessions/{name}/every", self.every),
            ("POST", "/sessions/{name}/interrupt", self.interrupt),
            ("POST", "/sessions/{name}/input", self.answer),
            ("GET", "/sessions/{name}/names", self.names),
            ("PUT", "/sessions/{name}/variables", self.push),
            ("GET", "/sessions/{name}/variables", self.pull),
            ("GET", "/sessions/{name}/checkpoint", self.checkpoint),
            ("GET", "/sessions/{name}/receipts", self.receipts),
            ("GET", "/sessions/{name}/cost", self.cost),
        ]
        for method, path, handler in table:
            self.router.add_api_route(path, handler, methods=[method], response_model=None)
        self.router.add_api_websocket_route("/sessions/{name}/stream", self.stream)

    async def challenge(self, nonce: str = "") -> JSONResponse:
        """Prove that we know the token, to who has not sent it yet."""
        if not _NONCE.fullmatch(nonce):
            raise UsageError("a nonce is 16 to 64 hex digits")
        return JSONResponse({"proof": proof(self._token, nonce)})

    async def health(self) -> JSONResponse:
        """Version and process of this plane."""
        clock = self._plane.context.clock
        return JSONResponse({"version": VERSION, "pid": os.getpid(), "boot_id": clock.boot_id})

    async def shutdown(self) -> JSONResponse:
        """End the plane; machines and runs go on."""
        asyncio.get_running_loop().call_later(0.05, self._plane.shut_down)
        return JSONResponse({"stopping": True})

    async def total_cost(self) -> JSONResponse:
        """What everything cost."""
        return JSONResponse(self._plane.cost())

    async def sessions(self) -> JSONResponse:
        """All sessions."""
        return JSONResponse(self._plane.views())

    async def create(self, body: Create) -> JSONResponse:
        """Create, resume, or find a session; `resumed` tells that it was paused."""
        before = self._plane.runners.get(body.name)
        paused = before is not None and before.book.state is State.PAUSED
        runner = await self._plane.create(body.name, **body.model_dump(exclude={"name"}))
        return JSONResponse({**runner.view(), "resumed": paused})

    async def session(self, name: str) -> JSONResponse:
        """One session."""
        return JSONResponse(self._plane.runner(name).view())

    async def take_in(self, name: str, body: Import) -> JSONResponse:
        """Make a paused session of the newest checkpoint in a folder."""
        return JSONResponse((await self._plane.take_in(name, body.path, trust=body.trust)).view(), 201)

    async def runs(self, name: str) -> JSONResponse:
        """The runs of a session."""
        book, now_ms = self._plane.runner(name).book, self._plane.context.now_ms()
        return JSONResponse([run.view() | {"flops": of_run(book, run, now_ms)} for run in book.runs.values()])

    async def run(self, name: str, body: NewRun) -> JSONResponse:
        """Queue a cell."""
        runner = self._plane.runners.get(name)
        if runner is None or runner.book.state is State.CLOSED:
            runner = await self._plane.create(name, instance=None, budget_nano=None, cwd=None)
        options = body.model_dump(include={"checkpoint_every", "grace", "budget_nano", "flops"})
        await runner.submit(body.run, body.code, body.cell_id, trace=tuple(body.trace), **options)
        return JSONResponse(runner.book.runs[body.run].view(), 202)

    async def pause(self, name: str, body: Pause) -> JSONResponse:
        """Save and release at the running cell's next loop boundary, or its end; `now` waits for neither."""
        runner = self._plane.runner(name)
        await runner.pause(now=body.now)
        return await self._gone(runner, body.wait)

    async def resume(self, name: str, body: Resume) -> JSONResponse:
        """Start a machine for a paused session; a suspended cell goes on, or is dropped where it stands."""
        runner = self._plane.runner(name)
        if runner.book.state is State.CLOSED:
            raise UsageError(f"session {name} is closed; run a cell with --session {name} to begin a new one")
        if body.instance is not None:
            await self._plane.choose(runner, body.instance)
        if body.cell == "drop":
            await runner.continuing.drop()
        if body.run_budget_nano is not None:
            await runner.set_run_budget(body.run_budget_nano)
        await runner.ensure()
        if body.wait:
            await runner.until(lambda: runner.book.state in (State.RUNNING, State.PAUSED, State.FAILED, State.CLOSED))
        return JSONResponse(runner.view())

    async def release(self, name: str, body: Release) -> JSONResponse:
        """Interrupt, save unless `discard`, release."""
        runner = self._plane.runner(name)
        await runner.release(discard=body.discard)
        return await self._gone(runner, body.wait)

    async def close(self, name: str, body: Wait) -> JSONResponse:
        """Save, release, end."""
        runner = self._plane.runner(name)
        await runner.end()
        return await self._gone(runner, body.wait)

    async def _gone(self, runner: Runner, wait: bool) -> JSONResponse:
        if wait:
            await runner.let_go()
        return JSONResponse(runner.view())

    async def keep(self, name: str, body: Keep) -> JSONResponse:
        """Postpone the idle rule."""
        runner = self._plane.runner(name)
        await runner.keep(body.seconds)
        return JSONResponse(runner.view())

    async def every(self, name: str, body: Every) -> JSONResponse:
        """Checkpoints of the cell under way, so often."""
        runner = self._plane.runner(name)
        await runner.hold.every(body.seconds)
        return JSONResponse(runner.view())

    async def interrupt(self, name: str, body: Interrupt) -> JSONResponse:
        """Ctrl-C."""
        return JSONResponse({"interrupted": await self._plane.runner(name).interrupt(body.run)})

    async def answer(self, name: str, body: Answer) -> JSONResponse:
        """Answer an input()."""
        await self._plane.runner(name).ask("input", run=body.run, value=body.value)
        return JSONResponse({})

    async def names(self, name: str) -> JSONResponse:
        """The kernel's variables, or the saved ones where there is no kernel: name -> type."""
        runner = self._plane.runner(name)
        if stored.loads_here(runner):
            return JSONResponse({"names": await stored.kinds(runner)})
        reply = await runner.ask("names")
        return JSONResponse({"names": reply["names"]})

    async def checkpoint(self, name: str) -> JSONResponse:
        """What the newest checkpoint holds; no machine is started."""
        return JSONResponse(await stored.show(self._plane.runner(name)))

    async def push(self, name: str, request: Request, names: str = "") -> JSONResponse:
        """Variables into the kernel: the body goes through as it comes."""
        runner = self._plane.runner(name)
        link = await runner.ready_link()
        blob = uuid.uuid4().hex
        await link.upload(blob, request.stream())
        wanted = names.split(",") if names else None
        reply = await link.request("push", blob=blob, names=wanted)
        return JSONResponse({key: value for key, value in reply.items() if key not in ("type", "id", "ok", "buffers")})

    async def pull(self, name: str, names: Annotated[str, Query(max_length=100_000)]) -> StreamingResponse:
        """Variables out of the kernel, or out of the checkpoint where there is no kernel, as a stream."""
        runner, wanted = self._plane.runner(name), [part for part in names.split(",") if part]
        if stored.loads_here(runner):
            length, pieces = await stored.pull(runner, wanted)
            size = {"Content-Length": str(length)}
            return StreamingResponse(pieces, media_type="application/octet-stream", headers=size)
        link = await runner.ready_link()
        reply = await link.request("pull", names=wanted)
        size = {"Content-Length": str(reply["size"])}
        return StreamingResponse(link.download(reply["blob"]), media_type="application/octet-stream", headers=size)

    async def receipts(self, name: str) -> JSONResponse:
        """The receipts of a session's pauses."""
        return JSONResponse(self._plane.runner(name).book.receipts)

    async def cost(self, name: str) -> JSONResponse:
        """What a session cost."""
        return JSONResponse(self._plane.cost(name))

    async def stream(self, socket: WebSocket, name: str, after: int = 0) -> None:
        """A session's events after `after`, then live; requests of its viewer the other way."""
        await socket.accept()
        try:
            runner = self._plane.runner(name)
        except CiuicError as error:
            await socket.close(4404, f"{type(error).__name__}: {error}".encode()[:120].decode(errors="ignore"))
            return
        reading = asyncio.create_task(self._requests(socket, runner))
        sending = asyncio.create_task(_send_all(socket, runner.feed_viewers.frames(after)))
        try:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)

    async def _requests(self, socket: WebSocket, runner: Runner) -> None:
        try:
            while True:
                frame = decode(await socket.receive_bytes())
                header = frame.header
                operation = header.get("op")
                if operation not in _STREAM_OPS:
                    raise UsageError(f"no operation {operation!r} on a stream; known: {', '.join(_STREAM_OPS)}")
                fields = {key: header[key] for key in header.keys() - {"type", "id", "op", "buffers"}}
                try:
                    if operation == "interrupt":  # of a cell that still waits, too
                        await runner.interrupt(fields.get("run"))
                    else:
                        await runner.ask(operation, buffers=frame.buffers, **fields)
                    reply: dict[str, Any] = {"ok": True}
                except CiuicError as error:
                    reply = {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}
                await socket.send_bytes(encode({"type": "reply", "id": str(header.get("id")), **reply}))
        except (WebSocketDisconnect, CiuicError, KeyError, RuntimeError):
            return


async def _send_all(socket: WebSocket, frames: AsyncIterator[bytes]) -> None:
    try:
        async for frame in frames:
            async with asyncio.timeout(_SEND_SECONDS):
                await socket.send_bytes(frame)
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        return


def make_app(plane: Plane, token: str, port: int) -> ASGIApp:
    """Return the ASGI application of a plane that listens on `port`."""
    app = FastAPI(title="ciuic control plane", version=VERSION, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(Routes(plane, token).router)
    app.include_router(PanelRoutes(plane).router)
    app.include_router(MoneyRoutes(plane).router)
    app.include_router(MetricsRoutes(plane).router)
    app.add_exception_handler(CiuicError, _on_ciuic_error)
    app.add_exception_handler(RequestValidationError, _on_bad_input)
    app.add_exception_handler(HTTPException, _on_refusal)
    app.add_exception_handler(Exception, _on_failure)
    return Gate(app, token, port, metrics_token(plane.settings))
