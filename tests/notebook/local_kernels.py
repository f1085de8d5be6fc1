"""Real local ipykernels of several versions, with all they publish kept in order; and a session for their cells."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.settings import Settings
from tests.ipykernels import path_of

CHANNELS = {"shell": zmq.DEALER, "iopub": zmq.SUB, "stdin": zmq.DEALER}
ROOT = Path(__file__).resolve().parents[2]

MAGIC = """
import sys, uuid
from IPython import get_ipython
from IPython.core.magic import register_cell_magic, register_line_magic
from ciuic_jupyter.notebook.follow import attach, follow, follow_detached

@register_cell_magic
def remote(line, cell):
    run = uuid.uuid4().hex
    go = follow_detached if "detach" in line else follow
    after = client.session("s")["last_seq"]
    go(client, "s", run, after=after, shell=get_ipython(), submit=lambda: submit_run(run, cell))

@register_line_magic
def again(line):
    attach(client, "s", line or None, shell=get_ipython())
"""
REAL = """
from ciuic_jupyter.control.client import PlaneClient
client = PlaneClient.ensure()

def submit_run(run, code):
    client.run("s", run, code)
"""
SMALL = "from tests.notebook.small_plane import Client\nclient = Client({directory!r})\nsubmit_run = client.run\n"


def until(found: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Return what `found` returns once it is true; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.005)
    return result


@dataclass
class Cell:
    """What a kernel published for one request."""

    msg_id: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] | None = None

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """The contents of all messages of these kinds."""
        return [message["content"] for message in list(self.messages) if message["msg_type"] in kinds]

    def text(self, name: str = "stdout") -> str:
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)

    @property
    def idle(self) -> bool:
        states = [content["execution_state"] for content in self.of("status")]
        return bool(states) and states[-1] == "idle" and self.reply is not None


class LocalKernel:
    """A kernel process and a front end that only listens and asks; plain sockets, no event loops."""

    def __init__(self, version: str = "7.4.0", env: dict[str, str] | None = None) -> None:
        path = path_of(version)
        self.directory = Path(tempfile.mkdtemp(prefix="ck", dir="/tmp"))
        self.session = Session(key=secrets.token_hex(16).encode(), signature_scheme="hmac-sha256")
        file = self._connection_file()
        places = [str(path)] if path else []
        environment = {**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join([*places, str(ROOT)])}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.context = zmq.Context()
        self.sockets = {name: self.context.socket(kind) for name, kind in CHANNELS.items()}
        for number, (name, socket) in enumerate(self.sockets.items(), 1):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            if name == "iopub":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                socket.setsockopt(zmq.ROUTING_ID, self.session.bsession)
            socket.connect(f"ipc://{self.directory}/k-{number}")
        self.cells: dict[str, Cell] = {}
        self.questions: list[dict[str, Any]] = []
        self.published: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._wait_ready()

    def _connection_file(self) -> Path:
        ports = {f"{name}_port": number for number, name in enumerate([*CHANNELS, "hb", "control"], 1)}
        connection = {"transport": "ipc", "ip": f"{self.directory}/k", "signature_scheme": "hmac-sha256", **ports}
        file = self.directory / "connection.json"
        file.write_text(json.dumps({**connection, "key": self.session.key.decode()}))
        return file

    def _wait_ready(self) -> None:
        asked = self.ask("kernel_info_request")
        until(lambda: asked.reply, "the kernel's start")
        while not asked.of("status"):  # iopub subscriptions take a moment
            asked = self.ask("kernel_info_request")
            until(lambda asked=asked: asked.reply, "an answer")

    def _listen(self) -> None:
        poller = zmq.Poller()
        takes = {"iopub": self._iopub, "shell": self._shell, "stdin": self._stdin}
        for socket in self.sockets.values():
            poller.register(socket, zmq.POLLIN)
        while not self._stop.is_set():
            ready = dict(poller.poll(100))
            for name, take in takes.items():
                while self.sockets[name] in ready:
                    with self._lock:
                        _ids, message = self.session.recv(self.sockets[name])
                    if message is None:
                        break
                    message["at"] = time.monotonic()
                    take(message)

    def _cell(self, message: dict[str, Any]) -> Cell:
        msg_id = message["parent_header"].get("msg_id", "")
        return self.cells.setdefault(msg_id, Cell(msg_id))

    def _iopub(self, message: dict[str, Any]) -> None:
        self.published.append(message)
        self._cell(message).messages.append(message)

    def _shell(self, message: dict[str, Any]) -> None:
        self._cell(message).reply = message["content"]

    def _stdin(self, message: dict[str, Any]) -> None:
        self.questions.append(message["content"])

    def send(self, channel: str, kind: str, content: dict[str, Any], buffers: Any = None) -> Cell:
        """Send a message and return what will collect its answers."""
        message = self.session.msg(kind, content)
        cell = self.cells.setdefault(message["header"]["msg_id"], Cell(message["header"]["msg_id"]))
        with self._lock:
            self.session.send(self.sockets[channel], message, buffers=buffers)
        return cell

    def start(self, code: str, *, allow_stdin: bool = False) -> Cell:
        """Send a cell and return at once."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "stop_on_error": True}
        return self.send("shell", "execute_request", {**content, "allow_stdin": allow_stdin})

    def run(self, code: str, seconds: float = 60.0, allow_stdin: bool = False) -> Cell:
        """Run a cell to its end."""
        cell = self.start(code, allow_stdin=allow_stdin)
        until(lambda: cell.idle, f"the end of {code[:60]!r}", seconds)
        return cell

    def ok(self, code: str, seconds: float = 60.0) -> Cell:
        """Run a cell that must not fail."""
        cell = self.run(code, seconds)
        assert cell.reply is not None
        assert cell.reply["status"] == "ok", "\n".join(cell.reply["traceback"])
        return cell

    def interrupt(self) -> None:
        """The stop button."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, as an out-of-memory killer would."""
        self.process.kill()

    def answer(self, value: str) -> None:
        """Type a line."""
        self.send("stdin", "input_reply", {"value": value})

    def comm(self, kind: str, content: dict[str, Any], buffers: Any = None) -> Cell:
        """Send a browser's comm message."""
        return self.send("shell", kind, content, buffers)

    def ask(self, kind: str) -> Cell:
        """Send a request without content on the shell channel."""
        return self.send("shell", kind, {})

    def close(self) -> None:
        """End the kernel."""
        self._stop.set()
        self._thread.join()
        self.process.kill()
        self.process.wait()
        for socket in self.sockets.values():
            socket.close(0)
        self.context.term()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def local_kernel(version: str = "7.4.0", setup: str = "", env: dict[str, str] | None = None) -> Iterator[LocalKernel]:
    """A kernel for a `with` block."""
    kernel = LocalKernel(version, env)
    try:
        if setup:
            kernel.ok(setup)
        yield kernel
    finally:
        kernel.close()


