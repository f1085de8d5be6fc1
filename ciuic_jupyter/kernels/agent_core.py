"""The agent at work: one event loop between the kernel, the log, the plane, the lease and the clock."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import CiuicError, KernelDied, SaveFailed, UsageError
from ciuic_jupyter.kernels.agent_config import AgentConfig
from ciuic_jupyter.kernels.agent_requests import Requests
from ciuic_jupyter.kernels.blobs import Blobs
from ciuic_jupyter.kernels.departure import Departure
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.holds import Holds
from ciuic_jupyter.kernels.kernel_link import KernelLink
from ciuic_jupyter.kernels.lease import Lease, boottime
from ciuic_jupyter.kernels.looks import Looks
from ciuic_jupyter.kernels.nursery import Nursery
from ciuic_jupyter.kernels.pause import HOLD
from ciuic_jupyter.kernels.plane_socket import PlaneSocket
from ciuic_jupyter.kernels.processes import kill_tree
from ciuic_jupyter.kernels.runs import Run, Runs
from ciuic_jupyter.kernels.saving import Kernel, Saver
from ciuic_jupyter.kernels.stages import Stages
from ciuic_jupyter.kernels.sweep import Sweeper
from ciuic_jupyter.kernels.usage import Usage
from ciuic_jupyter.monitor.proof import touch_alive, write_final

_log = logging.getLogger(__name__)

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_MODULES = {"op": "modules"}
NO_BOUNDARY_AFTER = 10.0  # seconds of a run before it is told that there is none
NO_BOUNDARY = "This cell has no loop turn to pause at: a pause waits for its end."


def serve(config: AgentConfig, connection: Mapping[str, Any], kernel: int, nursery: Nursery) -> int:
    """Serve until the machine ends; return the exit code."""
    return asyncio.run(Agent(config, kernel, nursery).live(connection))


class Agent:
    """One machine's agent."""

    def __init__(self, config: AgentConfig, kernel: int, nursery: Nursery) -> None:
        self.config = config
        self.kernel_pid = kernel
        self.nursery = nursery
        self.kernel = "starting"  # ready | failed | dead
        self.restored: dict[str, Any] | None = None
        self.error: str | None = None
        self.saving = False
        self._passing = False  # the save under way lets cells run
        self.checkpoint: int | None = config.checkpoint
        self.log = EventLog(config.directory / "events", config.first_seq)
        self.runs = Runs(self.emit, kernel)
        self.stages = Stages(self.emit, self._newest_event)
        self.holds = Holds(self.runs, self._newest_event, self.stages)
        self.blobs = Blobs(config.directory / "blobs")
        self.requests = Requests(self)
        self.socket = PlaneSocket(config.secrets.token, self.log, self._hello, self.requests.handle)
        self.socket.on_heard = lambda: self.lease.heard(boottime())
        self.socket.on_blob = self.blobs.serve
        now = boottime()
        self.lease = Lease(config.lease_seconds, now, now, config.deadline)
        self.looks = Looks(self.runs, self.holds)
        self.usage = Usage(kernel, nursery.pid, config.sample_hz, self.looks, self.socket)
        self.departure = Departure(self, config)
        self.link: KernelLink
        self.saver: Saver
        self.sweeper: Sweeper
        self.save_over = asyncio.Event()
        self.save_over.set()
        self._unwritten: deque[tuple[Mapping[str, Any], Sequence[bytes | memoryview]]] = deque()
        self._leaving: asyncio.Future[str]
        self._prepared_for: tuple[str | None, bool] = (None, False)
        self._asked = 0  # seconds of that
        self._preparing = False
        self._imported: set[str] = set()  # by the nursery
        self._looked_at: Run | None = None  # for boundaries
        self._tasks: set[asyncio.Task[None]] = set()

    async def live(self, connection: Mapping[str, Any]) -> int:
        """Run the machine from its kernel's start to its last process."""
        loop = asyncio.get_running_loop()
        self._leaving = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self.link = KernelLink(connection, self.runs.on_iopub, self.runs.on_stdin)
        kernel = Kernel(self.link, self.runs, self.holds)
        self.saver = Saver(self.config, kernel, self.nursery, self._progress)
        self.sweeper = Sweeper(self.config, self.saver.remote, self._warn)
        self._reap()  # a kernel that died before the handler was there
        for work in (self._start_kernel(), self._watch(), self.usage.sample_for_ever()):
            self.spawn(work)
        await self.socket.serve(self.config.socket)
        reason = await self._leaving
        _log.info("leaving: %s", reason)
        return await self._end(reason)

    def spawn(self, work: Any) -> None:
        """Run `work` beside the rest; its failure is written to the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a part of the agent failed", exc_info=error)

    @property
    def leaving(self) -> bool:
        """Whether the machine ends."""
        return self._leaving.done()

    def leave(self, reason: str) -> None:
        """End the machine; the first reason counts."""
        if not self._leaving.done():
            self._leaving.set_result(reason)

    def _terminated(self) -> None:
        """SIGTERM: save the cell under way unless it was asked for in order, then leave; a second one hurries."""
        if self.departure.preempts():
            self.spawn(self.departure.preempted())
        else:
            self.leave("stopped")

    def _newest_event(self) -> int:
        return self.log.last_seq + len(self._unwritten)

    def emit(self, header: Mapping[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> None:
        """Write an event to the log and wake the sender; on a full disk it waits in memory for its turn."""
        self._unwritten.append((header, buffers))
        self._write_waiting()

    def _write_waiting(self) -> None:
        while self._unwritten:
            header, buffers = self._unwritten[0]
            try:
                self.log.append(header, buffers)
            except OSError:
                _log.exception("the event log can't be written; %d events wait", len(self._unwritten))
                return
            except CiuicError:
                self._unwritten.popleft()
                raise
            self._unwritten.popleft()
        self.socket.wake()

    def _hello(self) -> dict[str, Any]:
        return {
            "machine": self.config.machine,
            "intent": self.config.intent,
            "session": self.config.session,
            "kernel": self.kernel,
            "error": self.error,
            "run": self.runs.current.run if self.runs.current else None,
            "held": self.holds.held,
            "last_seq": self.log.last_seq,
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "restored": self.restored,
            "checkpoint": self.checkpoint,
            "stages": self.stages.pending(),
        }

    async def _start_kernel(self) -> None:
        try:
            await self.link.ready()
            if self.config.checkpoint is not None:
                self.restored = await self.saver.restore(self.config.checkpoint)
                self.runs.suspended = self.restored["run"]
                self._committed(self.restored["run"])
        except KernelDied:
            return
        except (CiuicError, OSError) as error:
            self.kernel, self.error = "failed", f"{type(error).__name__}: {error}"
            _log.error("restore failed: %s", self.error)
            self.emit({"kind": "kernel", "run": None, "state": "failed", "error": self.error})
            return
        self.kernel = "ready"
        self.runs.attach(self.link)
        self.holds.attach(self.link)
        self.spawn(self.looks.look_for_ever(self.link))
        report = {"report": self.restored} if self.restored is not None else {}
        state = "restored" if self.restored is not None else "ready"
        self.emit({"kind": "kernel", "run": None, "state": state, **report})

    def _reap(self) -> None:
        """Collect every ended child; orphans of the kernel are ours too."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.kernel_pid:
                    self.spawn(self._kernel_ended(ended[1]))

    async def _kernel_ended(self, status: int) -> None:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        how = f"was killed by {signal.Signals(number).name}" if number else f"left with exit code {code}"
        reason = f"the kernel's process {how}"
        await self.link.drained()
        self.kernel, self.error = "dead", reason
        self.link.died(reason)
        self.holds.died(reason)
        self.runs.died(reason)
        self.emit({"kind": "kernel", "run": None, "state": "dead", "exit_code": code, "signal": number})

    def _progress(self, step: str, done: int, total: int, share: float | None = None) -> None:
        told = {} if share is None else {"share": share}
        self.socket.tell({"type": "progress", "step": step, "done": done, "total": total, **told})

    def _warn(self, text: str) -> None:
        run = self.runs.current.run if self.runs.current is not None else None
        self.emit({"kind": "note", "run": run, "text": text, "level": "warning"})

    async def save(self, *, sweep: bool = True) -> dict[str, Any]:
        """Save the cell that holds, or behind the one under way; no cell starts meanwhile. Then `sweep` old ones away.

        UsageError while another save is on, SaveFailed if there is no checkpoint.
        """
        while self._passing:  # a checkpoint that the cell takes in its stride
            await self.save_over.wait()
        return await self._save(passing=False, sweep=sweep)

    async def take_checkpoint(self, *, behind: bool = False) -> dict[str, Any]:
        """Hold the cell under way until it is captured, and make a checkpoint of that while it goes on.

        UsageError if no cell runs, it ends before it holds, or another save is on. With `behind` none of these: another
        save is waited for, and what stands between two cells is saved, too, while the next one has to wait.
        """
        while True:
            while behind and self.saving:
                await self.save_over.wait()
            held = await self.holds.hold(keep=False)
            if held["held"]:
                try:
                    return await self._save(passing=True)
                finally:
                    await self.holds.release()
            if behind and self.runs.current is None and not self.saving:
                return await self._save(passing=False)
            if not behind and held["run"] is None:
                raise UsageError("no cell runs; save the session as it is")
            if not behind:
                raise UsageError(f"run {held['run']} ended, or was let go, before it held; nothing was saved")

    async def _save(self, *, passing: bool, sweep: bool = True) -> dict[str, Any]:
        if self.saving:
            raise UsageError("a save is under way; wait for its reply")
        if self.kernel != "ready":
            raise SaveFailed(f"the kernel is {self.kernel}: there is nothing to save")
        self.saving, self._passing = True, passing
        self.save_over.clear()
        try:
            self._progress("waiting", 0, 3)
            await self.sweeper.over()
            done = await self.saver.save(passing=passing)
            self.checkpoint = int(done["seq"])
            self._committed(done["report"]["run"])
            if sweep:  # here, as long as no other save can begin
                done["report"]["swept"] = await self.sweeper.sweep(self.checkpoint)
            return done
        finally:
            self.saving = self._passing = False
            self.save_over.set()

    def _committed(self, run: Mapping[str, Any] | None) -> None:
        self.holds.committed(run)
        self.runs.saved = run["run"] if run is not None else None
        self.stages.committed(int(run["seq"]) if run is not None else None)

    @property
    def busy(self) -> bool:
        """Whether no cell may start: a save would not know what it saves."""
        return self.saving and not self._passing

    async def _watch(self) -> None:
        """Prove each second that this machine lives, and look at the lease."""
        while True:
            try:
                touch_alive(self.config.directory)
                self._write_waiting()
            except OSError:
                _log.exception("this machine's directory can't be written")
            if self.departure.due(self.lease.lapsed(boottime())):
                self.spawn(self.departure.go())
            if self.kernel == "ready" and not self.saving:
                self.spawn(self._prepare_nursery())
            run = self.runs.current
            if run is not None and run is not self._looked_at and time.monotonic() - run.begun > NO_BOUNDARY_AFTER:
                self._looked_at = run
                self.spawn(self._tell_no_boundary(run))
            await asyncio.sleep(self.lease.tick)

    async def _tell_no_boundary(self, run: Run) -> None:
        """Say it of a run that can't be paused before its end."""
        with suppress(CiuicError):
            if await self.holds.never() and self.runs.current is run:
                self.emit({"kind": "note", "run": run.run, "text": NO_BOUNDARY, "level": "info"})

    async def _prepare_nursery(self) -> None:
        """Let the nursery import what the kernel has imported: a save then waits for no import.

        A cell under way is asked, too, 1, 2, 4, 8 ... seconds after it began.
        """
        run, between = self.runs.last_run, self.runs.idle.is_set()
        self._asked = self._asked + 1 if self._prepared_for == (run, between) else 1
        self._prepared_for = (run, between)
        if self._preparing or self._asked & (self._asked - 1) or (between and self._asked > 1):
            return
        self._preparing = True
        try:
            told = await (self.link.request("modules") if between else self.link.request_control(HOLD, _MODULES))
            if not self._imported.issuperset(told["modules"]):
                self._imported.update(told["modules"])
                await self.nursery.prepare(told["modules"])
        except CiuicError:  # a save will meet the same, and tell
            pass
        finally:
            self._preparing = False

    async def _end(self, reason: str) -> int:
        """Kill the kernel and all it started, write the last word, close."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        left = await kill_tree(_GRACE, spared={self.nursery.pid})
        if left:
            reason = f"{reason}; processes {left} did not end"
        if self._tasks:  # the kernel's end, told to whoever listens
            await asyncio.wait(self._tasks, timeout=_GRACE)
        await self.socket.close()
        self.link.close()
        self.log.close()
        self.nursery.end()
        await kill_tree(0)
        write_final(self.config.directory, reason=reason, checkpoint=self.checkpoint)
        return 0
