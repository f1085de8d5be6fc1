"""Each day's money as bars, spent over the same machines always on: SVG for notebooks, blocks for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import Any

from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.notebook.report import Figure

DAYS = 31  # the last ones
_WIDTH, _HEIGHT, _BELOW = 640, 96, 16  # of the drawing
_BLOCKS = 30  # of a terminal's longest bar

Day = tuple[date, int, int]


def charts(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return a chart for each currency in the rows of a report by day; days without spending keep their place."""
    found = []
    for currency in sorted({str(row["currency"]) for row in rows}):
        days = _filled([row for row in rows if row["currency"] == currency])
        most = max(max(spent, always) for _, spent, always in days)
        if most > 0:
            found.append(Figure(_svg(days, most, currency), _lines(days, most, currency)))
    return found


def _filled(rows: Sequence[Mapping[str, Any]]) -> list[Day]:
    known = {date.fromisoformat(str(row["key"])): (int(row["spent_nano"]), int(row["always_on_nano"])) for row in rows}
    last = max(known)
    first = max(min(known), last - timedelta(days=DAYS - 1))
    days = [first + timedelta(days=at) for at in range((last - first).days + 1)]
    return [(day, *known.get(day, (0, 0))) for day in days]


def _svg(days: Sequence[Day], most: int, currency: str) -> str:
    slot = _WIDTH / max(14, len(days))
    bar = min(28.0, slot * 0.7)
    parts = [_bars(day, at * slot, (slot, bar), most, currency) for at, day in enumerate(days)]
    title = escape(f"Spent a day in {currency}, {days[0][0]} to {days[-1][0]}; the table has the numbers", quote=True)
    return (
        f'<figure class="ciuic-chart"><svg viewBox="0 0 {_WIDTH} {_HEIGHT + _BELOW}" role="img" aria-label="{title}">'
        f'{"".join(parts)}</svg><figcaption class="ciuic-note">'
        '<i class="ciuic-key ciuic-key-spent"></i>spent<i class="ciuic-key"></i>the same hours always on; '
        f"the highest is {_bare(most, currency)}</figcaption></figure>"
    )


def _bars(day: Day, left: float, widths: tuple[float, float], most: int, currency: str) -> str:
    when, spent, always = day
    slot, bar = widths
    at = left + (slot - bar) / 2

    def rect(name: str, nano: int) -> str:
        high = max(1.5, _HEIGHT * nano / most) if nano > 0 else 0.0
        return (
            f'<rect class="ciuic-{name}" x="{at:.1f}" y="{_HEIGHT - high:.1f}" width="{bar:.1f}" height="{high:.1f}" '
            'rx="2"/>'
        )

    said = f"{when}: {_bare(spent, currency)} spent, {_bare(always, currency)} always on"
    label = f"{when.day}." if when.day > 1 else f"{when:%b}"
    return (
        f"<g><title>{escape(said)}</title>"
        f'<rect x="{left:.1f}" y="0" width="{slot:.1f}" height="{_HEIGHT}" fill="transparent"/>'
        f"{rect('always', always)}{rect('spent', spent)}"
        f'<text x="{left + slot / 2:.1f}" y="{_HEIGHT + 12}" text-anchor="middle">{label}</text></g>'
    )


def _bare(nano: int, currency: str) -> str:
    """Return an amount without the currency's sign: MathJax takes what stands between two of them for a formula."""
    return f"{format_money(nano, '').strip()} {escape(currency)}"


def _lines(days: Sequence[Day], most: int, currency: str) -> list[str]:
    def long(nano: int) -> int:
        return max(1, round(_BLOCKS * nano / most)) if nano > 0 else 0

    lines = []
    for when, spent, always in days:
        full = "█" * long(spent) + "░" * max(0, long(always) - long(spent))
        lines.append(f"{when}  {full:<{_BLOCKS}}  {format_money(spent, currency)}")
    return [*lines, f"█ spent  ░ the same hours always on, at most {format_money(most, currency)}"]
