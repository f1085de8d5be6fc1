"""Routes of those who reckon: what a session or a run used, what a cell would cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ciuic_jupyter.control import advising, prices, quotes, report
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.errors import UnknownSession

_MOST_CODE = 1 << 20  # characters of a cell


class Quoted(BaseModel):
    """The cell that is asked about: by its source, or by one of its runs; in which session it would run."""

    model_config = ConfigDict(extra="forbid")

    code: str | None = Field(None, max_length=_MOST_CODE)
    run: str | None = Field(None, max_length=200)
    cell_id: str | None = Field(None, max_length=200)
    session: str | None = Field(None, max_length=200)


class MoneyRoutes:
    """Facts of the ledger; what they mean elsewhere is reckoned by who asks."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.router = APIRouter(prefix="/v1")
        routes: dict[str, Callable[..., Awaitable[JSONResponse]]] = {
            "/usage": self.usage,
            "/report": self.report,
            "/same": self.same,
            "/advice": self.advice,
        }
        for path, handler in routes.items():
            self.router.add_api_route(path, handler, methods=["GET"], response_model=None)
        self.router.add_api_route("/quote", self.quote, methods=["POST"], response_model=None)

    async def report(self, by: Annotated[str, Query(max_length=20)], session: str | None = None) -> JSONResponse:
        """What was spent by day, session, run or machine type."""
        if session is not None:
            self._plane.runner(session)
        context = self._plane.context
        return JSONResponse(report.report(context.books.lives, context, by, session=session))

    async def advice(self, session: str | None = None) -> JSONResponse:
        """What the measurements say could cost less."""
        return JSONResponse(await advising.advice(self._plane, session))

    async def same(self, run: Annotated[str, Query(max_length=200)]) -> JSONResponse:
        """All runs of the cell that a run is of."""
        context = self._plane.context
        return JSONResponse(report.same_cell(context.books.lives, context, run))

    async def quote(self, body: Quoted) -> JSONResponse:
        """What one more run of a cell would cost on each machine type; nothing is started."""
        return JSONResponse(await quotes.quote_cell(self._plane.context, **body.model_dump()))

    async def usage(self, of: Annotated[str, Query(max_length=200)]) -> JSONResponse:
        """Machine time of a session's newest life, or of a run of any life."""
        context = self._plane.context
        now_ms = context.now_ms()
        if of in context.books.sessions:
            return JSONResponse(prices.usage_view(context.books.sessions[of], None, now_ms))
        for book in context.books.lives:
            if of in book.runs:
                return JSONResponse(prices.usage_view(book, book.runs[of], now_ms))
        known = ", ".join(sorted(self._plane.runners)) or "none yet"
        raise UnknownSession(f"no session or run {of!r}; there are the sessions: {known}")
