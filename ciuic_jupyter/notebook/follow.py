"""Follow a remote run from a local cell: its outputs, questions, widgets, interrupt and end, as if it ran here."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ciuic_jupyter.errors import RemoteError, UsageError
from ciuic_jupyter.kernels.outputs import Output, compact
from ciuic_jupyter.kernels.replay import KernelCell, TerminalCell
from ciuic_jupyter.notebook.line import Line, as_output
from ciuic_jupyter.notebook.remote_error import CellPaused, RemoteKernelDied, remote_error
from ciuic_jupyter.notebook.watch import OnStatus, Run, cell_of, died_text, watching


@dataclass(frozen=True)
class Outcome:
    """How a followed run ended, or `status="detached"`."""

    run: str
    status: str
    count: int | None = None
    seconds: float | None = None


def _finish(follow: Run, shell: Any, ended: Mapping[str, Any] | None) -> Outcome:
    """Return the outcome of a run that ended well; raise what it raised otherwise, or that it is paused."""
    if ended is None:
        where = (follow.paused or {}).get("where")
        raise CellPaused(
            f"paused{f' at {where}' if where else ''}; everything is saved and nothing is billed. "
            "The cell goes on here, where it stood, with the Resume button or %ciuic_resume"
        ) from None
    for payload in ended.get("payload") or ():
        _take_payload(payload, shell)
    status = str(ended.get("status"))
    count = ended.get("count")
    if status == "ok":
        return Outcome(follow.run, status, count, ended.get("seconds"))
    _show_behind_error(follow, shell)
    _raise(follow, ended)


def _raise(follow: Run, ended: Mapping[str, Any]) -> NoReturn:
    session = follow.line.session
    if ended.get("status") == "died":
        raise RemoteKernelDied(died_text(session, ended)) from None
    if ended.get("status") == "error":
        traceback = [str(line) for line in ended.get("traceback") or ()]
        name, value = str(ended.get("ename") or "RemoteError"), str(ended.get("evalue") or "")
        raise remote_error(name, value, traceback, follow.line.counts) from None
    if follow.interrupted:
        raise remote_error("KeyboardInterrupt", "", (), {}) from None
    raise RemoteError(
        f"the cell did not run: an earlier one in session {session} failed or was interrupted; run it again"
    )


def _show_behind_error(follow: Run, shell: Any) -> None:
    """Show what the remote cell printed behind its error (as `sys.exit()` does) behind the local one too."""
    with follow.line.lock:
        held, follow.held = follow.held, []
    behind = [output for output in held if output.msg_type != "error"]
    events = getattr(shell, "events", None)
    if not behind or events is None:
        return

    def show(*_: object) -> None:
        events.unregister("post_run_cell", show)
        shown = threading.Event()
        for output in behind:
            follow.channel.put(output)
        follow.channel.when_empty(shown.set)
        shown.wait(5.0)

    events.register("post_run_cell", show)


def _take_payload(payload: Mapping[str, Any], shell: Any) -> None:
    """Honour what a remote cell asks of the front end: a new cell's text, or a page of help."""
    if payload.get("source") in {"set_next_input", "page"} and hasattr(shell, "payload_manager"):
        shell.payload_manager.write_payload(dict(payload), single=payload["source"] == "page")


def _flush() -> None:
    for output in (sys.stdout, sys.stderr):
        if output is not None:
            output.flush()


def follow(  # noqa: PLR0913  (one call of the magics; each argument is one fact of the cell)
    client: Any,
    name: str,
    run: str,
    *,
    after: int,
    shell: Any,
    on_status: OnStatus | None = None,
    submit: Callable[[], Any] | None = None,
) -> Outcome:
    """Show `run` of session `name` in the calling cell until it ends; call in the main thread of a cell.

    `submit` is called once the session's stream is open (after event `after`, unless this process has it open already).
    Raises what the remote cell raised (a RemoteError of the same class name), CellPaused if the session is paused in
    the middle of it (what comes after a resume is shown in the same cell), KernelDied, PlaneUnavailable, or
    KeyboardInterrupt after the third Ctrl-C, which leaves the run going.
    """
    _flush()
    following = _begin(client, name, run, after, cell_of(shell), on_status)
    with watching(following, shell) as watch:
        if submit is not None:
            submit()
        ended = watch.until_end()
    return _finish(following, shell, ended)


