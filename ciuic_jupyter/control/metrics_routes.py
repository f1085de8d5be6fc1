"""Pages for Prometheus, rendered in a thread, at most once a second; their token reads them and does nothing else."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import generate_latest
from prometheus_client.registry import Collector

from ciuic_jupyter.control.daemon import secret
from ciuic_jupyter.control.devices import DeviceCollector
from ciuic_jupyter.control.metrics import LedgerCollector
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.settings import Settings

LEDGER, DEVICES = "/metrics", "/metrics/devices"
PAGES = (LEDGER, DEVICES)
TOKEN = "metrics.token"  # in the state directory: Prometheus' `credentials_file`
_TEXT = "text/plain; version=0.0.4"
_FRESH_SECONDS = 1.0


def metrics_token(settings: Settings) -> str:
    """Return the token of the pages, made at the first call: it stays, for Prometheus keeps the path of its file."""
    return secret(settings.state_dir / TOKEN)


class Page:
    """One page: who asks within a second after it was begun, or while it is made, is given the same one."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._work: asyncio.Task[bytes] | None = None
        self._begun = 0.0

    async def text(self) -> bytes:
        """Return the page in Prometheus' text format."""
        now = asyncio.get_running_loop().time()
        if self._work is None or (self._work.done() and now - self._begun >= _FRESH_SECONDS):
            self._begun = now
            self._work = asyncio.create_task(asyncio.to_thread(generate_latest, self._collector))
        return await asyncio.shield(self._work)  # one who goes away takes it from no other


class MetricsRoutes:
    """What the ledger says, and what the machines' devices do."""

    def __init__(self, plane: Plane) -> None:
        self._ledger = Page(LedgerCollector(plane))
        self._devices = Page(DeviceCollector(plane.context.devices, plane.context.clock))
        self.router = APIRouter()
        self.router.add_api_route(LEDGER, self.ledger, methods=["GET"], response_model=None)
        self.router.add_api_route(DEVICES, self.devices, methods=["GET"], response_model=None)

    async def ledger(self) -> Response:
        """Sessions, money, time, budgets, saves and restores."""
        return Response(await self._ledger.text(), media_type=_TEXT)

    async def devices(self) -> Response:
        """GPUs and kernels of the machines that are heard."""
        return Response(await self._devices.text(), media_type=_TEXT)
