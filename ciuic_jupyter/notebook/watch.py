"""What one cell knows of the run it follows, and the main thread's wait for that run's end."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ciuic_jupyter.errors import CiuicError, UsageError
from ciuic_jupyter.kernels.outputs import Output, stream
from ciuic_jupyter.kernels.pump import PlainPump, ShellPump, Waker
from ciuic_jupyter.kernels.replay import Channel, KernelCell, TerminalCell
from ciuic_jupyter.notebook.line import Line, shaper
from ciuic_jupyter.notebook.remote_error import Detached

QUIET_NOTE_AFTER = 10.0  # seconds without the plane before the cell says so
ERROR_HELD = 0.5  # seconds that outputs behind an error are held for the run's end
_SETTLED = frozenset({"paused", "failed", "closed"})
DETACH_AT = 3  # the third Ctrl-C leaves the run alone
SHUTDOWN_AFTER = 0.25  # seconds in which a shutdown follows the interrupt that Jupyter sends before it
UNANSWERED_FOR = 10.0  # seconds in which a cell ends that asked what nobody can answer, and was interrupted for that

OnStatus = Callable[[Mapping[str, Any]], None]


def cell_of(shell: Any) -> KernelCell | TerminalCell:
    kernel = getattr(shell, "kernel", None)
    count = int(shell.displayhook.prompt_count)  # IPython 9 has counted on already when a cell runs, 8 has not
    if kernel is None or getattr(kernel, "iopub_socket", None) is None:
        return TerminalCell(shell, count)
    return KernelCell(kernel, kernel.get_parent("shell"), count)


class Run:
    """What one cell knows of the run it follows; events come from the line's thread, the rest from the main thread."""

    def __init__(self, run: str, cell: KernelCell | TerminalCell, line: Line, on_status: OnStatus | None) -> None:
        self.run = run
        self.cell = cell
        self.msg_id = cell.msg_id
        self.line = line
        self.channel: Channel = shaper.channel(cell.send)
        self.waker: Waker | None = None  # none: nobody waits, errors are shown instead of raised
        self.started = False
        self.ended: Mapping[str, Any] | None = None
        self.paused: Mapping[str, Any] | None = (
            None  # the session is paused in the middle of this run: it goes on later
        )
        self._died: Mapping[str, Any] | None = None  # an end that a checkpoint in the middle of the run may undo
        self.questions: deque[Mapping[str, Any]] = deque()
        self.held: list[Output] = []  # an error, and what came behind it: shown after the error is raised
        self.held_since = 0.0
        self.gathered: list[tuple[Mapping[str, Any], Output | None]] | None = None
        self.interrupted = False  # by this cell's user
        self.look_up = False  # the plane says that another run is on: has ours ended without an event?
        self._on_status = on_status

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.ended is not None

    @property
    def waits(self) -> bool:
        """Whether a cell is held up by the run."""
        return self.waker is not None

    def event(self, header: Mapping[str, Any], output: Output | None) -> None:
        """Take one event of the run."""
        if self.gathered is not None:
            self.gathered.append((header, output))
            return
        kind = header.get("kind")
        if output is not None:
            self._output(output)
        elif kind == "run_started":
            self.started = True
            if isinstance(header.get("count"), int):
                self.line.counts[header["count"]] = self.cell.count
        elif kind == "input_request":
            self.questions.append(header)
        elif kind == "run_resumed":
            self.paused = self._died = None
        elif kind == "run_ended":
            self._end_or_pause(header)
        elif kind == "note" and header.get("run") == self.run:
            self.channel.put(stream("stderr", f"{header.get('text', '')}\n"))
        elif kind == "kernel" and header.get("state") == "dead" and self.started:
            self._end_or_pause({"status": "died", "exit_code": header.get("exit_code")})
        self.wake()

    def _output(self, output: Output) -> None:
        waiting = self.waker is not None and self.ended is None
        if waiting and (output.msg_type == "error" or self.held):
            if output.msg_type == "error":
                self.release()
            elif len(self.held) == 1:
                self.held_since = time.monotonic()
            self.held.append(output)
        else:
            self.channel.put(output)

    def _end_or_pause(self, header: Mapping[str, Any]) -> None:
        """Take an end; a death waits until the session tells whether a checkpoint holds this run."""
        if header.get("status") != "died" or not (self.line.view or {}).get("checkpoint"):
            self.end(header)
        elif self._died is None:
            self._died = header

    def _settle(self, view: Mapping[str, Any]) -> None:
        """Learn from the session's state whether the run is paused in its middle, or has died."""
        state, suspended = view.get("state"), view.get("suspended") or {}
        if state not in _SETTLED or int(view.get("last_seq") or 0) > self.line.seen:
            return
        if suspended.get("run") == self.run:
            if state == "paused" and self.paused is None:
                self.paused, self._died = suspended, None
                self.wake()
        elif self._died is not None:
            self.end(self._died)

    def release(self) -> None:
        """Show what was held: the error was not the run's last word."""
        held, self.held = self.held, []
        for output in held:
            self.channel.put(output)

    def release_late(self) -> None:
        """Show what was held for too long."""
        with self.line.lock:
            if len(self.held) > 1 and self.ended is None and time.monotonic() > self.held_since + ERROR_HELD:
                self.release()

    def end(self, header: Mapping[str, Any]) -> None:
        """Take the run's end, once."""
        if self.ended is not None:
            return
        if self.waker is None:
            self._show_end(header)
        elif header.get("status") != "error":
            self.release()
        self.ended = header
        self.wake()

    def _show_end(self, header: Mapping[str, Any]) -> None:
        """The end of a run nobody waits for: its error output has been shown, anything else needs words."""
        if header.get("status") == "died":
            self.channel.put(stream("stderr", f"{died_text(self.line.session, header)}\n"))

    def status(self, view: Mapping[str, Any]) -> None:
        """Take the session's newest state."""
        if self.ended is None:
            self._settle(view)
        if self.ended is None and view.get("run") != self.run and int(view.get("last_seq") or 0) <= self.line.seen:
            self.look_up = True
            self.wake()
        if self._on_status is not None:
            self._on_status(view)

    def wake(self) -> None:
        waker = self.waker
        if waker is not None:
            waker.set()


