"""What is added to a Jupyter server when it starts: routes, the bridge behind them, and the word of live runs."""

from __future__ import annotations

from typing import Any

from jupyter_server.serverapp import ServerApp
from tornado.ioloop import PeriodicCallback
from tornado.log import app_log
from traitlets import Bool, Float
from traitlets.config import Configurable

from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.server.bridge import Bridge
from ciuic_jupyter.server.routes import BRIDGE, handlers


class CiuicJupyter(Configurable):
    """Settings of the server extension, `c.CiuicJupyter...` in a Jupyter configuration file."""

    runs_are_activity = Bool(
        True, config=True, help="A cell that runs on a remote kernel keeps this server from being culled as idle."
    )
    activity_seconds = Float(60.0, config=True, help="Seconds between two looks for such cells.")


class Activity:
    """Tells the Jupyter server that it is in use while a remote cell runs or waits, seen or unseen."""

    def __init__(self, bridge: Bridge, settings: dict[str, Any]) -> None:
        self._bridge = bridge
        self._settings = settings

    async def look(self) -> None:
        """Ask the plane, if there is one; never raises."""
        from jupyter_server._tz import utcnow  # noqa: PLC0415 - as aware of its zone as the server's own times

        try:
            sessions = await self._bridge.call(lambda client: client.sessions())
        except CiuicError:
            return
        if any(session.get("busy") or session.get("queued") for session in sessions):
            self._settings["last_activity_times"]["ciuic_jupyter"] = utcnow()


def load(app: ServerApp) -> None:
    """Add routes and settings to a Jupyter server."""
    options, bridge = CiuicJupyter(parent=app), Bridge()
    settings = app.web_app.settings
    settings[BRIDGE] = bridge
    app.web_app.add_handlers(".*$", handlers(settings["base_url"]))
    if options.runs_are_activity:
        looking = PeriodicCallback(Activity(bridge, settings).look, 1000 * options.activity_seconds)
        looking.start()
    app_log.info("ciuic_jupyter: the panel's routes are at %sciuic/", settings["base_url"])
