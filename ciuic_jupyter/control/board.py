"""What watchers of the whole plane see: all sessions and the total, as they change; nothing is computed unwatched."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import spending
from ciuic_jupyter.control.daemon import VERSION
from ciuic_jupyter.control.panel import panel_view
from ciuic_jupyter.kernels.fanout import Fanout

if TYPE_CHECKING:
    from ciuic_jupyter.control.plane import Plane

_log = logging.getLogger(__name__)

PROTOCOL = 1
_TOTAL = ""  # no session has this name
_AT_ONCE, _SOON, _IDLE = 0.03, 1.0, 5.0  # seconds in which changes of one session are gathered
_TOTAL_SECONDS = 30.0  # between two totals while money flows; viewers count on from the rate
_RUNNING_ON = (  # viewers reckon these themselves, from the rate and `as_of`
    "as_of",
    "spent_nano",
    "compute_nano",
    "storage_nano",
    "billed_seconds",
    "unbilled_seconds",
    "unspent_nano",
    "last_seq",
)
_OF_BUDGETS = ("key", "budget_nano", "rate_nano_per_hour", "mark")  # what does not run on by itself
_STEADY_TOTAL = ("currency", "rate_nano_per_hour", "always_on_rate_nano_per_hour", "budget_nano")

View = dict[str, Any]


class Board:
    """Told by runners that something changed; tells watchers what, once for all of them."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.fanout = Fanout(self.snapshot)
        self._due: dict[str, float] = {}
        self._news = asyncio.Event()
        self._sent: dict[str, View] = {}
        self._total: View = {}
        self._told = self._looked = float("-inf")  # when the total was sent, and computed

    def changed(self, name: str, *, soon: bool = False) -> None:
        """A session's view is another now; watchers learn it within a second if `soon` will do."""
        self._note(name, _SOON if soon else _AT_ONCE)

    def sampled(self, name: str, busy: bool) -> None:
        """New usage of a session's machine: shown each second while it works, now and then while it does not."""
        self._note(name, _SOON if busy else _IDLE)

    def _note(self, name: str, wait: float) -> None:
        if not self.fanout.viewers:
            return
        due = asyncio.get_running_loop().time() + wait
        if due < self._due.get(name, float("inf")):
            self._due[name] = due
            self._news.set()

    def snapshot(self) -> View:
        """Return everything there is."""
        views = [panel_view(self._plane.runners[name]) for name in sorted(self._plane.runners)]
        for view in views:  # who looks from now on has seen it; who looked before may have seen another
            if _steady(view) != self._sent.get(view["name"]):
                self._sent.pop(view["name"], None)
        now = self._plane.context.now_ms() / 1000
        plane = {"up": True, "version": VERSION, "error": None}
        head = {"type": "snapshot", "version": PROTOCOL, "plane": plane}
        self._due.setdefault(_TOTAL, asyncio.get_running_loop().time() + _TOTAL_SECONDS)
        return {**head, "sessions": views, "total": self.total(), "now": now}

    def total(self) -> View:
        """Return what everything costs and cost."""
        return spending.total_now(self._plane.context.books.lives, self._plane.context)

    async def work(self) -> None:
        """Tell watchers, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            if not self.fanout.viewers:
                self._due.clear()
            try:
                async with asyncio.timeout_at(min(self._due.values(), default=None)):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                self._tell(loop.time())
            except Exception:  # noqa: BLE001 - one view that can't be made keeps no other from being told
                _log.exception("watchers could not be told")

    def _tell(self, now: float) -> None:
        for name in [name for name, at in self._due.items() if at <= now]:
            del self._due[name]
            if name == _TOTAL:
                self._tell_total(now)
            else:
                self._tell_session(name)
                self._due[_TOTAL] = min(self._due.get(_TOTAL, now + _SOON), max(now, self._looked + _SOON))

    def _tell_session(self, name: str) -> None:
        runner = self._plane.runners.get(name)
        if runner is None:
            self._sent.pop(name, None)
            self.fanout.tell(f"session {name}", {"type": "gone", "name": name})
            return
        view = panel_view(runner)
        steady = _steady(view)
        if steady != self._sent.get(name):
            self._sent[name] = steady
            self.fanout.tell(f"session {name}", {"type": "session", "session": view})

    def _tell_total(self, now: float) -> None:
        total, self._looked = self.total(), now
        same = all(total[name] == self._total.get(name) for name in _STEADY_TOTAL)
        if not same or now >= self._told + _TOTAL_SECONDS:
            self._total, self._told = total, now
            self.fanout.tell("total", {"type": "total", "total": total})
        if total["always_on_rate_nano_per_hour"]:  # it runs on, at midnight from a new start
            self._due.setdefault(_TOTAL, now + _TOTAL_SECONDS)


def _steady(view: View) -> View:
    """Return what of a view does not run on by itself."""
    steady = {key: value for key, value in view.items() if key not in _RUNNING_ON}
    steady["budgets"] = [{name: one[name] for name in _OF_BUDGETS} for one in view["budgets"]]
    return steady
