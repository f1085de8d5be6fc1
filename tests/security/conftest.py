"""One place that is attacked: a Jupyter server with the extension, its control plane, and a session with a kernel."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from ciuic_jupyter.control import daemon
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.monitor.proof import holder
from ciuic_jupyter.settings import Settings
from tests.security.raw import Address
from tests.server.conftest import Jupyter, start, stop
from tests.ui.servers import until

CANARY = "canary-of-the-environment"


@dataclass
class Site:
    """Everything real, on loopback; `home` can be entered by every user of the machine, as most homes can."""

    home: Path
    jupyter: Jupyter

    @property
    def settings(self) -> Settings:
        return self.jupyter.settings

    @cached_property
    def client(self) -> PlaneClient:
        return PlaneClient.ensure(self.settings)

    @cached_property
    def plane(self) -> Address:
        found = daemon.find(self.settings)
        assert found is not None
        return Address(urlsplit(found[0]).netloc, found[1])

    @cached_property
    def plane_pid(self) -> int:
        return int(self.client.health()["pid"])

    @cached_property
    def machine(self) -> Path:
        """The folder of the one machine that runs."""
        (found,) = (self.settings.state_dir / "machines").iterdir()
        return found

    def processes(self) -> list[psutil.Process]:
        """Return the server, the plane, the agent, and all that descends from them."""
        agent = holder(self.machine / "lock")
        assert agent is not None
        roots = [psutil.Process(pid) for pid in (self.jupyter.process.pid, self.plane_pid, agent.pid)]
        return list({each.pid: each for root in roots for each in [root, *root.children(recursive=True)]}.values())

    def read(self, name: str) -> dict[int, bytes]:
        """Return `/proc/PID/name` of each of them, but of one that has ended meanwhile."""
        found = {}
        for process in self.processes():
            with suppress(OSError):
                found[process.pid] = Path(f"/proc/{process.pid}/{name}").read_bytes()
        assert len(found) >= 4
        return found

    def sessions(self) -> set[str]:
        """Return the names of those that are not closed."""
        return {view["name"] for view in self.client.sessions() if view["state"] != "closed"}

    def run(self, name: str, code: str) -> None:
        """Run a cell to its end."""
        self.client.run("s", name, code)
        until(lambda: next(run for run in self.client.runs("s") if run["run"] == name)["ended"], f"run {name}")


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    home, runtime = Path(tempfile.mkdtemp(prefix="ciuic-a-")), Path(tempfile.mkdtemp(prefix="ciuic-b-"))
    home.chmod(0o755)
    options = ["--ServerApp.allow_unauthenticated_access=True"]  # what is not guarded by itself is open
    jupyter = start(home, runtime, *options, CIUIC_TOKEN=CANARY)
    try:
        made = Site(home, jupyter)
        jupyter.ask("plane/start", "POST")  # by the server, as a user's click: its environment is the plane's
        made.client.create("s")
        until(lambda: made.client.session("s")["state"] == "running", "a session")
        yield made
        made.client.release("s", discard=True)
    finally:
        stop(jupyter)
        for folder in (home, runtime):
            shutil.rmtree(folder, ignore_errors=True)
