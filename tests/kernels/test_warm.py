"""A warm parent forks only what is sound to fork, and goes with its owner."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.forked_kernel import ForkedKernel, is_alive, wait_until


class Warm:
    """A warm parent as a provider starts it, owned by a process the test may end."""

    def __init__(self, folder: Path, modules: str, extra_path: Path | None = None) -> None:
        self.socket = folder / "run" / "warm.sock"
        self.owner = subprocess.Popen(["sleep", "600"])
        self.log = folder / "warm.log"
        env = {**os.environ, **({"PYTHONPATH": str(extra_path)} if extra_path else {})}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ciuic_jupyter.kernels.warm", str(self.socket), modules, str(self.owner.pid)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
            )
        wait_until(lambda: self.socket.exists() or self.process.poll() is not None, 60)

    def ask(self, line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(20)
            link.connect(str(self.socket))
            link.sendall(line)
            link.shutdown(socket.SHUT_WR)
            return dict(json.loads(link.makefile("rb").readline()))

    def fork(self, config: Path) -> dict[str, Any]:
        return self.ask(json.dumps({"config": str(config)}).encode() + b"\n")

    def close(self) -> None:
        for process in (self.process, self.owner):
            process.kill()
            process.wait()


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    made = Warm(tmp_path, "numpy,there_is_no_such_module")
    yield made
    made.close()


def test_a_module_that_is_missing_is_left_out_and_the_socket_is_ours_alone(warm: Warm) -> None:
    assert warm.process.poll() is None
    assert "there_is_no_such_module is not preloaded" in warm.log.read_text()
    assert stat.S_IMODE(warm.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(warm.socket.parent.stat().st_mode) == 0o700
    assert len(os.listdir(f"/proc/{warm.process.pid}/task")) == 1


def test_what_is_no_request_is_refused_and_the_next_one_is_answered(warm: Warm, tmp_path: Path) -> None:
    for line in (b"hello\n", b"[]\n", b'{"config": 1}\n', b"{}\n", b""):
        assert warm.ask(line)["error"]["type"] == "UsageError"
    missing = warm.fork(tmp_path / "none.json")
    assert missing["error"]["type"] == "UsageError" and "none.json" in missing["error"]["message"]


def test_a_client_that_says_nothing_keeps_nobody_from_leaving(warm: Warm) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(warm.socket))
        assert warm.ask(b"{}\n")["error"]["type"] == "UsageError"


def test_it_goes_with_its_owner_and_takes_its_socket_along(warm: Warm) -> None:
    warm.owner.kill()
    warm.owner.wait()
    wait_until(lambda: warm.process.poll() is not None)
    assert warm.process.returncode == 0
    assert not warm.socket.exists()


def test_it_forks_nothing_while_a_second_thread_lives(tmp_path: Path) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()"
    )
    config = tmp_path / "agent.json"
    config.write_text("{}")
    warm = Warm(tmp_path, "starts_a_thread", tmp_path)
    try:
        error = warm.fork(config)["error"]
        assert error["type"] == "ProviderError" and "busy" in error["message"] and "cold" in error["message"]
    finally:
        warm.close()


def test_what_it_forked_is_in_a_session_of_its_own_with_a_new_log_and_is_reaped(warm: Warm, tmp_path: Path) -> None:
    config = tmp_path / "machine" / "agent.json"
    config.parent.mkdir()
    config.write_text("{}")  # an agent that can't start: it says so and ends
    pid = warm.fork(config)["pid"]
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    log = (config.parent / "agent.log").read_text()
    assert "UsageError" in log and "config is wrong" in log
    assert "Traceback" not in warm.log.read_text()


def test_settings_that_a_library_reads_when_it_is_loaded_get_a_cold_start(warm: Warm, tmp_path: Path) -> None:
    config = tmp_path / "machine" / "agent.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"env": {"OMP_NUM_THREADS": "7", "PYTHONVERBOSE": "1"}}))
    pid = warm.fork(config)["pid"]
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    # what a new interpreter alone would say
    assert "import 'site'" in (config.parent / "agent.log").read_text()


def test_torch_works_in_a_kernel_forked_from_a_warm_process(tmp_path: Path) -> None:
    before = "from ciuic_jupyter.kernels import warm; warm.load(['numpy', 'torch']); warm.check_forkable()"
    with ForkedKernel(tmp_path / "k", before=before) as kernel:
        client = kernel.client
        client.text("import torch, numpy")
        assert client.value("torch.cuda.is_initialized()") is False
        assert client.value("float((torch.ones(512, 512) @ torch.ones(512, 512)).sum())") == 512.0**3
        assert client.value("float((numpy.ones((512, 512)) @ numpy.ones((512, 512))).sum())") == 512.0**3
        code = "model = torch.nn.Linear(50, 50)\nfor _ in range(3): model(torch.randn(2000, 50)).sum().backward()"
        client.text(code)
        workers = "torch.utils.data.DataLoader(torch.arange(8), batch_size=4, num_workers=2)"
        assert client.value(f"[batch.tolist() for batch in {workers}]") == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_the_parent_keeps_no_secret_of_a_config(warm: Warm, tmp_path: Path) -> None:
    config = tmp_path / "machine" / "agent.json"
    config.parent.mkdir()
    secret = os.urandom(24).hex()
    config.write_text(json.dumps({"token": secret}))
    pid = warm.fork(config)["pid"]
    wait_until(lambda: not is_alive(pid))
    assert _memory_holds(warm.process.pid, str(config).encode()), "the search itself finds nothing"
    assert not _memory_holds(warm.process.pid, secret.encode())


def _memory_holds(pid: int, needle: bytes) -> bool:
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            where, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in where.split("-"))
            memory.seek(start)
            try:
                if needle in memory.read(end - start):
                    return True
            except OSError:
                continue
    return False
