"""Receipts, status and costs as objects that look good in a notebook and in a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ciuic_jupyter.core import carbon, flops
from ciuic_jupyter.core.advice import NO_ADVICE
from ciuic_jupyter.core.money import format_change, format_money
from ciuic_jupyter.notebook import card, style
from ciuic_jupyter.notebook.tick import spoken


@dataclass(frozen=True)
class Table:
    """Rows under a heading; the last `right` columns are numbers."""

    title: str
    rows: Sequence[Sequence[str]]
    right: int = 0
    warn: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing: HTML whose text is escaped, and lines for a terminal."""

    html: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Report:
    """What a magic returns: a title, figures, tables and notes. The last expression of a cell shows it."""

    title: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    data: Any = field(default=None, compare=False)
    figures: Sequence[Figure] = ()

    def text(self) -> str:
        """Return it for a terminal."""
        lines = [self.title, *(f"  {line}" for figure in self.figures for line in figure.lines)]
        for table in self.tables:
            if table.title:
                lines.append(f"  {table.title}")
            indent = "    " if table.title else "  "
            lines += [indent + row for row in _aligned(table)]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def html(self) -> str:
        """Return it for a notebook; all text is escaped."""
        parts = [
            style.REPORT,
            f'<div class="ciuic-report" role="group" aria-label="{escape(self.title, quote=True)}">',
            f'<div class="ciuic-title">{card.plain(self.title)}</div>',
        ]
        parts += [figure.html for figure in self.figures]
        for table in self.tables:
            title = f"<div>{card.plain(table.title)}</div>" if table.title else ""
            body = "".join(_row(row, table.right) for row in table.rows)
            warn = "ciuic-warn" if table.warn else "ciuic-block"
            parts.append(f'<div class="{warn}">{title}<table class="ciuic-t"><tbody>{body}</tbody></table></div>')
        parts += [f'<div class="ciuic-note">{card.plain(note)}</div>' for note in self.notes]
        return "".join([*parts, "</div>"])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": self.text(), "text/html": self.html()}

    def __repr__(self) -> str:
        return self.text()


def _row(row: Sequence[str], right: int) -> str:
    cells = []
    for at, cell in enumerate(row):
        name = ' class="ciuic-r"' if at >= len(row) - right else ""
        tag = "th" if at == 0 else "td"
        cells.append(f"<{tag}{name}>{card.plain(cell)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _aligned(table: Table) -> list[str]:
    if not table.rows:
        return []
    count = max(len(row) for row in table.rows)
    widths = [max((len(row[at]) for row in table.rows if len(row) > at), default=0) for at in range(count)]
    lines = []
    for row in table.rows:
        cells = [
            cell.rjust(widths[at])
            if at >= len(row) - table.right
            else cell.ljust(widths[at])
            if at < len(row) - 1
            else cell
            for at, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _money(view: Mapping[str, Any], key: str) -> str:
    return format_money(int(view.get(key) or 0), str(view.get("currency") or "USD"))


def _seconds(view: Mapping[str, Any], key: str) -> str:
    return spoken(float(view.get(key) or 0))


def receipt(session: str, body: Mapping[str, Any]) -> Report:
    """Return a receipt: seconds and money billed and not, what was saved, and what could not be."""
    currency = str(body.get("currency") or "USD")
    storage = card.rate_text(int(body.get("storage_nano_per_hour") or 0), currency)
    money = [
        ("this machine", _seconds(body, "segment_seconds"), f"compute {_money(body, 'segment_nano')}"),
        ("session: billed", _seconds(body, "billed_seconds"), f"compute {_money(body, 'spent_nano')}"),
        ("session: not billed", _seconds(body, "unbilled_seconds"), f"not spent {_money(body, 'unspent_nano')}"),
    ]
    if body.get("storage_nano"):
        money.append(("checkpoints", "", f"storage {_money(body, 'storage_nano')}"))
    if "segment_seconds" not in body:
        del money[0]
    now = f"compute {card.rate_text(0, currency)}/h; storage {storage}/h"
    tables = [Table("", [*money, ("from now on", "", now)], right=1), *_saved(body)]
    rows = [*carbon.lines(body.get("energy"), body.get("carbon")), *flops.lines(body.get("flops"))]
    for one in body.get("advice") or ():
        amount = format_money(int(one["saves_nano"]), currency)
        rows.append(("advice", f"{one['kind']}: {one['sure']} {amount} (%ciuic_advice says why)"))
    tables += [Table("", rows)] if rows else []
    notes = []
    if body.get("at"):
        notes.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(body["at"]))) + _because(body))
    if body.get("estimated"):
        notes.append("The machine's end was not confirmed: it is billed until its last sign of life.")
    return Report(f"Receipt · {session}", tables, notes, data=dict(body))


