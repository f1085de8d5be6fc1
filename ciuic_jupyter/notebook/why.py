"""`%ciuic_why`: what the witnesses say, the rule with its numbers, and when the machine will be let go."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.notebook import card
from ciuic_jupyter.notebook.report import Report, Table
from ciuic_jupyter.notebook.tick import spoken

View = Mapping[str, Any]


def why(view: View, now: float) -> Report:
    """Return why a session's machine is kept or will be let go; without a machine, that there is none."""
    idle = view.get("idle") or {}
    title = f"Why · {view.get('name')}"
    if not idle:
        rows = [("state", card.shown_state(view).lower()), ("price now", card.price(view))]
        return Report(title, [Table("", rows)], ("Only a machine whose kernel is ready can be idle.",), data=dict(view))
    tables = [Table("", _release(view, idle, now)), Table("witnesses", _witnesses(idle, now))]
    rule = _rule(view, idle)
    if rule:
        tables.append(Table("rule", rule))
    return Report(title, tables, data=dict(view))


def _release(view: View, idle: View, now: float) -> list[tuple[str, str]]:
    rows = [("verdict", str(idle.get("verdict")))]
    kept = view.get("kept_until")
    if kept and float(kept) > now:
        rows.append(("kept until", _clock(float(kept))))
    at = idle.get("release_at")
    if at:
        rows.append(("lets go", f"at {_clock(float(at))}, in {spoken(max(0.0, float(at) - now))}"))
    else:
        rows.append(("lets go", "not as things are"))
    if idle.get("reason"):
        rows.append(("because", str(idle["reason"])))
    return rows


def _witnesses(idle: View, now: float) -> list[tuple[str, str]]:
    rows = []
    for name, words in (idle.get("witnesses") or {}).items():
        if "quiet" not in words:
            rows.append((str(name), f"unknown: {words.get('unknown', 'no reading')}; unknown is never idle"))
            continue
        since = spoken(max(0.0, now - float(words.get("since") or now)))
        said = f"{'quiet' if words['quiet'] else 'busy'} for {since}"
        rows.append((str(name), said + (f" ({words['detail']})" if words.get("detail") else "")))
    return rows


def _rule(view: View, idle: View) -> list[tuple[str, str]]:
    """The formula with its numbers, as the control plane used them."""
    told = idle.get("policy") or {}
    if not told:
        return []
    currency = str(view.get("currency") or "USD")

    def money(name: str) -> str:
        return f"{format_money(int(told[name]), currency)}/h"

    even = told["break_even_seconds"]
    rows = [
        ("p, price of the machine", money("price_nano_per_hour")),
        ("s, storage of the checkpoint", money("storage_nano_per_hour")),
        ("v, your waiting", money("wait_value_nano_per_hour")),
        ("C, a save", f"{told['checkpoint_seconds']:.1f} s"),
        ("R, a restore", f"{told['restore_seconds']:.1f} s"),
        ("(p (C + R) + v R) / (p - s)", f"{even:.0f} s of quiet" if even is not None else "never: p is not above s"),
        ("at least", f"{told['floor_seconds']:.0f} s of quiet"),
        ("billed", f"by {told['unit_seconds']:.0f} s, {told['minimum_seconds']:.0f} s at least"),
    ]
    cap = told.get("max_resumes_per_100")
    seen = f"{told['resumes']:.0f} in {told['runs']:.0f} cells"
    rows.append(("resumes", f"{seen}; at most {cap:.0f} in 100" if cap is not None else f"{seen}; no cap"))
    return rows


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
