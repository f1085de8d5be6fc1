"""Whole machines forked from a warm parent: each is one of its own, and outlives the parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.agent_client import Machine
from tests.kernels.forked_kernel import is_alive, wait_until
from tests.kernels.test_warm import Warm


class Forked:
    """A process that is no child of ours, with the part of Popen's face that a Machine uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return None if is_alive(self.pid) else 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> None:
        wait_until(lambda: self.poll() is not None, timeout)


class WarmMachine(Machine):
    """A machine whose agent is forked by a warm parent instead of being started."""

    def __init__(self, root: Path, warm: Warm, **config: Any) -> None:
        root.mkdir()
        self._warm = warm
        super().__init__(root, **config)

    def start(self, file: Path) -> Forked:
        return Forked(self._warm.fork(file)["pid"])


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    made = Warm(tmp_path_factory.mktemp("warm"), "numpy,torch")
    yield made
    made.close()


DRAW = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item())"


def test_two_machines_of_one_parent_share_no_random_numbers(warm: Warm, tmp_path: Path) -> None:
    drawn: list[str] = []
    for name in "ab":
        machine = WarmMachine(tmp_path / name, warm)
        try:
            plane = machine.connect().ready()
            assert plane.run(DRAW)["status"] == "ok"
            drawn += plane.text().split()
            plane.close()
        finally:
            machine.end()
    assert len(set(drawn)) == 6


def test_a_machine_saves_and_another_one_goes_on(warm: Warm, tmp_path: Path) -> None:
    look = "print(torch.rand(3).tolist(), note, same[0] is model.weight)"
    first = WarmMachine(tmp_path / "a", warm)
    try:
        plane = first.connect().ready()
        made = plane.run("import torch; model = torch.nn.Linear(3, 3); same = [model.weight]; note = 'kept'")
        assert made["status"] == "ok"
        saved = plane.call("save")
        plane.run(look)
        expected = plane.text()
        plane.close()
    finally:
        first.end()
    second = WarmMachine(tmp_path / "b", warm, store=first.config["store"], checkpoint=saved["seq"])
    try:
        plane = second.connect().ready()
        plane.run(look)
        assert plane.text() == expected and "kept True" in expected
        plane.close()
    finally:
        second.end()


def test_the_machines_outlive_the_warm_parent(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    warm = Warm(tmp_path / "w", "numpy")
    machine = WarmMachine(tmp_path / "a", warm)
    try:
        plane = machine.connect().ready()
        warm.owner.kill()
        warm.owner.wait()
        wait_until(lambda: warm.process.poll() is not None)
        assert plane.run("print('still here')")["status"] == "ok" and plane.text() == "still here\n"
        plane.close()
    finally:
        machine.end()
        warm.close()
