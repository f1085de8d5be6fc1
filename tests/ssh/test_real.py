"""A real plane and two machines over ssh: a cell begins on one, is paused in its middle, and goes on on the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import OutOfCapacity
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.ssh_machines import SshMachine
from ciuic_jupyter.settings import Settings
from tests.control.test_pause_real import Viewer, ended, until
from tests.ssh.boxes import PYTHON, Box, User

TRAIN = """
import hashlib, time
import numpy as np
rng = np.random.default_rng(7)
np.random.seed(3)
data = rng.normal(size=(256, 8)); target = data @ rng.normal(size=8)
weights, mean, square = np.zeros(8), np.zeros(8), np.zeros(8)
ballast = rng.bytes(3_000_000)
def step(number):
    picked = rng.integers(0, 256, 32)
    noisy = data[picked] + 0.1 * np.random.normal(size=(32, 8))
    error = noisy @ weights - target[picked]
    grad = noisy.T @ error / 32
    mean[:] = 0.9 * mean + 0.1 * grad
    square[:] = 0.999 * square + 0.001 * grad**2
    weights[:] -= 0.05 * mean / (np.sqrt(square) + 1e-8)
    return float((error**2).mean())
for number in range(60):
    time.sleep(PAUSE)
    print(number, step(number).hex())
print("end", hashlib.sha256(weights.tobytes() + ballast).hexdigest())
"""


@pytest.fixture
def client_at(
    request: pytest.FixtureRequest, user: User, pair: list[Box], plane_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], PlaneClient]]:
    """Starts the plane, with an address for checkpoints or without."""
    monkeypatch.setenv("CIUIC_STATE_DIR", str(plane_home / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-ssh-{os.getpid()}")
    monkeypatch.setenv("CIUIC_WARM_START", "false")
    monkeypatch.setenv("CIUIC_LEASE_SECONDS", "20")  # with a cell that runs, the lease waits for its end
    (plane_home / "state").mkdir(mode=0o700)
    for name, box in zip(("gpu1", "gpu2"), pair, strict=True):
        machine = SshMachine.of(name, f"root@{box.address}", price="0.90", python=PYTHON)
        ssh_machines.add(plane_home / "state" / ssh_machines.FILE, machine)
    pids = []

    def start(checkpoints: str = "") -> PlaneClient:
        if checkpoints:
            monkeypatch.setenv("CIUIC_CHECKPOINT_URL", checkpoints)
        client = PlaneClient.ensure(Settings())
        pids.append(int(client.health()["pid"]))
        return client

    yield start
    if request.session.testsfailed:
        sys.stderr.write((plane_home / "state/plane.log").read_text())
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        until(lambda pid=pid: ended(pid))  # type: ignore[misc]


@pytest.fixture
def client(client_at: Callable[[str], PlaneClient]) -> PlaneClient:
    return client_at("")


COUNT = """
import os, time
number = 0
while not os.path.exists(os.path.expanduser("~/stop")):
    number += 1
    print("at", number, flush=True)
    with open(os.path.expanduser("~/.count"), "w") as file:
        file.write(str(number))
    os.replace(os.path.expanduser("~/.count"), os.path.expanduser("~/count"))
    time.sleep(0.1)