def died_text(session: str, header: Mapping[str, Any]) -> str:
    code = header.get("exit_code")
    reason = f" (exit code {code})" if code is not None else ""
    told = header.get("evalue") or f"the remote kernel of session {session} died{reason} while the cell ran"
    return f"{told}; its variables are gone. Run your cells again, or go back to the last checkpoint with %ciuic_resume"


class Watch:
    """The main thread's wait for the end of a run."""

    def __init__(self, follow: Run, shell: Any) -> None:
        self.follow = follow
        self.shell = shell
        self.waker = Waker()
        self.interrupts = 0
        self.passed_on = 0
        self.told_broken = False
        self.waits = False
        is_kernel = isinstance(follow.cell, KernelCell)
        main = threading.current_thread() is threading.main_thread()
        self.pump: ShellPump | PlainPump = (
            ShellPump(shell.kernel, self.waker) if is_kernel and main else PlainPump(self.waker)
        )
        follow.waker = self.waker
        self._refused: UsageError | None = None  # a question that nobody can answer: raised behind the run's end,
        self._gives_up_at = math.inf  # or then at the latest

    def interrupted(self) -> None:
        """Ctrl-C, inside a signal handler: only count and wake.

        While the run is handed over it must not break off: the plane may have the run already. The third does.
        """
        self.interrupts += 1
        self.waker.set()
        if not self.waits and self.interrupts >= DETACH_AT:
            raise KeyboardInterrupt

    def until_end(self) -> Mapping[str, Any] | None:
        """Return the run_ended event once everything before it is shown; None if the run is paused in its middle."""
        follow = self.follow
        self.waits = True
        with self.pump:
            while follow.ended is None and follow.paused is None and time.monotonic() <= self._gives_up_at:
                self.pump.wait(0.2 if follow.held else 1.0)
                self._pass_on_interrupts()
                self._ask()
                follow.release_late()
                self._look_up()
                self._tell_broken()
            if self._refused is not None:  # not before: a cell sent earlier is queued behind the failure
                raise self._refused
            self._unask()
            follow.channel.when_empty(self.waker.set)
            while follow.channel.waiting and self.interrupts < self.passed_on + DETACH_AT:
                self.pump.wait(1.0)
        return follow.ended

    def close(self) -> None:
        """Nobody waits any more: later outputs are shown as they come."""
        with self.follow.line.lock:
            self.follow.waker = None
        self.waker.close()

    def _pass_on_interrupts(self) -> None:
        if self.passed_on < self.interrupts and self._leaves():
            session = self.follow.line.session
            raise Detached(f"this kernel ends; the cell goes on in session {session}: `%ciuic_attach {session}`")
        while self.passed_on < self.interrupts:
            self.passed_on += 1
            self._unask()
            if self.passed_on >= DETACH_AT:
                session = self.follow.line.session
                raise Detached(f"stopped watching; the cell goes on in session {session}: `%ciuic_attach {session}`")
            self.follow.interrupted = True
            self.follow.line.request("interrupt", run=self.follow.run)

    def _leaves(self) -> bool:
        """Tell whether an interrupt was but the beginning of this kernel's end, which no remote cell shares.

        Jupyter interrupts a kernel right before it asks it to shut down or restart.
        """
        until = time.monotonic() + SHUTDOWN_AFTER
        while isinstance(self.pump, ShellPump) and time.monotonic() < until and self.follow.ended is None:
            if getattr(self.shell, "exit_now", False):
                return True
            self.pump.wait(0.05)
        return False

    def _ask(self) -> None:
        follow = self.follow
        if not follow.questions:
            return
        question = follow.questions.popleft()
        prompt, password = str(question.get("prompt", "")), bool(question.get("password"))

        def answer(value: str) -> None:
            follow.line.request("input", run=follow.run, value=value)

        if isinstance(self.pump, ShellPump) and self.pump.can_ask:
            # Text that still waits belongs before the question.
            follow.channel.when_empty(self.waker.set)
            while follow.channel.waiting and follow.ended is None:
                self.pump.wait(0.1)
            self.pump.ask(prompt, password, answer)
        elif isinstance(self.pump, PlainPump) and sys.stdin is not None and sys.stdin.isatty():
            answer(_ask_terminal(prompt, password))
        else:
            follow.line.request("interrupt", run=follow.run)
            text = f"the remote cell asks {prompt!r}, but this front end does not answer questions; it was interrupted"
            if self._refused is None:
                self._refused, self._gives_up_at = UsageError(text), time.monotonic() + UNANSWERED_FOR

    def _unask(self) -> None:
        if isinstance(self.pump, ShellPump):
            self.pump.unask()

    def _look_up(self) -> None:
        """A run can end without an event: queued behind a failed one, or on a machine that was lost."""
        follow = self.follow
        if not follow.look_up or follow.ended is not None:
            return
        follow.look_up = False
        with contextlib.suppress(CiuicError):  # asked again at the next status
            for listed in follow.line.client.runs(follow.line.session):
                if (
                    listed["run"] == follow.run
                    and listed.get("ended")
                    and (listed.get("last_seq") or 0) <= follow.line.seen
                ):
                    message = (follow.line.view or {}).get("message")
                    follow.end({"status": listed.get("status") or "died", "evalue": message})

    def _tell_broken(self) -> None:
        since = self.follow.line.broken_since
        if since is None or self.told_broken or time.monotonic() < since + QUIET_NOTE_AFTER:
            return
        self.told_broken = True
        text = "the control plane does not answer; the cell goes on, its outputs come when it is back\n"
        self.follow.channel.put(stream("stderr", text))


def _ask_terminal(prompt: str, password: bool) -> str:
    import getpass  # noqa: PLC0415  (terminals only)

    try:
        return getpass.getpass(prompt) if password else input(prompt)
    except EOFError:
        return "\x04"


@contextlib.contextmanager
def watching(follow: Run, shell: Any) -> Iterator[Watch]:
    watch = Watch(follow, shell)
    try:
        with watch.waker.on_interrupt(watch.interrupted):
            yield watch
    except BaseException:
        follow.line.remove(follow)
        raise
    finally:
        watch.close()
