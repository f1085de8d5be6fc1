"""The process beside a remote kernel: forks the kernel and the nursery, then serves the plane.

`python -m ciuic_jupyter.kernels.agent CONFIG.json`, or `main(config)` in a child forked from a warm parent.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.kernels import logs
from ciuic_jupyter.kernels.agent_config import AgentConfig
from ciuic_jupyter.kernels.nursery import Nursery
from ciuic_jupyter.kernels.processes import become_subreaper, fork_child
from ciuic_jupyter.monitor import cgroup
from ciuic_jupyter.monitor.proof import hold_lock, touch_alive

MARKER = "CIUIC_MACHINE"
SESSION = "CIUIC_SESSION"  # so that code in a cell knows where it runs


def main(config: dict[str, Any]) -> int:
    """Run a machine to its end; return the exit code. `config` is emptied: its secrets are not for forked children.

    Call it while this process has one thread and no event loop.
    """
    settings = AgentConfig.from_dict(config)
    config.clear()
    os.umask(0o077)
    for directory in (settings.directory, settings.socket.parent):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = hold_lock(settings.directory / "lock")
    cgroup.join(settings.machine, settings.directory / "cgroup")
    touch_alive(settings.directory)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until the event loop can end the machine in order
    with suppress(PermissionError):  # we lead a session already
        os.setsid()
    become_subreaper()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _clear_sockets(settings)
    connection = _connection(settings)
    kernel = _fork_kernel(settings, connection)
    marker = f"{MARKER}={settings.machine}"
    nursery = Nursery(settings.directory / "nursery.log", kernel, marker, settings.secrets.forget)
    logs.configure(str(settings.directory / "agent.log"))

    # the heavy half is loaded while the kernel starts on the other core
    from ciuic_jupyter.kernels.agent_core import serve  # noqa: PLC0415

    try:
        return serve(settings, connection, kernel, nursery)
    finally:
        del lock


def _clear_sockets(settings: AgentConfig) -> None:
    for number in range(1, 7):  # the kernel's five, and the one for its children's output
        Path(f"{settings.ipc_stem}-{number}").unlink(missing_ok=True)


def _connection(settings: AgentConfig) -> dict[str, Any]:
    names = ("shell", "iopub", "stdin", "control", "hb")
    ports = {f"{name}_port": number for number, name in enumerate(names, 1)}
    key = secrets.token_hex(32)
    return {"transport": "ipc", "ip": settings.ipc_stem, "key": key, "signature_scheme": "hmac-sha256", **ports}


def _fork_kernel(settings: AgentConfig, connection: Mapping[str, Any]) -> int:
    agent = os.getpid()

    own = {**settings.env, MARKER: settings.machine, SESSION: settings.session}

    def run() -> None:
        settings.secrets.forget()
        from ciuic_jupyter.kernels import kernelapp  # noqa: PLC0415 - ipykernel is loaded in the kernel alone

        kernelapp.main(connection, settings.cwd, own, parent=agent)

    return fork_child(run, settings.directory / "kernel.log")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"the agent's config {path} can't be read: {error}; write it anew") from error
    if not isinstance(config, dict):
        raise UsageError(f"the agent's config {path} is not an object; write it anew")
    return config


if __name__ == "__main__":
    sys.exit(main(_from_file(Path(sys.argv[1]))))
