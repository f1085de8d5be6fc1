"""An agent without a kernel, in the test's process: the real protocol over a real unix socket, the real store."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode, encode
from ciuic_jupyter.providers.base import Intent


class AgentDouble:
    """Serves the machine that started last.

    Cells: 'ok' ends well, 'fail' raises, 'hang' has no loop and waits for an interrupt, 'loop' is at a boundary when
    it is asked to hold.
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "agent.sock"
        self._directory = directory
        self._server: Server | None = None
        self._plane: ServerConnection | None = None
        self.config: dict[str, Any] = {}
        self.log: EventLog | None = None
        self.current: str | None = None
        self.kernel = "ready"
        self.error: str | None = None
        self.save_error: str | None = None
        self.hold_save: asyncio.Event | None = None
        self.alive = False
        self.runs: list[str] = []
        self.saves = 0
        self.restored_from: list[int | None] = []
        self.ops: list[str] = []
        self.resumed: list[tuple[str, list[str]]] = []
        self.knows_hold = True
        self.held = False
        self.resume_error: str | None = None
        self.save_seconds, self.restore_seconds = 1.0, 2.0  # what its reports say
        self.deadlines: list[float | None] = []  # how long it may go on unheard, as it was told
        self.lose_reply: str | None = None  # an operation whose reply is never sent
        self._code: dict[str, str] = {}
        self._wanted: asyncio.Event | None = None  # a hold waits for the run's end
        self._restored: dict[str, Any] | None = None
        self.stages: list[tuple[str, str, int]] = []  # that no checkpoint holds

    async def serve(self) -> None:
        self._server = await unix_serve(self._connection, str(self.socket), compression=None, ping_interval=None)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def start(self, intent: Intent) -> None:
        """A machine begins."""
        self.config = dict(intent.agent_config)
        events = self._directory / f"events-{intent.id}"
        self.log = EventLog(events, self.config["first_seq"])
        self.current, self.kernel, self.alive, self.held = None, "ready", True, False
        self.stages = []
        self.restored_from.append(self.config["checkpoint"])
        self._take_up()
        self._restored = None
        if self.config["checkpoint"] is not None:
            key = bytes.fromhex(self.config["key_hex"])
            body = Store(Path(self.config["store"])).read_manifest(self.config["checkpoint"], key).body
            self._restored = {"seconds": {"total": self.restore_seconds}, "run": body.get("run")}

    def _take_up(self) -> None:
        """Be where the log ends: an agent outlives the plane, the process that played it did not."""
        assert self.log is not None
        for _, frame in self.log.read(self.log.first_seq - 1):
            header = decode(frame).header
            if header["kind"] in ("run_started", "run_resumed"):
                self.current = header["run"]
                self._code[header["run"]] = header["code"]
                self.runs.append(header["run"])
            elif header["kind"] == "run_ended" and header["run"] == self.current:
                self.current = None

    def end(self, machine: str) -> None:
        """The machine ends: the line breaks and nobody answers any more."""
        self.alive = False
        if self._plane is not None:
            self._plane.transport.abort()
        shutil.rmtree(self._directory / f"events-{machine}", ignore_errors=True)

    def cut(self) -> None:
        """Break the line once."""
        if self._plane is not None:
            self._plane.transport.abort()

    async def emit(self, **header: Any) -> None:
        assert self.log is not None
        seq = self.log.append(header)
        if self._plane is not None:
            with suppress(ConnectionClosed):  # a cut: it is read from the log after the reconnect
                for _, frame in self.log.read(seq - 1):
                    await self._plane.send(frame)

    async def finish(self, status: str = "ok") -> None:
        """End the run under way."""
        run, self.current, self.held = self.current, None, False
        await self.emit(kind="run_ended", run=run, status=status, count=1, seconds=0.1)

    async def die(self) -> None:
        """The kernel's process dies."""
        self.kernel = "dead"
        if self.current is not None:
            await self.finish("died")
        await self.emit(kind="kernel", run=None, state="dead", exit_code=None, signal=9)

    async def sample(self, now: float, *, quiet_since: float | None, **more: Any) -> None:
        """Send the three witnesses: quiet since then, or busy; with `more`, such as a look at the loops."""
        assert self._plane is not None
        said = {"quiet": quiet_since is not None, "since": quiet_since or now, "detail": "told by the test"}
        header = {"type": "sample", "now": now, "kernel": said, "processes_witness": said, "gpu_witness": said}
        await self._plane.send(encode({**header, "cpu_percent": 1.0, **more}))

    async def _connection(self, socket: ServerConnection) -> None:
        if not self.alive or self.log is None:
            socket.transport.abort()
            return
        assert socket.request is not None
        assert socket.request.headers["Authorization"] == f"Bearer {self.config['token']}"
        try:
            after = decode(await socket.recv()).header["after"]
            if not self.log.first_seq - 1 <= after <= self.log.last_seq:
                await socket.close(1002, f"no event {after} here")
                return
            self._plane = socket
            newest = (Store(Path(self.config["store"])).manifests() or [None])[-1]
            said: dict[str, Any] = {
                "kernel": self.kernel,
                "error": self.error,
                "run": self.current,
                "last_seq": self.log.last_seq,
            }
            said |= {"restored": self._restored, "held": self.held, "checkpoint": newest, "stages": self.stages}
            await socket.send(encode({"type": "hello", **said}))
            for _, frame in list(self.log.read(after)):
                await socket.send(frame)
            async for data in socket:
                frame = decode(data)
                if frame.type == "request":
                    task = asyncio.create_task(self._reply(socket, frame.header))
                    task.add_done_callback(lambda done: done.cancelled() or done.exception())
        except (ConnectionClosed, OSError):
            pass
        finally:
            if self._plane is socket:
                self._plane = None

    async def _reply(self, socket: ServerConnection, header: dict[str, Any]) -> None:
        self.ops.append(header["op"])
        if header["op"] in ("hold", "go", "checkpoint", "boundary", "resume") and not self.knows_hold:
            reply = {"error": {"type": "UsageError", "message": f"no operation {header['op']!r}"}}
        else:
            reply = await getattr(self, f"_{header['op']}")(header)
        if header["op"] == self.lose_reply:
            return
        await socket.send(encode({"type": "reply", "id": header["id"], "ok": "error" not in reply, **reply}))

    async def _run(self, header: dict[str, Any]) -> dict[str, Any]:
        if header["run"] in self.runs:
            return {}
        if self.current is not None:
            return {"error": {"type": "UsageError", "message": f"busy: run {self.current} is under way"}}
        self.runs.append(header["run"])
        self.current = header["run"]
        self._code[header["run"]] = header["code"]
        await self.emit(kind="run_started", run=header["run"], code=header["code"], cell_id=None, count=1)
        if header["code"] not in ("hang", "loop"):
            await self.finish("ok" if header["code"] == "ok" else "error")
        return {}

    async def _interrupt(self, header: dict[str, Any]) -> dict[str, Any]:
        if self.current is not None:
            await self.finish("error")
        return {"interrupted": True}

    async def _emit(self, header: dict[str, Any]) -> dict[str, Any]:
        await self.emit(**header["event"])
        return {}

    async def _lease(self, header: dict[str, Any]) -> dict[str, Any]:
        self.deadlines.append(header.get("deadline"))
        return {"seconds": header["seconds"]}

    async def _names(self, header: dict[str, Any]) -> dict[str, Any]:
        return {"names": {"x": "int"}}

    async def _save(self, header: dict[str, Any]) -> dict[str, Any]:
        self.saves += 1
        if self.hold_save is not None:
            await self.hold_save.wait()
        if self.save_error is not None:
            return {"error": {"type": "SaveFailed", "message": self.save_error}}
        if not self.held:
            await self._no_run()
        return self._saved()

    async def _no_run(self) -> None:
        while self.current is not None:  # noqa: ASYNC110 - what no one announces has no event
            await asyncio.sleep(0.005)

    async def _hold(self, header: dict[str, Any]) -> dict[str, Any]:
        self._wanted = asyncio.Event()
        while self.current is not None and self._code[self.current] != "loop" and not self._wanted.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        self.held = self.current is not None and not self._wanted.is_set()
        return {"held": self.held, "run": self.current, "where": "line 7 of the cell"}

    async def _go(self, header: dict[str, Any]) -> dict[str, Any]:
        if self._wanted is not None:
            self._wanted.set()
        went, self.held = self.held, False
        return {"went": went}

    async def _checkpoint(self, header: dict[str, Any]) -> dict[str, Any]:
        if self.current is None and not header["behind"]:
            return {"error": {"type": "UsageError", "message": "no cell runs; nothing was saved"}}
        if self.save_error is not None:
            return {"error": {"type": "SaveFailed", "message": self.save_error}}
        if (await self._hold(header))["held"] or header["behind"]:
            done = self._saved()
            self.held = False
            return done
        return {"error": {"type": "UsageError", "message": "the cell ended first; nothing was saved"}}

    async def _boundary(self, header: dict[str, Any]) -> dict[str, Any]:
        return {"run": self.current, "held": self.held, "skipped": ["line 3: in except"], "has_loops": False}

    async def _resume(self, header: dict[str, Any]) -> dict[str, Any]:
        if self.resume_error is not None:
            return {"error": {"type": "UsageError", "message": self.resume_error}}
        assert self._restored is not None
        assert self._restored["run"]["run"] == header["run"]
        assert self.current is None
        self.resumed.append((header["run"], [shown["content"]["text"] for shown in header["shown"]]))
        self.current = header["run"]
        self._code[header["run"]] = self._restored["run"]["code"]
        await self.emit(kind="run_resumed", **{**self._restored["run"], "seq": 0}, where="line 7 of the cell")
        return {"run": header["run"]}

    async def say(self, text: str) -> None:
        """The cell under way prints."""
        content = {"name": "stdout", "text": text}
        await self.emit(kind="output", run=self.current, msg_type="stream", content=content, metadata={})

    async def stage(self, name: str) -> None:
        """The cell under way marks the end of a stage."""
        assert self.log is not None
        assert self.current is not None
        self.stages.append((self.current, name, self.log.last_seq + 1))
        await self.emit(kind="stage", run=self.current, name=name)

    def _saved(self) -> dict[str, Any]:
        seq = self.write_checkpoint()
        self.stages = []
        report = {"bytes_total": 10, "names": ["x"], "seconds": {"total": self.save_seconds}, "run": self._position()}
        return {"seq": seq, "report": report}

    def _position(self) -> dict[str, Any] | None:
        if not self.held or self.current is None or self.log is None:
            return None
        run = self.current
        return {"run": run, "code": self._code[run], "cell_id": None, "count": 1, "seq": self.log.last_seq}

    def write_checkpoint(self) -> int:
        """Save something real; of a held cell if one is held."""
        store = Store(Path(self.config["store"]))
        with store.save() as save:
            body = {"names": {"x": "int"}, "placeholders": [], "blob": save.add(b"content"), "bytes_total": 7}
            body["run"] = self._position()
        return int(store.write_manifest(body, bytes.fromhex(self.config["key_hex"])).seq)