def follow_detached(  # noqa: PLR0913  (as follow)
    client: Any,
    name: str,
    run: str,
    *,
    after: int,
    shell: Any,
    on_status: OnStatus | None = None,
    submit: Callable[[], Any] | None = None,
) -> Outcome:
    """Return at once; the run's outputs keep coming into the calling cell while this kernel lives."""
    _flush()
    following = _begin(client, name, run, after, cell_of(shell), on_status)
    try:
        if submit is not None:
            submit()
    except BaseException:
        following.line.remove(following)
        raise
    return Outcome(run, "detached")


def _begin(
    client: Any, name: str, run: str, after: int, cell: KernelCell | TerminalCell, on_status: OnStatus | None
) -> Run:
    line = Line.of(client, name, after)
    line.wait_listening()
    following = Run(run, cell, line, on_status)
    line.add(following)
    return following


def attach(
    client: Any,
    name: str,
    run: str | None = None,
    *,
    shell: Any,
    on_status: OnStatus | None = None,
    wait: bool = True,
) -> Outcome:
    """Show everything of the last (or given) run in the calling cell, then follow it to its end.

    The past comes folded: streams merged, progress bars and cleared outputs in their last state. Errors as in `follow`.
    """
    listed = _listed(client, name, run)
    line = Line.of(client, name, int(client.session(name)["last_seq"]))
    line.wait_listening()
    _flush()
    following = Run(listed["run"], cell_of(shell), line, on_status)
    following.gathered = []
    if not wait:
        seen = line.add(following)
        _catch_up(following, listed, seen)
        return Outcome(following.run, "detached")
    with watching(following, shell) as watch:
        seen = line.add(following)
        _catch_up(following, listed, seen)
        ended = watch.until_end()
    return _finish(following, shell, ended)


def _listed(client: Any, name: str, run: str | None) -> Mapping[str, Any]:
    listed: list[Mapping[str, Any]] = client.runs(name)
    found = [entry for entry in listed if run in (None, entry["run"])]
    if not found:
        raise UsageError(
            f"session {name} has no run {run}" if run else f"session {name} has not run a cell yet; nothing to show"
        )
    return found[-1]


def _catch_up(following: Run, listed: Mapping[str, Any], seen: int) -> None:
    """Feed the run's past up to event `seen`, then what came in meanwhile, and go live."""
    past = (
        list(_history(following, int(listed["first_seq"]), seen))
        if (listed.get("first_seq") or seen + 1) <= seen
        else []
    )
    line = following.line
    with line.lock:
        gathered, following.gathered = following.gathered or [], None
        outputs = compact(output for _header, output in past if output is not None)
        if past and past[-1][0].get("kind") == "run_ended" and past[-1][0].get("status") == "error":
            outputs = [output for output in outputs if output.msg_type != "error"]
        for header, output in past:
            if output is None and header.get("kind") == "run_started":
                following.event(header, None)
        for output in outputs:
            _again(following, output)
        if past and past[-1][0].get("kind") in {"input_request", "run_ended"}:
            following.event(past[-1][0], None)
        for header, output in gathered:
            following.event(header, output)
    if following.ended is None and listed.get("ended"):
        following.look_up = True


def _again(following: Run, output: Output) -> None:
    """Show one output of the past; a widget that still lives in this kernel's page is not opened twice."""
    if not output.msg_type.startswith("comm_"):
        following.channel.put(output)
    elif output.msg_type == "comm_open" and not following.line.relay.knows(output.comm_id):
        following.line.comm(output, [following])


def _history(following: Run, first: int, last: int) -> Iterator[tuple[Mapping[str, Any], Output | None]]:
    line = following.line
    with contextlib.closing(line.client.stream(line.session, after=first - 1)) as past:
        for frame in past:
            header = frame.header
            if header.get("type") != "event":
                continue
            if header["seq"] > last:
                return
            if header.get("run") == following.run:
                yield header, as_output(header, frame.buffers)
            if header["seq"] >= last:
                return


__all__ = ["Outcome", "attach", "follow", "follow_detached"]
