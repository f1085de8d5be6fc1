"""A session's view as HTML: what the meter shows, and what a saved notebook keeps of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ciuic_jupyter.core.budget import MARKS
from ciuic_jupyter.core.choice import choice
from ciuic_jupyter.core.forecast import words
from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.notebook import tick

View = Mapping[str, Any]
_UNSAID = 15.0  # seconds of a run before it is said why it has no forecast
_NO_SPARK = '<div class="ciuic-spark"></div>'  # keeps its place, so that the amounts don't jump

NAMES = {
    "requested": "Requesting a machine",
    "starting": "Starting",
    "running": "Running",
    "saving": "Saving",
    "stopping": "Releasing",
    "paused": "Paused",
    "failed": "Failed",
    "closed": "Closed",
}
BUDGETS = {"run": "this cell", "session": "session", "day": "today", "month": "this month", "user": "all sessions"}
_TONES = {"running": "on", "paused": "off", "closed": "off", "failed": "bad"}


def shown_state(view: View) -> str:
    """Return the state in words, with what is under way: `Saving 40%`, `Running`, `Pausing in this cell`."""
    state = str(view.get("state", "")).lower()
    if state == "running" and view.get("pause_pending"):
        return "Pausing in this cell" if view.get("run") or view.get("busy") else "Pausing"
    step = view.get("step")
    if step and state not in ("running", "paused", "closed"):
        text = str(step)
        return text[:1].upper() + text[1:]
    return NAMES.get(state, state.capitalize() or "No session")


def flow(view: View) -> int:
    """Return the nano-units an hour that are due now: the machine's, and the storage of the session's checkpoints."""
    return int(view.get("rate_nano_per_hour") or 0) + int(view.get("storage_nano_per_hour") or 0)


def spent_now(view: View, now: float) -> int:
    """Return nano-units spent at unix time `now`, extrapolated from the view's last fact."""
    age = max(0.0, now - float(view.get("as_of") or now))
    return int(view.get("spent_nano") or 0) + int(flow(view) * age / 3600)


def unspent_rate(view: View) -> int:
    """Return the rate at which money is not spent now: what the machine would cost, while it is let go."""
    seconds = float(view.get("unbilled_seconds") or 0)
    paused = str(view.get("state", "")).lower() in ("paused", "closed")
    if not paused or seconds <= 0 or view.get("rate_nano_per_hour"):
        return 0
    return int(int(view.get("unspent_nano") or 0) * 3600 / seconds)


def card(view: View, spark: str = "", *, live: bool = True, now: float | None = None, notice: str = "") -> str:
    """Draw a session's view; `live`: amounts and times count by themselves, else they stand as of `now`."""
    now = time.time() if now is None else now
    state = str(view.get("state", "")).lower()
    busy = _busy(view)
    tone = _TONES.get(state, "mid")
    label = f"ciuic session {view.get('name', '')}"
    parts = [
        f'<div class="ciuic-card" role="group" aria-label="{escape(label, quote=True)}">',
        f'<div class="ciuic-who"><div class="ciuic-state ciuic-{tone}{" ciuic-busy" if busy else ""}" role="status">'
        f'<span class="ciuic-dot" aria-hidden="true"></span>{escape(shown_state(view))}'
        f'<span class="ciuic-name">{escape(str(view.get("name") or ""))}</span></div>'
        f'<div class="ciuic-sub">{_machine(view)}</div></div>',
        spark if busy and spark else _NO_SPARK,
        _figures(view, live, now),
        _line(view, live, now, notice),
        _forecast(view, now) if live else "",
        budgets(view, live, now),
        "</div>",
    ]
    return "".join(parts)


def rate_text(nano: int, currency: str) -> str:
    """Return a price or a cap with no more decimals than it has, two at least: $0.90, $0.0003."""
    digits = f"{nano % 10**9:09d}".rstrip("0")
    return format_money(nano, currency, places=max(2, len(digits)))


def plain(text: str) -> str:
    """Escape text for HTML; MathJax must not take what stands between two dollar signs for a formula."""
    return escape(text, quote=True).replace("$", "<span>$</span>")