def _because(body: Mapping[str, Any]) -> str:
    reason = body.get("reason")
    return f" · {reason}" if reason else ""


def _saved(body: Mapping[str, Any]) -> list[Table]:
    saved = body.get("checkpoint") or {}
    if not saved:
        return [Table("", [("saved", "nothing")])]
    names = [str(name) for name in saved.get("names") or ()]
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    rows = [("saved", f"{card.megabytes(saved.get('bytes'))}{': ' + listed if listed else ''}")]
    tables = [Table("", rows)]
    lost = [item for item in saved.get("placeholders") or () if isinstance(item, Mapping)]
    if lost:
        reasons = [
            (str(item.get("path") or item.get("name")), str(item.get("reason") or "no reason given")) for item in lost
        ]
        tables.append(Table("could not be saved; using them after a resume raises an error", reasons, warn=True))
    return tables


def status(view: Mapping[str, Any], *, title: str | None = None) -> Report:
    """Return one session's state, money, and the reason why it is kept or will be let go."""
    now = time.time()
    currency = str(view.get("currency") or "USD")
    rows: list[tuple[str, str]] = [
        ("state", card.shown_state(view).lower()),
        ("machine", str(view.get("instance") or "") + (f" ({view['machine']})" if view.get("machine") else "")),
        ("price now", card.price(view)),
        (
            "so far",
            f"{format_money(card.spent_now(view, now), currency)} for {_seconds(view, 'billed_seconds')} billed",
        ),
        (
            "not spent",
            f"{_money(view, 'unspent_nano')} for {_seconds(view, 'unbilled_seconds')} not billed",
        ),
    ]
    for one in view.get("budgets") or ():
        used = f"{one['percent']} % of {format_money(int(one['budget_nano']), currency)} spent"
        rows.append((f"budget: {card.BUDGETS.get(one['scope'], one['scope'])}", used))
    if view.get("run"):
        rows.append(
            ("run", f"{view['run']}{', ' + str(view['queued']) + ' more waiting' if view.get('queued') else ''}")
        )
    rows += [("ahead", text) for text in card.forecast(view, now) if text]
    rows += _why(view, now)
    saved = view.get("checkpoint")
    if saved:
        at = float(saved.get("at") or now)
        rows.append(
            ("saved", f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))}, {card.megabytes(saved.get('bytes'))}")
        )
    if view.get("message"):
        rows.append(("message", str(view["message"])))
    lost = [item for item in (saved or {}).get("placeholders") or () if isinstance(item, Mapping)] if saved else []
    tables = [Table("", rows)]
    if lost:
        tables.append(
            Table(
                "could not be saved",
                [(str(i.get("path") or i.get("name")), str(i.get("reason"))) for i in lost],
                warn=True,
            )
        )
    return Report(title or f"Session · {view.get('name')}", tables, data=dict(view))


def _why(view: Mapping[str, Any], now: float) -> list[tuple[str, str]]:
    rows = []
    idle = view.get("idle") or {}
    if view.get("kept_until") and float(view["kept_until"]) > now:
        rows.append(("kept until", time.strftime("%H:%M:%S", time.localtime(float(view["kept_until"])))))
    if idle.get("release_at"):
        rows.append(("lets go in", spoken(max(0.0, float(idle["release_at"]) - now))))
    if idle.get("reason"):
        rows.append(("because", str(idle["reason"])))
    for witness, words in (idle.get("witnesses") or {}).items():
        rows.append((f"· {witness}", _witness(words)))
    return rows


def _witness(words: Any) -> str:
    if isinstance(words, Mapping):
        if "quiet" in words:
            said = "quiet" if words["quiet"] else "busy"
            return said + (f" ({words['detail']})" if words.get("detail") else "")
        return f"unknown ({words.get('unknown', 'no reading')})"
    return str(words)


def sessions(views: Sequence[Mapping[str, Any]]) -> Report:
    """Return all sessions as one table."""
    rows = [
        (
            str(view.get("name")),
            card.shown_state(view).lower(),
            str(view.get("instance") or ""),
            card.price(view),
            f"{_money(view, 'spent_nano')} so far",
            f"{_money(view, 'unspent_nano')} not spent",
        )
        for view in views
    ]
    notes = () if rows else ("No sessions yet. The first %%ciuic_train cell starts one.",)
    return Report("Sessions", [Table("", rows, right=2)] if rows else [], notes, data=[dict(v) for v in views])


