"""What providers list, held against the ledger: a machine of ours that no session wants is billed, and stopped."""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict

from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.projections import Book, Segment
from ciuic_jupyter.core.session import is_live
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers.base import Machine, MachineState, Provider, Tidies

_log = logging.getLogger(__name__)

ORPHANS = "orphans"  # the session that machines belong to which no intent knows
_LOOK_BACK_MS, _LATE_MS = 24 * 3_600_000, 3_600_000
_KEPT_MS = 7 * 24 * 3_600_000  # what a machine left behind stays that long, for a look at its logs


async def reconcile(context: Context) -> None:
    """Adopt and end unwanted machines of ours; close what the ledger has open of those that are gone since.

    A provider that can't be asked proves nothing: the next round asks again, for ever.
    """
    listed: dict[str, Book] = {}
    for provider in context.providers.values():
        try:
            for machine in await provider.list(context.owner):
                if machine.tag == context.owner and not _wanted(context, machine.id):
                    listed[machine.id] = await _adopt(context, provider, machine)
        except ProviderError as error:
            _log.warning("provider %s can't be asked for its machines: %s", provider.name, error)
    await _find(context)
    await _confirm(context)
    for machine_id, book in (_left_open(context) | listed).items():
        try:
            await _end(context, book, machine_id, listed=machine_id in listed)
        except ProviderError as error:
            _log.warning("machine %s could not be stopped, it is still billed: %s", machine_id, error)


async def tidy(context: Context) -> None:
    """Have providers remove what machines left whose time the ledger closed a week ago."""
    until_ms = context.now_ms() - _KEPT_MS
    segments = [segment for book in context.books.lives for segment in book.segments]
    closed = {one.machine for one in segments if one.closed_ms is not None and one.closed_ms < until_ms}
    for provider in context.providers.values():
        if not isinstance(provider, Tidies):
            continue
        for machine in closed & await provider.left():
            try:
                await provider.forget(machine)
            except ProviderError as error:
                _log.warning("%s", error)


async def _find(context: Context) -> None:
    """Ask for machines of the last hour whose start was told to have failed: one may have lived, and be gone again."""
    since_ms = context.now_ms() - _LATE_MS
    for book in context.books.lives:
        known = {segment.machine for segment in book.segments}
        for machine_id, at_ms in list(book.intents.items()):
            if at_ms > since_ms and machine_id not in known and not _wanted(context, machine_id):
                try:
                    found = await context.provider(book).look(machine_id)
                except ProviderError as error:
                    _log.warning("whether machine %s ever was can't be asked: %s", machine_id, error)
                    continue
                if found is not None:
                    await _adopt(context, context.provider(book), found)


async def _confirm(context: Context) -> None:
    """Ask again after each end of the last day till it was told twice; what a provider takes back is corrected."""
    since_ms = context.now_ms() - _LOOK_BACK_MS
    closed = [
        (book, segment)
        for book in context.books.lives
        for segment in book.segments
        if segment.closed_ms is not None and segment.closed_ms > since_ms and segment.machine not in context.confirmed
    ]
    for book, segment in closed:
        try:
            found = await context.provider(book).look(segment.machine)
        except ProviderError as error:
            _log.warning("the end of machine %s can't be confirmed: %s", segment.machine, error)
            continue
        if found is None:
            continue
        end = _told(found)
        if end is None or (end, False) != (segment.closed_ms, segment.estimated):
            await _correct(context, book, segment, found)
        else:
            context.confirmed.add(segment.machine)


def _told(found: Machine) -> int | None:
    """Return when a machine ended, in unix milliseconds; None if its provider does not say that it did."""
    if found.state is not MachineState.STOPPED or found.stopped_at is None:
        return None
    return round(max(found.stopped_at, found.created_at) * 1000)


async def _correct(context: Context, book: Book, segment: Segment, found: Machine) -> None:
    end = _told(found)
    if end is None and found.state is MachineState.STOPPED:
        return  # stopped, and the provider has no time of it: the estimate stands
    _log.warning("machine %s: its provider now says %s, the ledger is corrected", found.id, found.state.value)
    body = {"at_ms": end, "reason": "corrected" if end is not None else "it lives", "estimated": False}
    await _write(context, Row("segment_correct", body, book.name, found.id))


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


async def _end(context: Context, book: Book, machine: str, *, listed: bool) -> None:
    """Stop a machine and close its segment, once the provider proves that it is gone; till then it is open."""
    provider = context.provider(book)
    await provider.stop(machine)
    found = await provider.look(machine)
    segment = next(segment for segment in book.segments if segment.machine == machine)
    if found is not None and found.state is not MachineState.STOPPED:
        if segment.closed_ms is not None:
            await _correct(context, book, segment, found)
        return
    if segment.closed_ms is not None or (found is None and listed):
        return  # the next round confirms it, or it is listed and not known: no word to go by
    end = _told(found) if found is not None else None
    body = {"at_ms": end if end is not None else context.now_ms(), "reason": "orphan", "estimated": end is None}
    if segment.corrected:
        await _write(context, Row("segment_correct", body, book.name, machine))
    else:
        await _write(context, Row("segment_close", body, book.name, machine, f"close:{machine}"))


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
