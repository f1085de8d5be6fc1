"""Follow a run to its end, or to its pause, printing what it prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import CiuicError, KernelDied, PlaneUnavailable, RemoteError

_LOOK_SECONDS = 0.5  # without an event, after which the plane is asked
_BROKEN = 5  # lines in a row that broke before anything came
_OVER = ("ok", "error", "aborted", "died")


class JobPaused(CiuicError):
    """The session was paused in the middle of a run; `resume`, then `wait`, go on with it."""


@dataclass
class Outcome:
    """A run that was begun, and the last of its events that was shown."""

    session: str
    run: str
    after: int


def follow(client: PlaneClient, outcome: Outcome) -> None:
    """Return when the run has ended well; RemoteError, KernelDied or JobPaused if it has not."""
    broken = 0
    while True:
        before = outcome.after
        try:
            with closing(client.stream(outcome.session, outcome.after)) as stream:
                while True:
                    frame = stream.recv(_LOOK_SECONDS)
                    ended = _look(client, outcome) if frame is None else _take(outcome, frame.header)
                    if ended is not None:
                        return _end(outcome, ended)
        except PlaneUnavailable:
            broken = broken + 1 if outcome.after == before else 0
            if broken >= _BROKEN:
                raise


def _take(outcome: Outcome, header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Show an event; return it if it is the run's end."""
    if header.get("type") != "event":
        return None
    if header.get("seq") is not None:
        outcome.after = max(outcome.after, int(header["seq"]))
    if header.get("run") != outcome.run:
        return None
    if header.get("kind") == "output":
        _show(header)
    return header if header.get("kind") == "run_ended" else None


def _show(header: Mapping[str, Any]) -> None:
    content = header.get("content") or {}
    if header.get("msg_type") == "stream":
        target = sys.stderr if content.get("name") == "stderr" else sys.stdout
        target.write(str(content.get("text", "")))
        target.flush()
    elif header.get("msg_type") in ("display_data", "execute_result"):
        text = (content.get("data") or {}).get("text/plain")
        if text is not None:
            sys.stdout.write(f"{text}\n")


def _look(client: PlaneClient, outcome: Outcome) -> Mapping[str, Any] | None:
    """Ask how the run stands where no event tells; JobPaused if its session is paused in its middle."""
    listed = next((run for run in client.runs(outcome.session) if run["run"] == outcome.run), None)
    if listed is None or listed["status"] not in ("suspended", *_OVER):
        return None
    if listed["status"] == "suspended":
        if client.session(outcome.session)["state"] != "paused":
            return None
        where = f" at {listed['where']}" if listed.get("where") else ""
        raise JobPaused(f"session {outcome.session} is paused{where}: nothing is billed. resume() and wait() go on")
    seen = listed.get("last_seq")
    return listed if seen is None or seen <= outcome.after else None  # else its events are still to come


def _end(outcome: Outcome, ended: Mapping[str, Any]) -> None:
    status = ended.get("status")
    if status == "ok":
        return
    for line in ended.get("traceback") or ():
        sys.stderr.write(f"{line}\n")
    if status == "died":
        raise KernelDied(f"the machine of session {outcome.session} went under the run: {ended.get('evalue') or ''}")
    if status == "error":
        raise RemoteError(f"{ended.get('ename')}: {ended.get('evalue')}")
    raise RemoteError(f"the run was stopped before its end in session {outcome.session}; run it again")
