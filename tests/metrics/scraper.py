"""Debian's real Prometheus, with a configuration and a data folder of its own, on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.ui.servers import until

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Vector = list[tuple[dict[str, str], float]]


def needs(program: str) -> str:
    """Return where a program of Debian's Prometheus is; without it these tests fail, they are not skipped."""
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{program} is not installed: `scripts/setup test` installs Debian's prometheus")
    return found


def config(state: Path, labels: dict[str, str], gpus: str) -> dict[str, Any]:
    """Return the example's configuration, at a scrape a second, with `labels` on each series, and a job for `gpus`."""
    text = (EXAMPLES / "prometheus.yml").read_text().replace("STATE_DIR", str(state))
    made: dict[str, Any] = yaml.safe_load(text)
    made["scrape_configs"].append({"job_name": "gpus", "static_configs": [{"targets": [gpus]}]})
    for job in made["scrape_configs"]:
        job["scrape_interval"] = "1s"
        job["relabel_configs"] = [{"target_label": name, "replacement": value} for name, value in labels.items()]
    return made


class Prometheus:
    """A running server; every question goes to its HTTP API."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = log
        self._http = requests.Session()
        self._http.trust_env = False

    def ask(self, path: str, **params: Any) -> Any:
        assert self._process.poll() is None, f"Prometheus ended: {self._log.read_text()[-3000:]}"
        answer = self._http.get(f"{self.url}/api/v1/{path}", params=params, timeout=20).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def query(self, expression: str) -> Vector:
        """Return the instant vector of an expression."""
        data = self.ask("query", query=expression)
        assert data["resultType"] == "vector", data
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def until(self, expression: str) -> float:
        """Wait until an expression has a value."""
        found = until(lambda: self.query(expression), expression)
        return float(found[0][1])

    def ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus did not start: {self._log.read_text()[-3000:]}"
        try:
            return self._http.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False


@contextmanager
def prometheus(folder: Path, made: dict[str, Any]) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration until the end of the block."""
    program = needs("prometheus")
    folder.mkdir()
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(made))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    command = [
        program,
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    try:
        server = Prometheus(port, process, log)
        until(server.ready, "Prometheus' start")
        yield server
    finally:
        process.terminate()
        process.wait(30)


def lint(page: bytes) -> str:
    """Return what promtool finds wrong with a page; it does not say more than that."""
    ran = subprocess.run([needs("promtool"), "check", "metrics"], input=page, capture_output=True, timeout=60)
    return (ran.stdout + ran.stderr).decode()
