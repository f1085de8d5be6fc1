"""Price tables from where they are: the package, the user's file, gpuhunt's catalogue; and what the ledger used."""

from __future__ import annotations

import importlib
import importlib.resources
import logging
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.spending import spent_between
from ciuic_jupyter.core import price_table
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.core.offers import Cloud, PriceRow, Table, Usage, merged, wish_of
from ciuic_jupyter.errors import ProviderError, UsageError
from ciuic_jupyter.monitor.nvml import Nvml
from ciuic_jupyter.providers.base import Offer
from ciuic_jupyter.settings import Settings

if TYPE_CHECKING:
    from ciuic_jupyter.control.projections import Book, Run

_LIVE = ("aws", "gcp", "azure")  # gpuhunt has more; these are those the bundled table knows the rules of
_LIVE_SECONDS = 20.0  # without a byte from the catalogue
_MOST_BYTES = 4 << 20

View = dict[str, Any]


def bundled(today: date) -> Table:
    """Return the table that comes with the package."""
    path = importlib.resources.files("ciuic_jupyter") / "data" / "prices.toml"
    return price_table.parse(path.read_text(encoding="utf-8"), "bundled", today)


def table(own: Path | None, today: date) -> Table:
    """Return the bundled table with the rows of the user's own file over it; UsageError names file and line."""
    first = bundled(today)
    if own is None:
        return first
    try:
        if own.stat().st_size > _MOST_BYTES:
            raise UsageError(f"the price table {own} is larger than {_MOST_BYTES >> 20} MiB; split or shorten it")
        text = own.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the price table {own} can't be read: {error}; correct it, or unset CIUIC_PRICES") from error
    return merged([first, price_table.parse(text, str(own), today)])


def live(today: date) -> Table:
    """Return gpuhunt's catalogue now: of each cloud, GPU and count the cheapest machine on demand, in USD.

    ProviderError if gpuhunt is not installed or its catalogue can't be had.
    """
    try:
        catalogue = importlib.import_module("gpuhunt").Catalog(auto_reload=False)
    except ImportError as error:
        raise ProviderError(f"gpuhunt is not here ({error}); pip install 'ciuic_jupyter[prices]'") from error
    with _patient(), _quiet():
        try:
            catalogue.load()
            items = catalogue.query(provider=list(_LIVE), min_gpu_count=1, spot=False)
        except Exception as error:  # whatever a catalogue from elsewhere makes it raise
            why = error.__cause__ or error
            raise ProviderError(f"gpuhunt's catalogue can't be had: {type(why).__name__}: {why}") from error
    best: dict[tuple[str, str, int], PriceRow] = {}
    for row in filter(None, (_row(item, today) for item in items)):
        group = (row.cloud, row.gpu, row.gpus)
        if group not in best or row.rate < best[group].rate:
            best[group] = row
    return Table(tuple(best.values()))


def _row(item: Any, today: date) -> PriceRow | None:
    """Return what an item of the catalogue says; None if its price is no price."""
    price, count = item.price, item.gpu_count
    if not isinstance(price, (int, float)) or not math.isfinite(price) or not 0 < price <= 100_000 or not count:
        return None
    names = str(item.provider), str(item.instance_name), str(item.gpu_name or ""), str(item.location or "")
    if not all(name.isprintable() and len(name) <= 200 for name in names):
        return None
    rate = parse_usd(round(Decimal(str(price)), 9))
    cloud, machine, gpu, region = names
    return PriceRow(cloud, machine, rate, "USD", today, "gpuhunt's catalogue", int(count), gpu, region, "gpuhunt")


@contextmanager
def _patient() -> Iterator[None]:
    """Let no connection of this process wait for ever: gpuhunt sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_LIVE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep gpuhunt's tracebacks of single clouds out of what a person reads."""
    logger = logging.getLogger("gpuhunt")
    before, logger.disabled = logger.disabled, True
    others = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("gpuhunt.")]
    kept = [one.disabled for one in others]
    for one in others:
        one.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
        for one, was in zip(others, kept, strict=True):
            one.disabled = was


def local_offers(settings: Settings) -> list[Offer]:
    """Return what this computer offers: itself at the settings' price, and the machine types that it only plays.

    Those are the article's, by their names and prices in the bundled table; nothing chooses them unasked.
    """
    gpus = Nvml().read()
    count, name = (0, "") if isinstance(gpus, str) or not gpus else (len(gpus), gpus[0].name)
    own = settings.instance if wish_of(settings.instance) is None else "local.cpu"
    found = [Offer(own, "local", parse_usd(settings.price_per_hour), settings.currency, gpus=count, gpu=name)]
    played = [row for row in bundled(date.max).rows if row.cloud == "ciuic" and row.machine != own]
    return found + [
        Offer(row.machine, "local", row.rate, row.currency, gpus=count, gpu=name, listed=False) for row in played
    ]


# -- what the ledger used


def usage_view(book: Book, run: Run | None, now_ms: int) -> View:
    """Return the machine time of a session's life, or of one run of it, as JSON for `usage_of`; times in unix ms."""
    end = min(now_ms, book.end_ms(now_ms))
    begin = 0
    if run is not None:
        begin, end = run.started_ms or 0, run.ended_ms if run.ended_ms is not None else end
    spent, stretches = book.compute_nano(now_ms), []
    for segment in book.segments:
        since, until = max(begin, segment.opened_ms), segment.closed_ms if segment.closed_ms is not None else now_ms
        until = min(until, end) if run is not None else until
        if until > since:
            stretches.append((since, until))
    saved = book.checkpoint["report"].get("bytes_total") if book.checkpoint is not None else None
    return {
        "session": book.name,
        "run": run.run if run is not None else None,
        "instance": book.offer["instance"],
        "gpus": int(book.offer.get("gpus", 0)),
        "currency": book.offer["currency"],
        "rate_nano_per_hour": int(book.offer["price_nano_per_hour"]),
        "unit_seconds": int(book.offer["unit_seconds"]),
        "minimum_seconds": int(book.offer["minimum_seconds"]),
        "stretches": stretches,
        "end_ms": max([end, *(until for _, until in stretches)]) if stretches else end,
        "stored_bytes": saved,
        "spent_nano": spent if run is None else spent_between(book, begin, end),
    }


def usage_of(view: View) -> Usage:
    """Return the machine time that a plane told."""
    stretches = [(int(begin), int(end)) for begin, end in view["stretches"]]
    return Usage(stretches, int(view["end_ms"]), max(1, int(view["gpus"])), view["stored_bytes"])


def own_table(view: View) -> Table:
    """Return the one row that a usage was billed by."""
    unit, minimum = int(view["unit_seconds"]), int(view["minimum_seconds"])
    gpus, rate = max(1, int(view["gpus"])), int(view["rate_nano_per_hour"])
    row = PriceRow("here", str(view["instance"]), rate, str(view["currency"]), date.today(), "the ledger", gpus)
    return Table((row,), {"here": Cloud("here", "here", releases=True, unit_seconds=unit, minimum_seconds=minimum)})
