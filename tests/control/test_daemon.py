"""Exactly one plane per user: twenty starters at once, strangers on its port, private files, a plane that survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from ciuic_jupyter.control import daemon
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import PlaneUnavailable, UsageError
from ciuic_jupyter.settings import Settings

STARTER = """
from ciuic_jupyter.control.client import PlaneClient
print(PlaneClient.ensure().health()["pid"])
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    runtime = tempfile.mkdtemp(prefix="ciuic-d-")
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", runtime)
    monkeypatch.setenv("CIUIC_WARM_START", "false")
    yield Settings()
    found = daemon.find(Settings())
    if found is not None:
        pid = PlaneClient(*found).health()["pid"]
        PlaneClient(*found).shutdown()
        gone(pid)
    shutil.rmtree(runtime, ignore_errors=True)


def gone(pid: int) -> None:
    """Wait for a process that is not our child to end."""
    try:
        psutil.Process(pid).wait(20)
    except psutil.NoSuchProcess:
        return


def test_twenty_starters_at_once_find_one_plane(settings: Settings) -> None:
    starters = [
        subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    answers = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 20, answers
    assert len({out for out, _ in answers}) == 1
    planes = [
        process.pid
        for process in psutil.process_iter(["cmdline", "environ"])
        if "ciuic_jupyter.control.daemon" in (process.info["cmdline"] or [])
        and (process.info["environ"] or {}).get("CIUIC_STATE_DIR") == str(settings.state_dir)
    ]
    assert [str(pid) for pid in planes] == [answers[0][0].strip()]


def test_it_outlives_who_started_it_and_its_files_are_private(settings: Settings) -> None:
    out = subprocess.run([sys.executable, "-c", STARTER], capture_output=True, text=True, check=True, timeout=60).stdout
    found = daemon.find(settings)
    assert found is not None
    assert PlaneClient(*found).health()["pid"] == int(out)
    assert os.getsid(int(out)) == int(out)
    for path in [settings.state_dir, *settings.state_dir.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    known = json.loads((settings.state_dir / "plane.json").read_text())
    argv = Path(f"/proc/{out.strip()}/cmdline").read_bytes() + Path(f"/proc/{out.strip()}/environ").read_bytes()
    assert known["token"].encode() not in argv


def test_after_kill_9_the_next_call_starts_another(settings: Settings) -> None:
    first = PlaneClient.ensure(settings)
    pid = first.health()["pid"]
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    assert daemon.find(settings) is None
    with pytest.raises(PlaneUnavailable, match="ciuic serve"):
        first.health()
    assert PlaneClient.ensure(settings).health()["pid"] != pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(settings: Settings, number: signal.Signals) -> None:
    client = PlaneClient.ensure(settings)
    pid = client.health()["pid"]
    os.kill(pid, number)
    if number is signal.SIGHUP:  # the terminal that started it was closed
        assert client.health()["pid"] == pid
        return
    gone(pid)
    assert not (settings.state_dir / "plane.json").exists()
    assert not list(settings.state_dir.glob("ledger.db-*")), "the ledger was not closed"
    assert "Traceback" not in (settings.state_dir / "plane.log").read_text()


def test_modules_of_the_folder_it_is_started_in_are_not_its_own(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('not the one you wanted')")
    monkeypatch.chdir(tmp_path)
    assert PlaneClient.ensure(settings).health()["pid"]


def test_a_second_plane_on_the_same_state_refuses(settings: Settings) -> None:
    PlaneClient.ensure(settings)
    assert daemon.take_lock(settings) is None


def test_a_stranger_on_the_port_never_sees_the_token(settings: Settings) -> None:
    seen: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path + str(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"proof": "made up"}')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.state_dir.mkdir(mode=0o700)
    daemon.announce(settings, f"http://127.0.0.1:{server.server_port}", "secret-token")
    assert daemon.find(settings) is None
    server.shutdown()
    server.server_close()
    assert seen
    assert not any("secret-token" in line for line in seen)


def test_a_port_where_nobody_listens_is_no_plane(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings.state_dir.mkdir(mode=0o700)
    daemon.announce(settings, f"http://127.0.0.1:{port}", "t")
    assert daemon.find(settings) is None


def test_folders_of_others_and_links_are_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="not a directory of yours"):
        daemon.take_lock(settings.model_copy(update={"state_dir": tmp_path / "link"}))


def test_a_url_without_a_token_says_what_to_set(settings: Settings) -> None:
    with pytest.raises(UsageError, match="CIUIC_TOKEN"):
        daemon.find(settings.model_copy(update={"url": "http://127.0.0.1:1"}))


def test_a_plane_that_can_not_start_says_why(settings: Settings) -> None:
    settings.state_dir.mkdir(mode=0o700)
    (settings.state_dir / "ledger.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(PlaneUnavailable, match="ledger"):
        PlaneClient.ensure(settings)
