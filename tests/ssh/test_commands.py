"""Machines that commands switch on and off: what proves a stop, and what a start that fails leaves."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ciuic_jupyter.errors import HostKeyRefused, OutOfCapacity, ProviderError
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.base import Intent, MachineState, Offer
from ciuic_jupyter.providers.ssh import SshPlaces, SshProvider
from ciuic_jupyter.providers.ssh_machines import SshMachine
from tests.ssh.boxes import PYTHON, Box, User

TAG = "ours"


class Cloud:
    """Switches a box by what commands write, as a cloud does by what its CLI asks; `bill` counts its starts."""

    def __init__(self, box: Box, folder: Path) -> None:
        self.box, self.folder, self.bill = box, folder, 0
        (folder / "state").write_text("stopped")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def machine(self, **other: str) -> SshMachine:
        commands = {
            "start": f"echo on > {self.folder}/wish",
            "stop": f"echo off > {self.folder}/wish",
            "status": f"cat {self.folder}/state",
        }
        return SshMachine("gpu1", f"root@{self.box.address}", python=PYTHON, **{**commands, **other})

    def _work(self) -> None:
        while not self._over.wait(0.02):
            wish = ""
            with suppress(FileNotFoundError):
                wish = (self.folder / "wish").read_text().strip()
            if wish == "on" and not self.box.runs:
                self._say("pending")
                self.box.boot()
                self.bill += 1
                self._say("running")
            elif wish == "off" and self.box.runs:
                self.box.crash()
                self._say("terminated")

    def _say(self, state: str) -> None:
        temporary = self.folder / ".state"
        temporary.write_text(f'"{state}"\n')
        temporary.replace(self.folder / "state")

    def close(self) -> None:
        self._over.set()
        self._thread.join(60)


@pytest.fixture
def cloud(user: User, pair: list[Box], plane_home: Path) -> Iterator[Cloud]:
    pair[0].crash()
    made = Cloud(pair[0], plane_home)
    yield made
    made.close()


@pytest.fixture
async def provider(cloud: Cloud, plane_home: Path) -> AsyncIterator[SshProvider]:
    sockets = Path(tempfile.mkdtemp(prefix="ciuic-p-"))
    made = SshProvider(SshPlaces(plane_home / ssh_machines.FILE, plane_home / "notes", sockets), start_seconds=60)
    yield made
    await made.close()
    shutil.rmtree(sockets, ignore_errors=True)


def intent(plane_home: Path, number: str = "one") -> Intent:
    config = {"session": "s", "token": "t" * 32, "key_hex": "00" * 32, "store": str(plane_home / "store")}
    return Intent(number, "s", Offer("gpu1", "ssh", 1), TAG, config)


async def gone(provider: SshProvider, machine: str) -> str:
    async with asyncio.timeout(60):
        while True:
            await provider.stop(machine)
            found = await provider.look(machine)
            assert found is not None
            if found.state is MachineState.STOPPED:
                return found.detail
            await asyncio.sleep(0.05)


async def test_it_is_switched_on_used_by_one_and_gone_when_the_cloud_says_so(
    provider: SshProvider, cloud: Cloud, plane_home: Path
) -> None:
    ssh_machines.add(plane_home / ssh_machines.FILE, cloud.machine())
    machine = await provider.start(intent(plane_home))
    assert (machine.state, cloud.bill, cloud.box.runs) == (MachineState.RUNNING, 1, True)
    with pytest.raises(OutOfCapacity, match="gpu1 is used by session s"):
        await provider.start(intent(plane_home, "two"))
    ssh_machines.remove(plane_home / ssh_machines.FILE, "gpu1")  # it is stopped as it was known when it started

    [lock] = cloud.box.home.rglob("machines/one/lock")
    os.kill(cloud.box.outer_pid(json.loads(lock.read_text())["pid"]), signal.SIGKILL)
    async with asyncio.timeout(60):
        while not (found := await provider.look("one")) or not found.ended:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert found.state is MachineState.RUNNING, "without its agent it costs as much"
    assert [one.id for one in await provider.list(TAG)] == ["one"]
    assert await gone(provider, "one") == "its status command says it is gone"
    assert (cloud.box.runs, cloud.bill, await provider.list(TAG)) == (False, 1, [])


async def test_a_status_that_tells_nothing_proves_nothing(
    provider: SshProvider, cloud: Cloud, plane_home: Path
) -> None:
    script = plane_home / "status"
    script.write_text(f"cat {cloud.folder}/state")
    ssh_machines.add(plane_home / ssh_machines.FILE, cloud.machine(status=f"sh {script}"))
    await provider.start(intent(plane_home))
    for nothing in ("false", "cat state >&2", "echo terminated; exit 1", "true"):
        script.write_text(nothing)
        found = await provider.look("one")
        assert found is not None
        assert (found.state, found.stopped_at) == (MachineState.UNKNOWN, None)
        assert "told nothing" in found.detail
    script.write_text(f"cat {cloud.folder}/state")
    await gone(provider, "one")


async def test_a_start_that_fails_costs_nothing_when_it_is_told(
    provider: SshProvider, cloud: Cloud, user: User, plane_home: Path
) -> None:
    listed = plane_home / ssh_machines.FILE
    ssh_machines.add(listed, cloud.machine(start="echo no quota left >&2; exit 1"))
    with pytest.raises(ProviderError, match=r"start command of gpu1 failed \(exit code 1\): no quota left"):
        await provider.start(intent(plane_home))
    ssh_machines.remove(listed, "gpu1")
    user.trusts()  # it comes up with a host key that nobody knows
    ssh_machines.add(listed, cloud.machine())
    with pytest.raises(HostKeyRefused, match="not in known_hosts"):
        await provider.start(intent(plane_home, "two"))
    await gone(provider, "two")
    assert not cloud.box.runs