def price(view: View) -> str:
    """Return what the session costs from now on: `compute $0.90/h; storage $0.0003/h`."""
    currency, storage = str(view.get("currency") or "USD"), int(view.get("storage_nano_per_hour") or 0)
    kept = f"; storage {rate_text(storage, currency)}/h" if storage else ""
    return f"compute {rate_text(int(view.get('rate_nano_per_hour') or 0), currency)}/h{kept}"


def describe_kept(view: View) -> str:
    """Return until when the machine is kept: `kept until 18:40`."""
    until = view.get("kept_until")
    return f"kept until {time.strftime('%H:%M', time.localtime(float(until)))}" if until else "not kept"


def _busy(view: View) -> bool:
    return str(view.get("state", "")).lower() == "running" and bool(view.get("run") or view.get("busy"))


def _machine(view: View) -> str:
    return " · ".join(plain(word) for word in (str(view.get("instance") or ""), price(view)) if word)


def _figures(view: View, live: bool, now: float) -> str:
    currency = str(view.get("currency") or "USD")
    spent = tick.money(spent_now(view, now), flow(view) if live else 0, currency, label="spent so far")
    saving = unspent_rate(view)
    age = max(0.0, now - float(view.get("as_of") or now))
    unspent = int(view.get("unspent_nano") or 0) + int(saving * age / 3600)
    kept = tick.money(unspent, saving if live else 0, currency, label="not spent")
    hint = "What the machine would have cost more if it had never been let go"
    return (
        f'<div class="ciuic-fig ciuic-spent"><b>{spent}</b><span class="ciuic-sub">so far</span></div>'
        f'<div class="ciuic-fig ciuic-unspent" title="{hint}"><b>{kept}</b>'
        '<span class="ciuic-sub">not spent</span></div>'
    )


def _line(view: View, live: bool, now: float, notice: str) -> str:
    state = str(view.get("state", "")).lower()
    message = str(view.get("message") or "")
    text, clock = describe(view, now)
    if notice:
        text, clock = escape(notice), ""
    elif clock and not _busy(view):
        message = str((view.get("idle") or {}).get("reason") or message)
    failed = message and (state == "failed" or "failed" in message)
    said = (
        ""
        if failed or message.lower() in (text.lower(), "ready")
        else f'<span class="ciuic-sub">{escape(message)}</span>'
    )
    out = f'<div class="ciuic-line"><span>{text}</span>{clock if live else ""}{said}</div>' if text or said else ""
    return out + (f'<div class="ciuic-alert" role="alert">{escape(message)}</div>' if failed else "")


def forecast(view: Mapping[str, Any], now: float) -> tuple[str, str]:
    """Return the forecast of the cell under way in words, and its warning; both empty where there is nothing to say."""
    told = view.get("forecast")
    if not _busy(view) or not isinstance(told, Mapping):
        return "", ""
    if told.get("why") and now - float(view.get("run_started_at") or now) < _UNSAID:
        return "", ""
    return words(told, str(view.get("currency") or "USD"), float(told.get("ends_at") or now) - now)


def _forecast(view: View, now: float) -> str:
    text, warning = forecast(view, now)
    out = f'<div class="ciuic-line ciuic-forecast ciuic-sub"><span>{plain(text)}</span></div>' if text else ""
    return out + (f'<div class="ciuic-alert ciuic-ahead">{plain(warning)}</div>' if warning else "")


def describe(view: View, now: float) -> tuple[str, str]:
    """Return what goes on as escaped text, and the drawn clock that follows it (or nothing)."""
    state = str(view.get("state", "")).lower()
    if _busy(view):
        queued = int(view.get("queued") or 0)
        text = "Cell running" + (f", {queued} more waiting" if queued else "")
        if view.get("pause_pending"):
            text += _pausing(view)
        started = view.get("run_started_at")
        return escape(text), tick.clock(now - float(started)) if started else ""
    if state == "running":
        return _idle(view, now)
    saved = view.get("checkpoint")
    if state in ("paused", "closed", "failed") and saved:
        text = f"Saved {_when(saved.get('at'), now)}, {megabytes(saved.get('bytes'))}"
        if where := (view.get("suspended") or {}).get("where"):
            text = f"Paused at {where}. {text}"
        lost = saved.get("placeholders")
        count = lost if isinstance(lost, int) else len(lost or ())
        text += f"; {count} could not be saved (see %ciuic_status)" if count else ""
        return escape(text + ("; the next cell resumes it" if state != "closed" else "")), ""
    return escape(str(view.get("text") or "")), ""


