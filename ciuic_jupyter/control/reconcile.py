"""What providers list, held against the ledger: a machine of ours that no session wants is billed, and stopped."""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict

from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.projections import Book
from ciuic_jupyter.core.session import is_live
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers.base import Machine, MachineState, Provider

_log = logging.getLogger(__name__)

ORPHANS = "orphans"  # the session that machines belong to which no intent knows


async def reconcile(context: Context) -> None:
    """Adopt and end unwanted machines of ours; close what the ledger has open of those that are gone since.

    A provider that can't be asked proves nothing: the next round asks again, for ever.
    """
    unwanted: dict[str, Book] = {}
    for provider in context.providers.values():
        try:
            for machine in await provider.list(context.owner):
                if machine.tag == context.owner and not _wanted(context, machine.id):
                    unwanted[machine.id] = await _adopt(context, provider, machine)
        except ProviderError as error:
            _log.warning("provider %s can't be asked for its machines: %s", provider.name, error)
    for machine_id, book in (_left_open(context) | unwanted).items():
        try:
            await _end(context, context.provider(book), book, machine_id)
        except ProviderError as error:
            _log.warning("machine %s could not be stopped, it is still billed: %s", machine_id, error)


def _wanted(context: Context, machine: str) -> bool:
    book = context.books.machines.get(machine)
    if book is None or book.state is None or book.intent is None:
        return False
    return is_live(book.state) and book.intent["id"] == machine


def _left_open(context: Context) -> dict[str, Book]:
    """Return the unwanted machines that the ledger has open, listed or not: a list may forget what it bills."""
    return {
        segment.machine: book
        for book in context.books.lives
        for segment in book.segments
        if segment.closed_ms is None and not _wanted(context, segment.machine)
    }


async def _adopt(context: Context, provider: Provider, machine: Machine) -> Book:
    """Return the book that pays for a machine; its segment is opened, backdated, if it has none."""
    _log.warning("machine %s is ours and nobody wants it: stopping it", machine.id)
    book = context.books.machines.get(machine.id) or await _orphanage(context, provider)
    if any(segment.machine == machine.id for segment in book.segments):
        return book
    body = {
        "at_ms": round(machine.created_at * 1000),
        "rate": book.offer["price_nano_per_hour"],
        "currency": book.offer["currency"],
        "unit_ms": book.offer["unit_seconds"] * 1000,
        "minimum_ms": book.offer["minimum_seconds"] * 1000,
    }
    await _write(context, Row("segment_open", body, book.name, machine.id, f"open:{machine.id}"))
    return book


async def _end(context: Context, provider: Provider, book: Book, machine: str) -> None:
    """Stop a machine and close its segment, once the provider proves that it is gone."""
    await provider.stop(machine)
    found = await provider.look(machine)
    if found is not None and found.state is not MachineState.STOPPED:
        return
    if not any(segment.machine == machine and segment.closed_ms is None for segment in book.segments):
        return  # the provider had called it stopped before, and it was not
    stopped = found.stopped_at if found is not None else None
    end = {
        "at_ms": round(stopped * 1000) if stopped is not None else context.now_ms(),
        "reason": "orphan",
        "estimated": stopped is None,
    }
    await _write(context, Row("segment_close", end, book.name, machine, f"close:{machine}"))


async def _orphanage(context: Context, provider: Provider) -> Book:
    if ORPHANS not in context.books.sessions:
        offers = await provider.offers()
        offer = max(offers, key=lambda one: one.price_nano_per_hour)  # which it was is not known: the dearest
        body = {
            "life": uuid.uuid4().hex,
            "offer": asdict(offer),
            "budget_nano": None,
            "cwd": None,
            "at_ms": context.now_ms(),
        }
        await _write(context, Row("session", body, ORPHANS))
    return context.books.sessions[ORPHANS]


async def _write(context: Context, row: Row) -> None:
    context.books.apply(await context.ledger.append(row))
