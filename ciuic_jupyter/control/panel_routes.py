"""Routes of those who watch the whole plane: the server extension under JupyterLab's panel."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

from ciuic_jupyter.control import spending
from ciuic_jupyter.control.panel import panel_view
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.core.session import check_name


class PanelRoutes:
    """A snapshot, what changes after it, and what was."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.router = APIRouter(prefix="/v1")
        self.router.add_api_route("/snapshot", self.snapshot, methods=["GET"], response_model=None)
        self.router.add_api_route("/history", self.history, methods=["GET"], response_model=None)
        self.router.add_api_route("/sessions/{name}/panel", self.panel, methods=["GET"], response_model=None)
        self.router.add_api_websocket_route("/watch", self.watch)

    async def snapshot(self) -> JSONResponse:
        """All sessions and the total, as a watcher is sent them first."""
        return JSONResponse(self._plane.board.snapshot())

    async def panel(self, name: str) -> JSONResponse:
        """One session, as a watcher is sent it."""
        return JSONResponse(panel_view(self._plane.runner(name)))

    async def history(
        self, session: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 200
    ) -> JSONResponse:
        """Runs and pauses, newest first, and what each day cost."""
        if session is not None:
            check_name(session)
        context = self._plane.context
        return JSONResponse(spending.history(context.books.lives, context, session=session, limit=limit))

    async def watch(self, socket: WebSocket) -> None:
        """A snapshot, then every change, until the watcher goes or takes nothing for 10 s."""
        await socket.accept()

        async def send(frame: bytes) -> None:
            await socket.send_text(frame.decode())

        reading = asyncio.create_task(_until_gone(socket))
        sending = asyncio.create_task(self._plane.board.fanout.serve(send))
        try:
            await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)


async def _until_gone(socket: WebSocket) -> None:
    try:
        while True:
            await socket.receive_text()
    except (WebSocketDisconnect, KeyError, RuntimeError):
        return
