"""The meter above a cell's outputs: facts come in from any thread, at most two pictures a second go out.

It keeps no truth: a view (plain data from the control plane) is all it shows, and its buttons only put a word into a
queue that a worker thread reads. Between facts nothing is sent: the amounts count in the browser (see tick).
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.notebook import card, style

View = Mapping[str, Any]
Act = Callable[[str], View | None]
INTERVAL = 0.5
HISTORY = 60
COUNTDOWN_OFF = 3.0  # seconds a countdown may be wrong before it is drawn anew


class Panel(Protocol):
    """What draws a meter; the one kind there is lives in panel.py. Called by the meter's painter and worker threads."""

    def paint(self, html: str, view: View) -> None:
        """Show this HTML and let the buttons fit the view."""

    def pressed(self, action: str) -> bool:
        """Answer a press at once, before the control plane has; False: that button is dimmed."""

    def bundle(self) -> dict[str, Any]:
        """Return the MIME bundle that shows the live widget."""

    def close(self) -> None:
        """Take the widgets away."""


def usage_percent(usage: Any) -> tuple[str, float] | None:
    """Return what to draw: the busiest GPU where there is one, else CPU in percent of one core; None if unknown."""
    if not isinstance(usage, Mapping):
        return None
    found = [_number(gpu.get("utilization_percent")) for gpu in usage.get("gpus") or () if isinstance(gpu, Mapping)]
    known = [value for value in found if value is not None]
    if known:
        return "GPU", max(known)
    value = _number(usage.get("cpu_percent"))
    return None if value is None else ("CPU", value)


def _busy(view: View) -> bool:
    return bool(view.get("run") or view.get("busy"))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def fact(view: View) -> tuple[Any, ...]:
    """Return what a view says without what merely goes on counting: two equal facts need no second picture.

    An idle session must send nothing at all, else watching it would keep a culler from culling the kernel.
    """
    busy = _busy(view)
    idle = view.get("idle") or {}
    usage = usage_percent(view.get("usage")) if busy else None
    plain = (
        "name",
        "state",
        "instance",
        "rate_nano_per_hour",
        "run",
        "queued",
        "pause_pending",
        "kept_until",
        "step",
        "message",
    )
    return (
        *(view.get(key) for key in plain),
        busy,
        idle.get("verdict") if not busy else None,
        str(view.get("checkpoint") or ""),
        [(one["key"], one["budget_nano"], one["rate_nano_per_hour"], one["mark"]) for one in view.get("budgets") or ()],
        None if usage is None else round(usage[1]),
        card.forecast(view, float(view.get("as_of") or 0.0)),
    )


