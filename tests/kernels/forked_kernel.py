"""A real kernel for tests: a small process with one thread forks it, a blocking client talks to it over ipc."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient
from jupyter_client.session import Session

from tests.ipykernels import path_of

PARENT = """
import json, os, sys
from ciuic_jupyter.kernels import kernelapp
config = json.loads(sys.argv[1])
for name in config["preload"]:
    __import__(name)
exec(config["before"])
parent = os.getpid()
pid = os.fork()
if pid == 0:
    kernelapp.main(config["connection"], config["cwd"], config["env"], parent=parent)
print(pid, flush=True)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
"""


def connection(folder: Path) -> dict[str, Any]:
    """Return the connection of a kernel whose sockets lie in `folder`."""
    ports = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    made: dict[str, Any] = {name: number for number, name in enumerate(ports, 1)}
    made |= {"transport": "ipc", "ip": str(folder / "k"), "key": uuid.uuid4().hex, "signature_scheme": "hmac-sha256"}
    return made


class Client:
    """Runs cells and sends ciuic requests to the kernel of a connection."""

    def __init__(self, info: dict[str, Any], deadline: float = 60.0) -> None:
        self.deadline = deadline
        self.raw = BlockingKernelClient(session=Session(key=info["key"].encode()))
        self.raw.load_connection_info(info)
        self.raw.start_channels(hb=False)
        self.raw.iopub_channel.socket.rcvhwm = 0
        self.raw.wait_for_ready(timeout=deadline)

    def run(self, code: str, **options: Any) -> list[dict[str, Any]]:
        """Run a cell; return its iopub messages up to its end, without status and input."""
        # else a cell that comes just after an error is aborted, as it is meant for "run all"
        sent = self.raw.execute(code, **{"stop_on_error": False, **options})
        ends = time.monotonic() + self.deadline
        found: list[dict[str, Any]] = []
        while True:
            message = self.raw.get_iopub_msg(timeout=max(0.0, ends - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            if message["msg_type"] not in ("status", "execute_input"):
                found.append(message)
        self._reply(sent)
        return found

    def text(self, code: str) -> str:
        """Run a cell and return what it printed to stdout; AssertionError if it raised."""
        messages = self.run(code)
        errors = [message["content"] for message in messages if message["msg_type"] == "error"]
        assert not errors, "\n".join(errors[0]["traceback"])
        streams = [message["content"] for message in messages if message["msg_type"] == "stream"]
        return "".join(stream["text"] for stream in streams if stream["name"] == "stdout")

    def value(self, expression: str) -> Any:
        """Return the value of an expression that JSON can hold."""
        return json.loads(self.text(f"print(__import__('json').dumps({expression}), flush=True)"))

    def request(self, op: str, **content: Any) -> dict[str, Any]:
        """Send a ciuic_request and return the content of its reply."""
        message = self.raw.session.msg("ciuic_request", {"op": op, **content})
        self.raw.shell_channel.send(message)
        return self._reply(message["header"]["msg_id"])

    def _reply(self, sent: str) -> dict[str, Any]:
        ends = time.monotonic() + self.deadline
        while True:
            reply = self.raw.get_shell_msg(timeout=max(0.0, ends - time.monotonic()))
            if reply["parent_header"].get("msg_id") == sent:
                return dict(reply["content"])

    def pending(self) -> list[dict[str, Any]]:
        """Return the iopub messages nobody has read yet."""
        found = []
        while True:
            try:
                found.append(self.raw.get_iopub_msg(timeout=0.2))
            except queue.Empty:
                return found

    def close(self) -> None:
        self.raw.stop_channels()
        self.raw.context.term()


class ForkedKernel:
    """A kernel process below a parent process, and a client connected to it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.connection = connection(folder)
        self.log = folder / "log"
        config = {
            "connection": self.connection,
            "cwd": str(options.get("cwd", folder)),
            "env": options.get("env", {}),
            "preload": options.get("preload", []),
            "before": options.get("before", ""),
        }
        environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), **options.get("parent_env", {})}
        other = path_of(options["version"]) if "version" in options else None
        if other is not None:
            environment["PYTHONPATH"] = str(other)
        with self.log.open("ab") as log:
            self.parent = subprocess.Popen(
                [sys.executable, *options.get("flags", []), "-c", PARENT, json.dumps(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )
        assert self.parent.stdout is not None
        self.pid = int(self.parent.stdout.readline())
        self.client = Client(self.connection)

    def exit_code(self) -> int:
        """Wait for the kernel's end and return its exit code."""
        assert self.parent.stdout is not None
        return int(self.parent.stdout.readline())

    def again(self, folder: Path, **options: Any) -> ForkedKernel:
        """Kill this kernel and start another one, as a new machine would."""
        self.kill()
        return ForkedKernel(folder, **options)

    def kill(self) -> None:
        """End both processes at once and leave nothing behind."""
        self.client.close()
        self.parent.kill()
        self.parent.wait()
        assert self.parent.stdout is not None
        self.parent.stdout.close()

    def __enter__(self) -> ForkedKernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Return when `condition()` is true; AssertionError after `seconds`."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
