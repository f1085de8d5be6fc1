"""A quote as a notebook and a terminal show it: what one more run of a cell would cost, and what that rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.notebook.card import rate_text
from ciuic_jupyter.notebook.report import Report, Table
from ciuic_jupyter.notebook.tick import spoken

View = Mapping[str, Any]

_OTHERS = {
    "error": "ended with an error or an interrupt",
    "aborted": "never came to {its} end",
    "died": "died with {its} machine",
    "suspended": "paused, not at {its} end yet",
    "running": "under way",
    "moved": "moved from one machine type to another",
}


def quote(body: View) -> Report:
    """Return a plane's quote: one line a machine type, cheapest first, and under it what was measured or assumed."""
    machines = list(body["machines"])
    rows = [_row(one) for one in machines]
    notes = [*_history(body), *_starts(machines), *(f"Left out: {why}" for why in body["unasked"])]
    notes.append("Nothing was run and no machine was started.")
    return Report(f"Quote · {body['text']}", [Table("", rows, right=1)] if rows else [], notes, data=dict(body))


def _row(one: View) -> tuple[str, str, str, str]:
    currency = str(one["currency"])
    if not one["offered"]:
        return str(one["instance"]), "not offered now", _measured(one), "-"
    price = f"{rate_text(int(one['price_nano_per_hour']), currency)}/h"
    if one["cost_nano"] is None:
        return str(one["instance"]), price, "", f"{format_money(int(one['hour_nano']), currency)} an hour"
    least, median, most = (format_money(int(nano), currency) for nano in one["cost_nano"])
    by = f"assumed as fast as {one['like']}" if one["like"] else _measured(one)
    return str(one["instance"]), price, by, f"{median} ({least} to {most})" if least != most else median


def _measured(one: View) -> str:
    """Return what runs on this very type took, and were billed."""
    least, median, most = (spoken(seconds) for seconds in one["seconds"])
    times = median if least == most else f"{median} ({least} to {most})"
    text = (
        f"{one['runs']} run{'s' if one['runs'] != 1 else ''} here: {times}" if one["offered"] else f"ran here: {times}"
    )
    if one["billed_nano"] is None:
        return text
    low, middle, high = (format_money(int(nano), str(one["currency"])) for nano in one["billed_nano"])
    return f"{text}; billed {middle}{f' ({low} to {high})' if low != high else ''}"


def _history(body: View) -> list[str]:
    whole, paused, others = int(body["whole"]), int(body["paused_on_the_way"]), dict(body["others"])
    if not whole:
        first = "This cell has not run to its end yet: all that is known is what an hour costs."
    else:
        first = f"Counted: {whole} run{'s' if whole != 1 else ''} that came to {'their' if whole != 1 else 'its'} end"
        first += f", {paused} of them through a pause (as one run)." if paused else "."
    notes = [first]
    if body["edited"]:
        notes.append("The cell was changed since: these are runs of its earlier text.")
    if others:
        notes.append("Not counted: " + ", ".join(_other(state, count) for state, count in others.items()) + ".")
    return notes


def _other(state: str, count: int) -> str:
    words = _OTHERS.get(state, state).format(its="its" if count == 1 else "their")
    return f"{count} {words}"


def _starts(machines: list[View]) -> list[str]:
    """Return what the costs say of a machine's start."""
    priced = [one for one in machines if one["cost_nano"] is not None]
    notes = [
        f"On {one['instance']} the session's machine runs already: the cost is what comes on top."
        for one in priced
        if one["runs_now"]
    ]
    started = [one for one in priced if not one["runs_now"]]
    if not started:
        return notes
    if all(one["start_seconds"] is None for one in started):
        return [*notes, "How long a machine takes to start was never measured: it is not in the cost."]
    times = ", ".join(
        f"{spoken(float(one['start_seconds']))} on {one['instance']}"
        + ("" if one["start_measured"] else " (as on others)")
        for one in started
    )
    return [*notes, f"With the start of a machine: {times}."]
