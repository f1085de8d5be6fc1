"""Real Jupyter servers for browser tests, each with directories of its own and a token."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import requests

from tests.ipykernels import VERSIONS, write_kernelspec


def until(found: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return what `found` returns once it is true; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.05)


def environment(home: Path, runtime: Path) -> dict[str, str]:
    """Return an environment in which Jupyter, IPython and the control plane touch nothing outside `home`."""
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "CIUIC_STATE_DIR": "state",
        "MPLCONFIGDIR": "mpl",
    }
    own = {name: str(home / place) for name, place in places.items()}
    for place in own.values():
        Path(place).mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "CIUIC", "JPY"))}
    return {**kept, **own, "CIUIC_RUNTIME_DIR": str(runtime)}


@dataclass
class Server:
    """A running Jupyter server."""

    url: str
    token: str
    root: Path
    process: subprocess.Popen[bytes]
    env: dict[str, str]
    log: Path

    def ask(self, path: str, method: str = "GET", **fields: Any) -> Any:
        """Call the server's REST interface."""
        answer = requests.request(
            method, f"{self.url}{path}", headers={"Authorization": f"token {self.token}"}, timeout=20, **fields
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def write(self, name: str, cells: list[str], kernel: str) -> None:
        """Write a notebook with these code cells."""
        notebook = nbformat.v4.new_notebook()
        notebook.cells = [nbformat.v4.new_code_cell(cell, id=f"cell{at}") for at, cell in enumerate(cells)]
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(notebook, self.root / name)

    def logs(self, length: int = 1500) -> dict[str, str]:
        """Return the last characters of this server's log and of its control plane's, by name."""
        files = {"the server's log": self.log, "the plane's log": Path(self.env["CIUIC_STATE_DIR"]) / "plane.log"}
        return {name: file.read_text(errors="replace")[-length:] for name, file in files.items() if file.exists()}

    def stop(self) -> None:
        """End the server and its kernels."""
        for kernel in self.ask("api/kernels"):
            self.ask(f"api/kernels/{kernel['id']}", "DELETE")
        self.process.terminate()
        self.process.wait(20)


def start(app: str, home: Path, runtime: Path, *arguments: str, **variables: str) -> Server:
    """Start `jupyterlab` or `notebook` and return it when it answers."""
    env = {**environment(home, runtime), **variables}
    settings = Path(env["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    for version in VERSIONS:
        write_kernelspec(version, Path(env["JUPYTER_DATA_DIR"]))
    root = home / "notebooks"
    root.mkdir(exist_ok=True)
    token = secrets.token_hex(16)
    log = home / "server.log"
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={token}",
        f"--{'LabApp' if app == 'jupyterlab' else 'JupyterNotebookApp'}.expose_app_in_browser=True",
        *arguments,
    ]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", app, *options], env=env, stdout=out, stderr=out, cwd=root)
    known = Path(env["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{process.pid}.json"

    def answers() -> str | None:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            url = str(json.loads(known.read_text())["url"])
            requests.get(f"{url}api", timeout=5).raise_for_status()
        except (OSError, ValueError, requests.RequestException):
            return None
        return url

    return Server(until(answers, f"{app} start"), token, root, process, env, log)