def drifted(old: View, new: View) -> bool:
    """Tell whether the new amount or countdown differs visibly from what the browser has counted to since."""
    before, after = (
        None if _busy(view) else _number((view.get("idle") or {}).get("release_at")) for view in (old, new)
    )
    if (before is None) != (after is None) or abs((before or 0.0) - (after or 0.0)) > COUNTDOWN_OFF:
        return True
    guess = card.spent_now(old, float(new.get("as_of") or 0.0))
    two_seconds = card.flow(new) * 2 // 3600
    return abs(guess - int(new.get("spent_nano") or 0)) > max(two_seconds, NANO // 10_000)


class Meter:
    """One session's meter. `update` may be called from any thread; `act` runs in the meter's own worker thread."""

    def __init__(self, name: str, act: Act, *, panel: Callable[[Meter], Panel] | None = None) -> None:
        """`act(action)` does `pause`, `resume` or `release` and may return a view; `panel` builds what draws."""
        self.name = name
        self._act = act
        self._view: View = {"name": name}
        self._history: deque[float] = deque(maxlen=HISTORY)
        self._used = "CPU"
        self._notice = ""
        self._shown: View | None = None
        self._changed = threading.Condition()
        self._dirty = False
        self._closed = False
        self._pressed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._panel = panel(self) if panel else None
        if self._panel:
            threading.Thread(target=self._paint_loop, name=f"ciuic-meter-{name}", daemon=True).start()
            threading.Thread(target=self._press_loop, name=f"ciuic-buttons-{name}", daemon=True).start()

    # -- facts in

    @property
    def view(self) -> View:
        """The last view that came in."""
        return self._view

    @property
    def live(self) -> bool:
        """Whether a widget is on show."""
        return self._panel is not None and not self._closed

    def update(self, view: View) -> None:
        """Take in a view; it is drawn only if it says something new."""
        with self._changed:
            usage = usage_percent(view.get("usage"))
            if usage is not None and _busy(view):
                self._used, percent = usage
                self._history.append(percent)
            self._view = view
            if self._notice and self._shown is not None and fact(view)[:8] != fact(self._shown)[:8]:
                self._notice = ""
            if self._shown is None or fact(view) != fact(self._shown) or drifted(self._shown, view):
                self._dirty = True
                self._changed.notify_all()

    def notice(self, text: str) -> None:
        """Show a line of our own until the session's state changes."""
        with self._changed:
            self._notice = text
            self._dirty = True
            self._changed.notify_all()

    def press(self, action: str) -> None:
        """Ask for `pause`, `resume` or `release`; returns at once."""
        self._pressed.put(action)

    def close(self) -> None:
        """End the threads and take the widget away; the session goes on."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._pressed.put(None)
        if self._panel:
            with contextlib.suppress(Exception):  # a kernel that shuts down has no comm any more
                self._panel.close()

    # -- pictures out

    def html(self, *, live: bool = True) -> str:
        """Return the card as of now; not `live` = standing still, for saved notebooks."""
        view = self._view
        spark = card.sparkline(self._used, list(self._history)) if live else ""
        return card.card(view, spark, live=live, notice=self._notice if live else "")

    def text(self) -> str:
        """Return the meter as one line."""
        return card.line(self._view)

    def static(self) -> dict[str, Any]:
        """Return the MIME bundle without a widget: the last numbers."""
        return {
            "text/plain": self.text(),
            "text/html": style.METER + f'<div class="ciuic-meter">{self.html(live=False)}</div>',
        }

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = self.static()
        if self._panel and not self._closed:
            bundle.update(self._panel.bundle())
        return bundle

    def _paint_loop(self) -> None:
        last = float("-inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closed)
                if self._closed:
                    return
                rest = last + INTERVAL - time.monotonic()
                if rest > 0 and self._changed.wait_for(lambda: self._closed, timeout=rest):
                    return
                self._dirty = False
                self._shown = self._view
            last = time.monotonic()
            self._paint()

    def _paint(self) -> None:
        if self._panel:
            with contextlib.suppress(Exception):  # no kernel to send to any more: nothing to show it on
                self._panel.paint(self.html(), self._view)

    def _press_loop(self) -> None:
        while (action := self._pressed.get()) is not None:
            if self._panel and not self._panel.pressed(action):
                self.notice(f"{action} is not possible now: {card.shown_state(self._view).lower()}")
                continue
            try:
                view = self._act(action)
            except Exception as error:  # noqa: BLE001  (whatever went wrong is for the user to read, the thread lives on)
                self.notice(f"{action} did not work: {error}")
            else:
                if view is not None:
                    self.update(view)
            with self._changed:  # buttons show their true state again
                self._dirty = True
                self._changed.notify_all()


def widgets_here() -> bool:
    """Tell whether widgets can be shown: an ipykernel is running and ipywidgets is installed."""
    if "ipykernel" not in sys.modules or importlib.util.find_spec("ipywidgets") is None:
        return False
    from ipykernel.kernelbase import Kernel  # noqa: PLC0415  (only where one is already loaded)

    return bool(Kernel.initialized())


def make_meter(name: str, act: Act, *, widgets: bool | None = None) -> Meter:
    """Return a meter with widgets where they can be shown, else one that only says lines of text."""
    if not (widgets_here() if widgets is None else widgets):
        return Meter(name, act)
    from ciuic_jupyter.notebook.panel import WidgetPanel  # noqa: PLC0415  (ipywidgets is optional at run time)

    return Meter(name, act, panel=WidgetPanel)
