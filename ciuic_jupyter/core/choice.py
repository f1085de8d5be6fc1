"""What people choose from when a pause finds no loop boundary within its grace, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic_jupyter.core.money import format_money


def choice(pause: Mapping[str, Any], currency: str, stop: str) -> str:
    """Return the choice as one line; `pause` is that part of a session's view, `stop` the name of the way to stop."""
    amount = format_money(int(pause.get("lose_nano") or 0), currency, places=4)
    lost = f"{float(pause.get('lose_seconds') or 0):.0f} s of work ({amount})"
    how = "goes back to its last checkpoint" if pause.get("goes_back") else "interrupts the cell"
    why = "; ".join(str(reason) for reason in pause.get("skipped") or ()) or "it has had no loop turn"
    waited = float(pause.get("waiting_seconds") or 0)
    return f"not paused for {waited:.0f} s: {why}. Wait on, or {stop}: that {how} and loses {lost}"
