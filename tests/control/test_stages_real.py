"""A real plane, agent and kernel: a stage ends, the kernel is killed, and the cell goes on from behind the stage."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from tests.control.test_pause_real import Viewer, a_plane, until

CELL = """
import os, random, time
from ciuic_jupyter.train import stage
random.seed(3)
print("pid", os.getpid())
def train(epoch):
    drawn = [random.random() for _ in range(3)]
    if epoch == 2:
        stage("warm-up")
    while epoch == 4 and not os.path.exists(GATE):  # it is killed here, and comes here again
        time.sleep(0.02)
    return drawn[-1]
for epoch in range(8):
    print(epoch, train(epoch))
print("end")
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneClient]:
    monkeypatch.setenv("CIUIC_EARLIER_CHECKPOINTS", "1")
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-stages-{os.getpid()}")
    yield from a_plane()


def notes(viewer: Viewer) -> list[str]:
    return [str(event["text"]) for event in list(viewer.events) if event["kind"] == "note"]


def test_a_killed_kernel_goes_on_from_the_end_of_its_last_stage(client: PlaneClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", CELL.replace("GATE", repr(str(gate))))
    until(lambda: bool(notes(viewer)) and "\n3 0." in viewer.text)
    assert re.fullmatch(r"stage warm-up saved at \d\d:\d\d:\d\d", *notes(viewer))
    assert (client.session("s")["state"], client.session("s")["checkpoint"]["run"]) == ("running", "r")
    os.kill(int(viewer.text.split()[1]), signal.SIGKILL)
    until(lambda: client.session("s")["state"] == "paused")
    assert client.runs("s")[-1]["status"] == "suspended"
    gate.touch()
    client.resume("s", wait=True)
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    until(lambda: viewer.text.endswith("end\n"))
    drawn = random.Random(3)
    expected = [f"{epoch} {[drawn.random() for _ in range(3)][-1]}" for epoch in range(8)]
    assert viewer.text.splitlines()[1:] == [*expected, "end"]
    for name in ("a", "b"):  # with no boundary: saved behind the cell
        client.run("s", name, f"stage({name!r})")
        until(lambda name=name: notes(viewer)[-1].startswith(f"stage {name} saved at "))  # type: ignore[misc]
    newest = client.pause("s")["checkpoint"]["seq"]
    (manifests,) = (tmp_path / "state" / "checkpoints").glob("*/manifests")
    kept = sorted(int(path.stem) for path in manifests.glob("*.json"))
    assert kept == [newest - 1, newest] and newest > 3, "the earlier ones were swept"
