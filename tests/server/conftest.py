"""A real Jupyter server with the extension, under a prefix as JupyterHub gives one, and a control plane of its own."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.settings import Settings
from tests.ui.servers import environment, until

PREFIX = "/hub/user/alice/"


@dataclass
class Jupyter:
    """A running Jupyter server: `base` ends with the extension's own `ciuic/`."""

    base: str
    token: str
    process: subprocess.Popen[bytes]
    env: dict[str, str]
    log: Path

    @property
    def settings(self) -> Settings:
        state, runtime = self.env["CIUIC_STATE_DIR"], self.env["CIUIC_RUNTIME_DIR"]
        return Settings(state_dir=Path(state), runtime_dir=Path(runtime))

    def plane(self) -> PlaneClient:
        """Return a client of the plane of this server, started if need be."""
        return PlaneClient.ensure(self.settings)

    def ask(self, path: str, method: str = "GET", **options: Any) -> requests.Response:
        """Call a route as Jupyter's own pages do, with the token."""
        headers = {"Authorization": f"token {self.token}"} | options.pop("headers", {})
        return requests.request(method, f"{self.base}{path}", headers=headers, timeout=30, **options)

    def socket(self, path: str = "watch") -> str:
        return f"{self.base.replace('http', 'ws', 1)}{path}"


def start(home: Path, runtime: Path, *arguments: str, **variables: str) -> Jupyter:
    """Start `jupyter server` with the extension and return it when it answers."""
    env = {**environment(home, runtime), "CIUIC_WARM_START": "false", **variables}
    token, log = secrets.token_hex(16), home / "server.log"
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={home}",
        f"--ServerApp.base_url={PREFIX}",
        f"--IdentityProvider.token={token}",
        "--ServerApp.jpserver_extensions=ciuic_jupyter=True",
        *arguments,
    ]
    with log.open("wb") as out:
        command = [sys.executable, "-m", "jupyter_server", *options]
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=home)
    known = Path(env["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{process.pid}.json"

    def answers() -> str | None:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            url = str(json.loads(known.read_text())["url"])
            requests.get(f"{url}api", timeout=5).raise_for_status()
        except (OSError, ValueError, requests.RequestException):
            return None
        return url

    return Jupyter(f"{until(answers, 'jupyter server')}ciuic/", token, process, env, log)


def stop(server: Jupyter) -> None:
    """End a server and the plane it may have started."""
    server.process.terminate()
    server.process.wait(20)
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", "stop"]
    subprocess.run(command, env=server.env, check=False, capture_output=True, timeout=60)


@pytest.fixture(scope="package")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """One server for all tests here; undecorated routes would be open to nobody in it."""
    home, runtime = tmp_path_factory.mktemp("jupyter"), Path(tempfile.mkdtemp(prefix="ciuic-s-"))
    server = start(
        home,
        runtime,
        "--ServerApp.allow_unauthenticated_access=True",  # what is not guarded by itself is open
        "--CiuicJupyter.activity_seconds=0.2",
    )
    yield server
    stop(server)
    shutil.rmtree(runtime, ignore_errors=True)