def ended(pid: int) -> bool:
    """Tell whether a process is gone; one that nobody waits for is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@dataclass
class RealPlane:
    """A control plane of its own with one session, `s`, that runs."""

    home: Path
    env: dict[str, str]
    settings: Settings

    @property
    def setup(self) -> str:
        """The code that makes `%%remote` run there."""
        return REAL + MAGIC

    @contextmanager
    def client(self) -> Iterator[PlaneClient]:
        """Calls from the test's own process."""
        client = until(lambda: PlaneClient.find(self.settings), "the plane's answer")
        try:
            yield client
        finally:
            client._http.close()

    @property
    def log(self) -> str:
        """What the plane and its machines wrote."""
        files = [self.home / "s" / "plane.log", *self.home.glob("s/machines/*/*.log"), *self.home.glob("r/*.log")]
        return "\n".join(f"{file}: {file.read_text(errors='replace')[-2000:]}" for file in files if file.exists())

    @property
    def pid(self) -> int:
        """The plane's process."""
        return int(json.loads((self.settings.state_dir / "plane.json").read_text())["pid"])


@contextmanager
def real_plane() -> Iterator[RealPlane]:
    """A plane, an agent and a remote kernel for a `with` block."""
    home = Path(tempfile.mkdtemp(prefix="cp", dir="/tmp"))
    env = {"CIUIC_STATE_DIR": f"{home}/s", "CIUIC_RUNTIME_DIR": f"{home}/r", "CIUIC_IDLE_RELEASE": "false"}
    settings = Settings(state_dir=home / "s", runtime_dir=home / "r", idle_release=False)
    plane = RealPlane(home, env, settings)
    command = [sys.executable, "-m", "ciuic_jupyter.control.daemon"]
    (home / "s").mkdir(mode=0o700)
    with (home / "s" / "plane.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **env}, cwd=ROOT, stdout=log, stderr=log)
    try:
        until((home / "s" / "plane.json").exists, "the plane's start")
        with plane.client() as client:
            client.create("s")
            try:
                until(lambda: client.session("s")["state"] == "running", "the session's start", 60)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{plane.log}") from None
        yield plane
    finally:
        try:
            with plane.client() as client:
                client.release("s", discard=True)
                pid = plane.pid
                client.shutdown()
            process.wait(20)
            until(lambda: ended(pid), "the end of a plane that was started again")
        finally:
            process.kill()
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def small_plane(directory: Path) -> Iterator[str]:
    """A small plane for a `with` block; gives the code that makes `%%remote` run there."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.notebook.small_plane", str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until((directory / "url").exists, "the small plane's start")
        yield SMALL.format(directory=str(directory)) + MAGIC
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)