def cost(body: Mapping[str, Any], session: str | None) -> Report:
    """Return seconds and money, billed and not: of one session, or of all with their sum."""
    if session is not None:
        return Report(f"Cost · {session}", [Table("", _cost_rows(body), right=1)], data=dict(body))
    views = list(body.get("sessions") or ())
    rows = [
        (
            str(view.get("name")),
            f"{_seconds(view, 'billed_seconds')} billed",
            _money(view, "spent_nano"),
            f"{_seconds(view, 'unbilled_seconds')} not billed",
            f"{_money(view, 'unspent_nano')} not spent",
        )
        for view in views
    ]
    tables = [Table("", rows, right=1)] if rows else []
    if "spent_nano" in body:
        tables.append(Table("", _cost_rows(body), right=1))
    return Report("Cost · all sessions", tables, data=dict(body))


def spent(body: Mapping[str, Any], figures: Sequence[Figure] = ()) -> Report:
    """Return what was spent by day, session, run or machine type, beside the same hours always on."""
    rows = []
    for row in body.get("rows") or ():
        saved = {**row, "saved": int(row["always_on_nano"]) - int(row["spent_nano"])}
        amounts = (
            _money(row, "spent_nano"),
            f"{_money(row, 'always_on_nano')} always on",
            f"{_money(saved, 'saved')} saved",
        )
        counted = f" ({flops.number(int(row['flops']))})" if row.get("flops") is not None else ""
        text = f"{row.get('text') or ''}{counted}"
        rows.append((str(row["key"])[:12], text, _seconds(row, "machine_seconds"), *amounts))
    notes = () if rows else ("Nothing was spent yet.",)
    session = f" of session {body['session']}" if body.get("session") else ""
    tables = [Table("", rows, right=4)] if rows else []
    return Report(f"Cost by {body['by']}{session}", tables, notes, dict(body), figures)


def same_cell(body: Mapping[str, Any]) -> Report:
    """Return the runs of one cell, oldest first: what each took and cost, per turn of its loop, against the first."""
    rows = [_same(row) for row in body["rows"]]
    said = [at for at in range(len(rows[0]) if rows else 0) if any(row[at] for row in rows)]  # no empty columns
    notes = ["The last column: against the first run."] if len(rows) > 1 else []
    if any(row["per_loss_nano"] is not None for row in body["rows"]):
        notes.append("A unit of loss: by which the loss fell that the run printed, from the first to the last.")
    if any(row["edited"] for row in body["rows"]):
        notes.append("edited: its code was another one than that of the run that was named.")
    table = Table("", [[row[at] for at in said] for row in rows], right=len(said) - 2)
    return Report(f"Runs of one cell · {body['text']}", [table] if rows else [], notes, data=dict(body))


def _same(row: Mapping[str, Any]) -> list[str]:
    currency, first = str(row["currency"]), row["first_nano"]
    started = time.strftime("%m-%d %H:%M:%S", time.localtime(float(row["at"])))
    state = f"{row['instance']}, {row['state']}{', edited' if row['edited'] else ''}"
    units = (("per_turn_nano", "a loop turn"), ("per_loss_nano", "a unit of loss"))
    per = [f"{format_money(int(row[name]), currency)} {of}" if row[name] is not None else "" for name, of in units]
    change = "" if first is None else format_change(int(row["spent_nano"]), int(first), currency)
    what = [f"{str(row['key'])[:8]} · {started}", state, _seconds(row, "machine_seconds"), _money(row, "spent_nano")]
    return [*what, *per, change]


def advice(body: Mapping[str, Any]) -> Report:
    """Return what could cost less, each with its amount, evidence and what to do; or that nothing says so."""
    tables = []
    for one in body.get("advice") or ():
        amount = f"{one['sure']} {_money(one, 'saves_nano')}"
        rows = [("could save", amount), ("seen", str(one["evidence"])), ("do", str(one["todo"]))]
        tables.append(Table(f"{one['session']}: {one['kind']}", rows))
    title = f"Advice · {body['session']}" if body.get("session") else "Advice · all sessions"
    note = "Amounts may be for the same time; don't add them." if tables else NO_ADVICE
    return Report(title, tables, (note,), data=dict(body))


def _cost_rows(body: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    compute = "compute_nano" if "compute_nano" in body else "spent_nano"
    rows = [("billed", _seconds(body, "billed_seconds"), f"compute {_money(body, compute)}")]
    if body.get("storage_nano"):
        rows.append(("checkpoints", "", f"storage {_money(body, 'storage_nano')}"))
    return [
        *rows,
        ("not billed", _seconds(body, "unbilled_seconds"), f"not spent {_money(body, 'unspent_nano')}"),
        ("from now on", "", card.price(body)),
    ]