def _pausing(view: View) -> str:
    """Return what a pause waits for, and after its grace what stopping now would lose."""
    grace = view.get("pause")
    if not grace:
        return "; it will be saved at its next loop turn, or at its end, and the machine let go"
    return f"; {choice(grace, str(view.get('currency') or 'USD'), 'Stop now')}"


def _idle(view: View, now: float) -> tuple[str, str]:
    idle = view.get("idle") or {}
    kept = view.get("kept_until")
    if kept and float(kept) > now:
        return escape(describe_kept(view).capitalize()), ""
    reason = str(idle.get("reason") or "")
    release = idle.get("release_at")
    if release:
        return "Idle; saved and let go in", tick.clock(float(release) - now, down=True)
    return escape(reason or "Ready"), ""


def budgets(view: View, live: bool, now: float) -> str:
    """Draw every budget that counts here as a bar, in the view's order: the tightest first."""
    age = max(0.0, now - float(view.get("as_of") or now))
    bars = [_budget(one, str(view.get("currency") or "USD"), live, age) for one in view.get("budgets") or ()]
    return f'<div class="ciuic-budgets">{"".join(bars)}</div>' if bars else ""


def _budget(one: View, currency: str, live: bool, age: float) -> str:
    budget, mark, rate = int(one["budget_nano"]), int(one["mark"]), int(one["rate_nano_per_hour"])
    share = min(100.0, 100 * (int(one["spent_nano"]) + rate * age / 3600) / budget)
    grows = 100 * rate / budget if live else 0.0
    name = BUDGETS.get(str(one["scope"]), str(one["scope"]))
    told = "reached" if mark == MARKS[-1] else f"past {mark}%" if mark else ""
    tone = " ciuic-over" if mark >= MARKS[1] else " ciuic-half" if mark else ""
    said = f'<b role="alert">{told}</b>' if told else ""
    return (
        f'<div class="ciuic-budget{tone}"><div class="ciuic-bar" role="progressbar" aria-valuenow="{int(share)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="budget: {escape(name, quote=True)}">'
        f'{tick.bar(share, grows)}</div><span class="ciuic-sub">{plain(name)} {tick.percent(share, grows)} of '
        f"{plain(rate_text(budget, currency))}</span>{said}</div>"
    )


def sparkline(what: str, history: Sequence[float], *, width: int = 84, height: int = 28) -> str:
    """Draw the use of `what` in percent (oldest first) as a line, with the last value below it."""
    if len(history) < 2:
        return ""
    top = max(100.0, *history)
    step = width / (len(history) - 1)
    points = " ".join(
        f"{at * step:.1f},{height - 2 - (height - 4) * value / top:.1f}" for at, value in enumerate(history)
    )
    text = f"{escape(what, quote=True)} {history[-1]:.0f}%"
    return (
        f'<div class="ciuic-spark" role="img" aria-label="{text}"  '
        'title="Use of the machine, last samples; CPU in percent of one core">'
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<polygon points="0,{height - 1} {points} {width},{height - 1}" fill="currentColor" opacity=".14"/>'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5" '
        'stroke-linejoin="round"/></svg>'
        f'<span class="ciuic-sub">{text}</span></div>'
    )


def megabytes(count: Any) -> str:
    """Return a number of bytes as `12.3 MB` (or kB, GB)."""
    value = float(count or 0)
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value / 1e3:.1f} kB"


def _when(at: Any, now: float) -> str:
    if not at:
        return "at an unknown time"
    moment = float(at)
    form = "%H:%M:%S" if now - moment < 86400 else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(moment))


def line(view: View, now: float | None = None) -> str:
    """Return a session's view as one line of text, for terminals and saved notebooks."""
    now = time.time() if now is None else now
    currency = str(view.get("currency") or "USD")
    spent = tick.amount(spent_now(view, now), currency)
    kept = tick.amount(int(view.get("unspent_nano") or 0), currency)
    who = f"[{view.get('name')}] {shown_state(view).lower()} · {view.get('instance')}"
    ahead = "".join(f" · {text}" for text in forecast(view, now) if text)
    return f"{who} · {price(view)} · {spent} so far · {kept} not spent{ahead}"
