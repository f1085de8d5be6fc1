"""What the magics of one shell share: the control plane's client, the current session, the meters on show."""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import CiuicError, PlaneUnavailable, UnknownSession
from ciuic_jupyter.notebook.line import Line
from ciuic_jupyter.notebook.meter import Meter, make_meter
from ciuic_jupyter.notebook.state import MeterFeed, Shelf, here

View = Mapping[str, Any]
LOOK_EVERY = 0.2  # seconds between looks while a machine is started or let go


class Desk:
    """Handles only; all truth is in the control plane."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.shelf = Shelf()
        self._client: PlaneClient | None = None
        self._session: str | None = None
        self._feeds: dict[str, tuple[Line, MeterFeed]] = {}

    @property
    def client(self) -> PlaneClient:
        """The control plane's client; starts a plane if none runs."""
        if self._client is None:
            self._client = PlaneClient.ensure()
        return self._client

    def open(self) -> PlaneClient:
        """Return a client that answers, of a new plane if the one we knew is gone; each magic begins with it."""
        if self._client is not None:
            try:
                self._client.health()
            except PlaneUnavailable:
                self._client = None
        return self.client

    def first(self, call: Callable[[PlaneClient], View]) -> View:
        """Make a magic's first call; of a new plane if the one we knew is gone. `call` must be fit to be made twice."""
        if self._client is not None:
            try:
                return call(self._client)
            except PlaneUnavailable:
                self._client = None
        return call(self.client)

    @property
    def session(self) -> str:
        """The session this notebook used last, or the one named after it."""
        return self._session or here(self.shell.user_ns)

    def use(self, name: str) -> str:
        """Make this the session that magics without a name mean."""
        self._session = name
        return name

    def cell_id(self) -> str | None:
        """Return the running cell's id, where the front end tells it."""
        kernel = getattr(self.shell, "kernel", None)
        if kernel is None:
            return None
        found = (kernel.get_parent("shell") or {}).get("metadata", {}).get("cellId")
        return str(found) if found else None

    # -- the meter

    @contextlib.contextmanager
    def meter(self, view: View, *, show: bool) -> Iterator[Meter | None]:
        """Show a session's meter above what the cell shows; its last numbers stay, however the cell ends."""
        if not show:
            yield None
            return
        name = str(view["name"])
        meter = make_meter(name, lambda action: self._press(name, action))
        meter.update(view)
        self._show(name, meter)
        self._feed(name, meter)
        try:
            yield meter
        finally:
            with contextlib.suppress(CiuicError):  # the cell's own error, if any, is what the user must see
                meter.update(self._newest(name))
            if meter.live:
                self.shelf.keep(name)
            else:
                sys.stdout.write(f"{meter.text()}\n")

    def _newest(self, name: str) -> View:
        """Return the session's state after a run: the line brings it before the run's end, unless it is broken."""
        view = Line.view_of(name)
        return view if view is not None and not view.get("run") else self.client.session(name)

    def _show(self, name: str, meter: Meter) -> None:
        from IPython.display import display  # noqa: PLC0415  (only inside a shell)

        if not meter.live:
            sys.stdout.write(f"{meter.text()}\n")
            return
        display_id = f"ciuic-{uuid.uuid4().hex}"

        def redraw(bundle: dict[str, Any]) -> None:
            display(bundle, raw=True, display_id=display_id, update=True)

        self.shelf.put(name, meter, redraw)
        display(meter, display_id=display_id)

    def _feed(self, name: str, meter: Meter) -> None:
        """Let states come to the meter between cells too, over the line that cells use."""
        after = int(meter.view.get("last_seq") or 0)
        line = Line.of(self.client, name, after)
        self._unfeed(name)
        if meter.live:
            feed = MeterFeed(meter)
            self._feeds[name] = (line, feed)
            line.add(feed)

    def _unfeed(self, name: str) -> None:
        line_and_feed = self._feeds.pop(name, None)
        if line_and_feed is not None:
            line, feed = line_and_feed
            line.remove(feed)

    def _press(self, name: str, action: str) -> View | None:
        """Do what a button says; runs in the meter's worker thread."""
        client = self.client
        if action == "pause":
            # the second press, after the grace: at a price that is shown
            asked = (Line.view_of(name) or {}).get("pause")
            client.pause(name, wait=False, now=bool(asked))
        elif action == "resume":
            client.resume(name)
        else:
            client.release(name, wait=False)
        view: View = client.session(name)
        return view

    # -- looking things up

    def wait(self, name: str, states: tuple[str, ...]) -> View:
        """Return the session's view once it is in one of `states` (or failed); Ctrl-C stops the waiting only."""
        while True:
            view: View = self.client.session(name)
            if view["state"] in states or view["state"] == "failed":
                return view
            time.sleep(LOOK_EVERY)

    def session_or_run(self, given: str | None) -> tuple[str, str | None]:
        """Tell a session's name from a run's id; UnknownSession if it is neither."""
        if given is None:
            return self.session, None
        names = [view["name"] for view in self.client.sessions()]
        if given in names:
            return given, None
        for name in sorted(names, key=lambda n: n != self.session):
            for run in self.client.runs(name):
                if str(run["run"]).startswith(given) and len(given) >= 6:
                    return name, str(run["run"])
        raise UnknownSession(f"{given!r} is neither a session nor a run; `%ciuic_status` lists the sessions")

    def run(self, given: str | None) -> str:
        """Return a run's id, found by its beginning, or the last one of a session; UnknownSession if there is none."""
        name, run = self.session_or_run(given)
        if run is not None:
            return run
        runs = self.client.runs(name)
        if not runs:
            raise UnknownSession(f"session {name} has run no cell yet; name a run: `%ciuic_cost --by run` lists them")
        return str(runs[-1]["run"])

    def known_sessions(self) -> list[str]:
        """Return all names for completion; raises when no control plane runs (it starts none)."""
        found = self._client if self._client is not None else PlaneClient.find()
        return [view["name"] for view in found.sessions()] if found is not None else []

    def close(self) -> None:
        """Replace all meters by their last numbers."""
        self.shelf.clear()
        for name in list(self._feeds):
            self._unfeed(name)
