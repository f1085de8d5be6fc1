"""What the magics remember between cells: the session's name, the client, the meters. No truth, only handles."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.notebook.meter import Meter

_DURATION = re.compile(r"(?:(\d{1,5})\s*h)?\s*(?:(\d{1,6})\s*m(?:in)?)?\s*(?:(\d{1,8})\s*s)?")


def notebook_path(environ: Mapping[str, str], user_ns: Mapping[str, Any]) -> str | None:
    """Return the notebook's path as Jupyter or VS Code tell it to the kernel, or None outside a notebook."""
    path = environ.get("JPY_SESSION_NAME") or user_ns.get("__vsc_ipynb_file__")
    return str(path) if path else None


def default_session(environ: Mapping[str, str], user_ns: Mapping[str, Any]) -> str:
    """Return the session a notebook uses when a cell names none: its file's name and 4 hex digits of its path."""
    path = notebook_path(environ, user_ns)
    if path is None:
        return "default"
    stem = re.sub(r"[^a-z0-9]+", "-", PurePath(path).stem.lower()).strip("-")[:48].rstrip("-") or "notebook"
    return f"{stem}-{hashlib.sha256(path.encode()).hexdigest()[:4]}"


def seconds_of(text: str) -> int:
    """Return the seconds of `30m`, `2h`, `1h30m`, `90s` or plain minutes `30`; UsageError otherwise."""
    clean = text.strip().lower()
    if re.fullmatch(r"\d{1,5}", clean):
        clean += "m"
    found = _DURATION.fullmatch(clean)
    if not clean or found is None:
        raise UsageError(f"{text!r} is not a time; write 30m, 2h or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError("keeping for no time does nothing; write 30m, 2h or 1h30m")
    return total


def names_of(text: str | None, what: str) -> list[str]:
    """Split `a,b` into variable names, each once; UsageError names what is no name."""
    if text is None:
        return []
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if not name.isidentifier():
            raise UsageError(f"{what}: {name!r} is not a variable name; write them as {what} a,b")
    return list(dict.fromkeys(names))


class MeterFeed:
    """Follows a session's state for its meter, between cells as well; one per meter. A follower of the line."""

    msg_id = ""
    over = waits = False

    def __init__(self, meter: Meter) -> None:
        self.run = f"meter {id(self):x}"  # no run has this name: only states come
        self.channel: Any = None
        self._meter = meter

    def event(self, header: Mapping[str, Any], output: Any) -> None:
        """Nothing: a run's events belong to the cell that follows it."""

    def status(self, view: Mapping[str, Any]) -> None:
        """Hand the newest state to the meter."""
        self._meter.update(view)


class Shelf:
    """The meters on show, one live one per session: an older cell keeps its last numbers as plain HTML."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, tuple[Meter, Callable[[dict[str, Any]], None]]] = {}

    def put(self, name: str, meter: Meter, redraw: Callable[[dict[str, Any]], None]) -> None:
        """Make this the session's live meter; `redraw(bundle)` replaces what its cell shows."""
        self.drop(name)
        with self._lock:
            self._shown[name] = (meter, redraw)

    def get(self, name: str) -> Meter | None:
        """Return the live meter of a session."""
        with self._lock:
            entry = self._shown.get(name)
        return entry[0] if entry else None

    def keep(self, name: str) -> None:
        """Write the newest numbers beside the widget, for whoever saves the notebook."""
        with self._lock:
            entry = self._shown.get(name)
        if entry:
            meter, redraw = entry
            redraw(meter._repr_mimebundle_())

    def drop(self, name: str) -> None:
        """Replace the live meter by its last numbers."""
        with self._lock:
            entry = self._shown.pop(name, None)
        if entry:
            meter, redraw = entry
            redraw(meter.static())
            meter.close()

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            names = list(self._shown)
        for name in names:
            self.drop(name)


def here(user_ns: Mapping[str, Any]) -> str:
    """Return this notebook's default session name."""
    return default_session(os.environ, user_ns)
