"""The choice past a pause's grace, in words and numbers."""

from __future__ import annotations

from ciuic_jupyter.core.choice import choice
from ciuic_jupyter.notebook.card import _pausing

PAUSE = {
    "waiting_seconds": 61.2,
    "skipped": ["line 3: in except", "line 9: under sort()"],
    "goes_back": False,
    "lose_seconds": 161.4,
    "lose_nano": 161_400_000,
}


def test_it_says_why_what_to_do_and_what_that_costs() -> None:
    assert choice(PAUSE, "USD", "press it") == (
        "not paused for 61 s: line 3: in except; line 9: under sort(). Wait on, or press it: that interrupts the cell "
        "and loses 161 s of work ($0.1614)"
    )
    back = choice({**PAUSE, "goes_back": True, "skipped": []}, "CNY", "press it")
    assert "it has had no loop turn." in back
    assert back.endswith("goes back to its last checkpoint and loses 161 s of work (¥0.1614)")


def test_the_meter_shows_it_in_the_currency_of_the_price() -> None:
    assert _pausing({"pause": PAUSE, "currency": "CNY"}).endswith(
        "Stop now: that interrupts the cell and loses " + ("161 s of work (¥0.1614)")
    )
    assert "next loop turn" in _pausing({"pause": None})
