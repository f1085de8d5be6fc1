"""Prices and comparisons as lines of text for a shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

import typer

from ciuic_jupyter.control.prices import bundled, own_table, usage_of
from ciuic_jupyter.core.advice import NO_ADVICE
from ciuic_jupyter.core.advice import lines as advice_lines
from ciuic_jupyter.core.flops import number
from ciuic_jupyter.core.money import format_change, format_money
from ciuic_jupyter.core.offers import (
    ARTICLE_ABOUT,
    ARTICLE_COMPUTING,
    ARTICLE_SPAN,
    ARTICLE_TOTALS,
    Cloud,
    Compared,
    Fact,
    Table,
    age,
    article,
    compare,
    hours_of,
)
from ciuic_jupyter.core.words import plain

Lines = Callable[[Iterable[Iterable[str]]], None]
_UNKNOWN = "unknown"


def show_prices(table: Table, gpu: str, lines: Lines) -> None:
    """Print rows, cheapest GPU first, then the rules of their clouds."""
    today = date.today()
    rows = [row for row in table.rows if gpu.casefold() in row.gpu.casefold()]
    if not rows:
        typer.echo(f"no price of a machine whose GPU's name has {gpu!r} in it" if gpu else "no prices")
        return
    rows.sort(key=lambda row: (row.currency, row.rate_per_gpu, row.key))
    head = ["CLOUD", "MACHINE", "GPUS", "REGION", "PRICE/H", "PER GPU", "CURRENCY", "AGE", "SOURCE"]
    shown = [
        [
            table.cloud(row).title,
            row.machine,
            f"{row.gpus} {row.gpu}".strip(),
            row.region or "-",
            format_money(row.rate, row.currency),
            format_money(row.rate_per_gpu, row.currency) if row.gpus else "-",
            row.currency,
            age(row.date, today),
            f"{row.source} ({row.date}, {row.origin})",
        ]
        for row in rows
    ]
    lines([head, *shown])
    typer.echo("")
    lines([["CLOUD", "BILLS BY", "AT LEAST", "STORAGE/GB-MONTH", "EGRESS/GB"], *(_rules(one) for one in _used(table))])
    for cloud in _used(table):
        for text in _sources(cloud):
            typer.echo(text)


def _used(table: Table) -> list[Cloud]:
    return [table.clouds[key] for key in sorted({row.cloud for row in table.rows} & table.clouds.keys())]


def _rules(cloud: Cloud) -> list[str]:
    unit, minimum = cloud.unit_seconds, cloud.minimum_seconds
    return [
        cloud.title,
        _UNKNOWN if unit is None else f"{unit} s",
        _UNKNOWN if minimum is None else f"{minimum} s",
        _fact(cloud.storage),
        _fact(cloud.egress),
    ]


def _fact(fact: Fact | None) -> str:
    return _UNKNOWN if fact is None else format_money(fact.nano, fact.currency)


def _sources(cloud: Cloud) -> list[str]:
    said = [("billing", cloud.billing_source, cloud.billing_date)]
    said += [
        (kind, one.source, one.date) for kind, one in (("storage", cloud.storage), ("egress", cloud.egress)) if one
    ]
    return [f"{cloud.title} {kind}: {source} ({when})" for kind, source, when in said if source]


def show_compared(view: dict[str, Any], table: Table, lines: Lines) -> None:
    """Print what a usage cost here, and by each row of the table that is in its currency."""
    usage, currency = usage_of(view), str(view["currency"])
    name = f"run {view['run']} of session {view['session']}" if view["run"] else f"session {view['session']}"
    typer.echo(
        f"{name}: {_hours(usage.on_ms)} of machine time in {_hours(usage.span_ms)}, {usage.gpus} GPU(s) or as one; "
        f"{format_money(int(view['spent_nano']), currency)} by the ledger"
    )
    (here,) = compare(usage, own_table(view))
    others = [one for one in compare(usage, table) if one.row.currency == currency]
    head = [
        "WHERE",
        "MACHINE",
        "MACHINE GIVEN BACK",
        "MACHINE KEPT ON",
        "CHECKPOINT KEPT",
        "ONE MOVE OUT",
        "PRICE'S AGE",
    ]
    today = date.today()
    lines([head, _line("here", here, ""), *(_line(one.cloud.title, one, age(one.row.date, today)) for one in others)])
    saved = here.always_on - here.stopping
    typer.echo(f"stopping saved {format_money(saved, currency)} of {format_money(here.always_on, currency)} here")
    skipped = sorted({row.currency for row in table.rows} - {currency})
    if skipped:
        typer.echo(f"left out: prices in {', '.join(skipped)}; amounts of two currencies are not compared")
    typer.echo("a billing unit or minimum that is unknown counts as 1 s and none (`ciuic prices` lists the rules)")


def _line(where: str, one: Compared, old: str) -> list[str]:
    def money(nano: int | None) -> str:
        return _UNKNOWN if nano is None else format_money(nano, one.row.currency)

    return [
        where,
        one.row.machine,
        money(one.stopping),
        money(one.always_on),
        money(one.storage),
        money(one.egress),
        old,
    ]


def _hours(milliseconds: int) -> str:
    seconds = milliseconds / 1000
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"


def show_article(lines: Lines) -> None:
    """Print the article's table from hours and rules, with what had to be assumed."""
    found = article(bundled(date.today()))
    head = ["CLOUD", "PRICE/GPU-H", "HOURS BILLED", "COST", "ARTICLE SAYS ABOUT", "HOURS THAT ROUND TO IT"]
    lines([head, *(_article_line(one) for one in found)])
    for text in _assumptions():
        typer.echo(text)


