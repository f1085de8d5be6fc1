"""What the plane may ask of an agent: one method an operation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.kernels.lease import boottime
from ciuic_jupyter.kernels.protocol import Frame

if TYPE_CHECKING:
    from ciuic_jupyter.kernels.agent_core import Agent

Reply = dict[str, Any]


class Requests:
    """Answers request frames; every failure is an error of the tree, told to the plane."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._operations: dict[str, Callable[[Frame], Awaitable[Reply]]] = {
            "run": self._run,
            "interrupt": self._interrupt,
            "input": self._input,
            "comm": self._comm,
            "save": self._save,
            "hold": self._hold,
            "go": self._go,
            "checkpoint": self._checkpoint,
            "boundary": self._boundary,
            "resume": self._resume,
            "push": self._push,
            "pull": self._pull,
            "names": self._names,
            "lease": self._lease,
            "stop": self._stop,
            "emit": self._emit,
        }

    async def handle(self, frame: Frame) -> Reply:
        """Do what one request says and return its reply's content."""
        operation = self._operations.get(str(frame.header.get("op")))
        if operation is None:
            raise UsageError(f"no operation {frame.header.get('op')!r}; known: {', '.join(sorted(self._operations))}")
        return await operation(frame)

    async def _run(self, frame: Frame) -> Reply:
        if self._agent.busy:
            raise UsageError("busy: a save is under way; the run can start when it is done")
        self._need_kernel()
        self._agent.runs.start(frame.header)
        return {"run": frame.header["run"]}

    def _need_kernel(self) -> None:
        if self._agent.kernel != "ready":
            why = f" ({self._agent.error})" if self._agent.error else ""
            raise UsageError(f"the kernel is {self._agent.kernel}{why}; nothing was started")

    async def _interrupt(self, frame: Frame) -> Reply:
        run = frame.header.get("run")
        return {"interrupted": self._agent.runs.interrupt(str(run) if run is not None else None)}

    async def _input(self, frame: Frame) -> Reply:
        run, value = frame.header.get("run"), frame.header.get("value")
        if not isinstance(value, str):
            raise UsageError("input needs a value as text; nothing was sent")
        self._agent.runs.answer(str(run) if run is not None else None, value)
        return {}

    async def _comm(self, frame: Frame) -> Reply:
        self._agent.runs.comm(frame.header, frame.buffers)
        return {}

    async def _save(self, frame: Frame) -> Reply:
        return await self._agent.save()

    async def _hold(self, frame: Frame) -> Reply:
        self._need_kernel()
        return await self._agent.holds.hold()

    async def _go(self, frame: Frame) -> Reply:
        return {"went": await self._agent.holds.go()}

    async def _checkpoint(self, frame: Frame) -> Reply:
        self._need_kernel()
        return await self._agent.take_checkpoint(behind=bool(frame.header.get("behind")))

    async def _boundary(self, frame: Frame) -> Reply:
        self._need_kernel()
        return await self._agent.holds.look()

    async def _resume(self, frame: Frame) -> Reply:
        if self._agent.busy:
            raise UsageError("busy: a save is under way; the run can go on when it is done")
        self._need_kernel()
        run, shown = frame.header.get("run"), frame.header.get("shown") or []
        if not isinstance(run, str) or not isinstance(shown, list):
            raise UsageError("resume needs run, a text, and shown, a list of output events; nothing was started")
        self._agent.runs.resume(run, shown)
        return {"run": run}

    async def _push(self, frame: Frame) -> Reply:
        self._need_kernel()
        blob = frame.header.get("blob")
        path = self._agent.blobs.uploaded(blob)
        try:
            reply = await self._agent.link.request("push", path=str(path), names=frame.header.get("names"))
        finally:
            self._agent.blobs.drop(str(blob))
        return _content(reply)

    async def _pull(self, frame: Frame) -> Reply:
        self._need_kernel()
        names = frame.header.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError("pull needs names, a list of texts; nothing was read")
        blob, path = self._agent.blobs.new()
        try:
            reply = await self._agent.link.request("pull", path=str(path), names=names)
            return {**_content(reply), "blob": blob, "size": self._agent.blobs.pulled(blob)}
        except BaseException:
            self._agent.blobs.drop(blob)
            raise

    async def _names(self, frame: Frame) -> Reply:
        self._need_kernel()
        return _content(await self._agent.link.request("names"))

    async def _lease(self, frame: Frame) -> Reply:
        seconds = frame.header.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 7 * 86400:
            raise UsageError(f"a lease of {seconds!r} seconds; give more than 0 and at most a week")
        if "deadline" in frame.header:
            deadline = frame.header["deadline"]
            plain = isinstance(deadline, int | float) and not isinstance(deadline, bool)
            if deadline is not None and not (plain and 0 <= deadline <= 10**10):
                raise UsageError(f"a deadline of {deadline!r} seconds; give 0 or more, or null for none")
            self._agent.lease.bound(None if deadline is None else float(deadline), boottime())
        self._agent.lease.seconds = float(seconds)
        self._agent.lease.heard(boottime())
        return {"seconds": float(seconds)}

    async def _stop(self, frame: Frame) -> Reply:
        self._agent.leave("stop")
        return {}

    async def _emit(self, frame: Frame) -> Reply:
        event = frame.header.get("event")
        if not isinstance(event, dict) or event.get("kind") not in ("note", "run_ended"):
            raise UsageError("emit takes an event of kind note or run_ended; nothing was written")
        self._agent.emit(event)
        if event["kind"] == "run_ended":
            self._agent.runs.drop(event.get("run"))
        return {}


def _content(reply: Reply) -> Reply:
    return {key: value for key, value in reply.items() if key != "status"}
