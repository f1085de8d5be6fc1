"""Routes of those who reckon: what a session or a run used."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from ciuic_jupyter.control import prices
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.errors import UnknownSession


class MoneyRoutes:
    """Facts of the ledger; what they mean elsewhere is reckoned by who asks."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.router = APIRouter(prefix="/v1")
        self.router.add_api_route("/usage", self.usage, methods=["GET"], response_model=None)

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