"""


def never_paused() -> str:
    """Return what the cell prints in one go, in a process of its own."""
    code = TRAIN.replace("PAUSE", "0")
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


def test_paused_in_mid_cell_on_one_machine_it_goes_on_on_the_other(
    client: PlaneClient, pair: list[Box], plane_home: Path
) -> None:
    one, two = pair
    client.create("s", instance="gpu1")
    viewer = Viewer(client, "s")
    client.run("s", "r", TRAIN.replace("PAUSE", "0.1"))
    until(lambda: "\n3 " in viewer.text)
    assert one.processes("ciuic_jupyter.kernels.agent")
    assert not two.processes("ciuic_jupyter")
    view = client.pause("s")
    assert (view["state"], view["rate_nano_per_hour"]) == ("paused", 0)
    assert view["suspended"]["run"] == "r"
    assert not one.processes("ciuic_jupyter"), "something of ours is left on the machine"
    mine = (plane_home / "state/key").read_text().strip()
    assert bytes.fromhex(mine)
    for path in one.home.rglob("*"):  # the user's key never came here, what an agent had to know is gone with it
        if path.is_file():
            text = path.read_bytes()
            assert mine.encode() not in text and bytes.fromhex(mine) not in text and b"key_hex" not in text, path
    one.crash()
    with pytest.raises(OutOfCapacity, match="gpu1, gpu2"):
        client.resume("s", instance="gpu3")
    client.resume("s", instance="gpu2")
    until(lambda: client.runs("s")[-1]["status"] == "ok" and "end" in viewer.text)
    assert two.processes("ciuic_jupyter.kernels.agent")
    assert viewer.text == never_paused()
    assert client.close_session("s")["state"] == "closed"
    assert not two.processes("ciuic_jupyter")
    cost = client.cost("s")
    assert cost["rate_nano_per_hour"] == 0
    assert not cost["estimated"]
    assert [receipt["estimated"] for receipt in client.receipts("s")] == [False, False]


def counted(box: Box) -> int:
    """Return how far the cell of COUNT has come, looked at from behind."""
    try:
        return int((box.home / "count").read_text())
    except FileNotFoundError:
        return 0


def lines(viewer: Viewer) -> list[str]:
    return viewer.text.splitlines()


def test_without_a_line_the_cell_goes_on_and_outputs_continue_by_number(client: PlaneClient, pair: list[Box]) -> None:
    one, two = pair
    client.create("s", instance="gpu1")
    viewer = Viewer(client, "s")
    client.run("s", "count", COUNT)
    until(lambda: "at 3\n" in viewer.text)
    [log] = one.home.rglob("agent.log")
    one.part()
    until(lambda: not client.session("s")["line"])
    until(lambda: "the plane is not heard any more" in log.read_text())
    until(lambda: "still billed" in client.session("s")["message"])
    assert client.session("s")["rate_nano_per_hour"] == 900_000_000
    unheard = counted(one)
    until(lambda: counted(one) > unheard + 3)
    one.heal()
    until(lambda: client.session("s")["line"])
    back = counted(one)
    until(lambda: f"at {back}\n" in viewer.text)
    assert client.session("s")["message"] == ""
    assert lines(viewer)[:back] == [f"at {number}" for number in range(1, back + 1)]

    one.part()  # and this time for good: the lease runs out, the machine saves and stops itself
    until(lambda: not client.session("s")["line"])
    parted = time.time()
    (one.home / "stop").touch()
    until(lambda: not one.processes("ciuic_jupyter"))
    assert client.session("s")["rate_nano_per_hour"] == 900_000_000, "nobody here can know yet"
    left, healed = counted(one), time.time()
    one.heal()
    until(lambda: client.session("s")["state"] == "paused")
    [receipt] = client.receipts("s")
    assert receipt["reason"] == "lease"
    assert not receipt["estimated"]
    assert parted < receipt["at"] <= healed, "the bill ends when the machine did, not when we heard of it"
    until(lambda: f"at {left}\n" in viewer.text)
    assert lines(viewer)[:left] == [f"at {number}" for number in range(1, left + 1)], "what it printed unheard"

    client.create("s", instance="gpu2")
    client.run("s", "show", "print('number is', number)")
    until(lambda: f"number is {left}\n" in viewer.text)
    assert two.processes("ciuic_jupyter.kernels.agent")
    client.close_session("s")


def test_with_an_address_for_checkpoints_machines_meet_there(
    folder: Path, client_at: Callable[[str], PlaneClient], pair: list[Box], plane_home: Path
) -> None:
    one, two = pair
    (folder / "shared").mkdir(mode=0o700)
    client = client_at(f"file://{folder}/shared")
    client.create("s", instance="gpu1")
    viewer = Viewer(client, "s")
    client.run("s", "make", "kept = bytes(range(256)) * 9000")
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    assert client.pause("s")["state"] == "paused"
    assert not list((plane_home / "state").glob("checkpoints/*/chunks/*.pack")), "it went there, not through here"
    one.crash()
    client.resume("s", instance="gpu2", wait=True)
    client.run("s", "show", "print('sum', sum(kept))")
    until(lambda: f"sum {sum(range(256)) * 9000}\n" in viewer.text)
    client.close_session("s")
    assert not two.processes("ciuic_jupyter")
