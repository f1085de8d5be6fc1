"""The chart of days: a true axis of time, a bar for every cent, no text of others as code, blocks in a terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.notebook import chart, report
from tests.notebook.test_meter import Tags


def row(key: str, spent: float, always: float = 0.0, currency: str = "USD") -> dict[str, Any]:
    nano = {"spent_nano": round(spent * NANO), "always_on_nano": round(always * NANO)}
    return {"key": key, "machine_seconds": 60.0, "currency": currency, **nano}


def heights(html: str, name: str) -> list[float]:
    return [float(high) for high in re.findall(rf'class="ciuic-{name}"[^>]*height="([\d.]+)"', html)]


def test_days_without_spending_and_month_ends_keep_their_place() -> None:
    (figure,) = chart.charts([row("2024-02-28", 1, 4), row("2024-03-02", 2, 2)])
    assert re.findall(r">([^<]+)</text>", figure.html) == ["28.", "29.", "Mar", "2."]
    assert heights(figure.html, "spent") == [24.0, 0, 0, 48.0]
    assert heights(figure.html, "always") == [96.0, 0, 0, 48.0]
    assert [line[:10] for line in figure.lines[:4]] == ["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02"]
    assert [(line.count("█"), line.count("░")) for line in figure.lines[:4]] == [(8, 22), (0, 0), (0, 0), (15, 0)]


@pytest.mark.parametrize("last", ["2026-03-29", "2026-10-25"])
def test_days_of_23_and_25_hours_are_one_bar_each_and_only_the_last_month_is_drawn(last: str) -> None:
    (figure,) = chart.charts([row("2020-01-01", 900), row(last, 0.000000001, 1)])
    assert len(figure.lines) == chart.DAYS + 1
    assert heights(figure.html, "spent")[-1] == 1.5, "next to nothing is to be seen, too"


def test_each_currency_has_its_own_and_nothing_has_none() -> None:
    both = chart.charts([row("2026-11-25", 1), row("2026-11-25", 7, currency="CNY")])
    assert [("¥7" in one.lines[0], "$1" in one.lines[0]) for one in both] == [(True, False), (False, True)]
    assert chart.charts([]) == chart.charts([row("2026-11-25", 0)]) == []


def test_a_report_shows_it_above_its_numbers() -> None:
    rows = [row("2026-11-25", 0.5, 1)]
    shown = report.spent({"by": "day", "rows": rows}, chart.charts(rows))._repr_mimebundle_()
    tags = Tags(re.sub(r"<style>.*?</style>", "", shown["text/html"], flags=re.DOTALL))
    assert tags.scripts == 0
    assert "2026-11-25: 0.5000 USD spent, 1.0000 USD always on" in tags.text
    assert shown["text/html"].index("<svg") < shown["text/html"].index("<table")
    assert shown["text/html"].count("$") == shown["text/html"].count("<span>$</span>"), "MathJax finds no pair"
    assert "█" in shown["text/plain"] and "$0.5000 saved" in shown["text/plain"]