def _article_line(one: Compared) -> list[str]:
    total = ARTICLE_TOTALS[one.row.cloud]
    hours = hours_of(total, one.row.rate)
    return [
        one.cloud.title,
        format_money(one.row.rate, one.row.currency, 2),
        str(ARTICLE_COMPUTING if one.cloud.releases else ARTICLE_SPAN),
        format_money(one.usual, one.row.currency, 2),
        f"${total}",
        f"{hours.least:.1f} to {hours.most:.1f}",
    ]


def _assumptions() -> Sequence[str]:
    share = 100 * (1 - ARTICLE_COMPUTING / ARTICLE_SPAN)
    return (
        "ResNet-50, 100 epochs. Prices (August 2023) and totals are the article's; hours are assumed:",
        f"- totals are rounded to ${ARTICLE_ABOUT};",
        f"- {ARTICLE_COMPUTING} GPU-hours of computing within {ARTICLE_SPAN} h: two figures that make all four totals "
        f"come out (the last column leaves little choice), so {share:.0f} % of the time was pauses;",
        "- Ciuic gives the machine back in pauses, elsewhere one GPU is kept on; the same GPU speed everywhere;",
        "- storage and egress are not in the totals.",
        "Without pauses the same table would be prices alone: at equal hours Ciuic's saving is 18 to 25 %.",
    )


def show_report(view: dict[str, Any], lines: Lines) -> None:
    """Print costs by day, session, run or machine, and what they sum to."""
    rows = list(view["rows"])
    if not rows:
        typer.echo("nothing was spent yet")
        return
    head = [str(view["by"]).upper(), "MACHINE TIME", "SPENT", "ALWAYS ON", "SAVED", ""]
    sums = [_sum(rows, currency) for currency in sorted({str(row["currency"]) for row in rows})]
    lines([head, *(_spent(row) for row in [*rows, *sums])])


def _sum(rows: Sequence[dict[str, Any]], currency: str) -> dict[str, Any]:
    mine = [row for row in rows if row["currency"] == currency]
    names = ("machine_seconds", "spent_nano", "always_on_nano")
    return {"key": "sum", "currency": currency, **{name: sum(row[name] for row in mine) for name in names}}


def _spent(row: dict[str, Any]) -> list[str]:
    currency, spent, always = str(row["currency"]), int(row["spent_nano"]), int(row["always_on_nano"])
    times = _hours(round(float(row["machine_seconds"]) * 1000))
    amounts = [format_money(nano, currency) for nano in (spent, always, always - spent)]
    counted = f" ({number(int(row['flops']))})" if row.get("flops") is not None else ""
    return [str(row["key"]), times, *amounts, f"{row.get('text', '')}{counted}"]


def show_same(view: dict[str, Any], epochs: int | None, lines: Lines) -> None:
    """Print the runs of one cell, each beside the first; per epoch if their number is said, else per turn if known."""
    rows = list(view["rows"])
    typer.echo(f"runs of the cell: {view['text']}")
    per = "PER EPOCH" if epochs is not None else "PER LOOP TURN"
    head = [
        "RUN",
        "STARTED",
        "MACHINE",
        "STATE",
        "MACHINE TIME",
        "COST",
        "ALWAYS ON",
        per,
        "PER UNIT OF LOSS",
        "AGAINST THE FIRST",
    ]
    lines([head, *(_same(row, epochs) for row in rows)])
    if any(row["per_loss_nano"] is not None for row in rows):
        typer.echo("a unit of loss: by which the loss fell that the run printed, from the first to the last")
    if any(row["edited"] for row in rows):
        typer.echo("edited: its code was another one than that of the run that was named")


def _same(row: dict[str, Any], epochs: int | None) -> list[str]:
    currency = str(row["currency"])
    nano = row["per_turn_nano"] if epochs is None else -(-int(row["spent_nano"]) // epochs)
    per = [_UNKNOWN if one is None else format_money(one, currency) for one in (nano, row["per_loss_nano"])]
    at = datetime.fromtimestamp(float(row["at"])).isoformat(" ", "seconds")
    times = _hours(round(float(row["machine_seconds"]) * 1000))
    amounts = [format_money(int(row[name]), currency) for name in ("spent_nano", "always_on_nano")]
    state = f"{row['state']}, edited" if row["edited"] else str(row["state"])
    return [str(row["key"]), at, str(row["instance"]), state, times, *amounts, *per, _against(row)]


def _against(row: dict[str, Any]) -> str:
    base = row["first_nano"]
    return "-" if base is None else format_change(int(row["spent_nano"]), int(base), str(row["currency"]))


def show_advice(view: dict[str, Any]) -> None:
    """Print what could cost less, each with its evidence and what to do; or that nothing measured says so."""
    if not view["advice"]:
        typer.echo(NO_ADVICE)
    for one in view["advice"]:
        for text in advice_lines(one):
            typer.echo(plain(text))


def show_history(rows: Sequence[dict[str, Any]], lines: Lines) -> None:
    """Print runs and pauses."""
    if not rows:
        typer.echo("nothing ran yet")
        return
    shown = [
        [
            datetime.fromtimestamp(float(row["at"])).isoformat(" ", "seconds"),
            str(row["kind"]),
            str(row["session"]),
            f"{float(row['billed_seconds']):.0f} s",
            format_money(int(row["cost_nano"]), str(row["currency"])),
            str(row["reason"]),
            str(row["run"] or "-"),
            str(row["text"]),
        ]
        for row in rows
    ]
    lines([["AT", "WHAT", "SESSION", "BILLED", "COST", "HOW", "RUN", "CELL"], *shown])
