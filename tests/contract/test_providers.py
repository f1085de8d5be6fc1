"""One suite for every provider: what the plane may rely on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ciuic_jupyter.control.clock import FakeClock
from ciuic_jupyter.errors import OutOfCapacity, ProviderError
from ciuic_jupyter.kernels.eventlog import left
from ciuic_jupyter.kernels.protocol import decode
from ciuic_jupyter.monitor.proof import hold_lock
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.base import Intent, MachineState, Offer, Provider, Remembers, Tidies
from ciuic_jupyter.providers.fake import FakeProvider
from ciuic_jupyter.providers.local import LocalPlaces, LocalProvider
from ciuic_jupyter.providers.ssh import SshPlaces, SshProvider
from ciuic_jupyter.providers.ssh_machines import SshMachine
from tests.ssh.boxes import PYTHON, Box, User, boxes, needs

TAG = "our-tag"
A1, B2 = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("a1", "b2"))  # a machine's processes are found by its id


class Setup:
    """A provider, an order for it, and what differs: how a machine is lost, and what time it is there."""

    def __init__(
        self,
        provider: Provider,
        intent: Callable[[str], Intent],
        lose: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self.provider, self.intent, self.lose, self.now = provider, intent, lose, now


def fake(directory: Path) -> Setup:
    clock = FakeClock()
    offer = Offer("fake.1", "fake", 1)
    provider = FakeProvider(clock.wall, directory / "agent.sock", [offer])

    async def lose(machine: str) -> None:
        provider.vanish(machine)

    return Setup(provider, lambda number: Intent(number, "s", offer, TAG), lose, clock.wall)


def local(directory: Path) -> Setup:
    sockets = Path(tempfile.mkdtemp(prefix="ciuic-p-"))
    offer = Offer("local.cpu", "local", 1)
    provider = LocalProvider(LocalPlaces(directory / "machines", sockets), [offer])
    config = {"session": "s", "token": "t" * 32, "key_hex": "00" * 32, "store": str(directory / "store")}

    async def lose(machine: str) -> None:
        lock = directory / "machines" / machine / "lock"
        from ciuic_jupyter.monitor import proof

        agent = proof.holder(lock)
        assert agent is not None
        process = psutil.Process(agent.pid)
        process.kill()
        async with asyncio.timeout(20):
            while (found := await provider.look(machine)) is None or found.state is not MachineState.STOPPED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    return Setup(provider, lambda number: Intent(number, "s", offer, TAG, config), lose, time.time)


def ssh(directory: Path, pair: list[Box]) -> Setup:
    """One machine an order: a machine takes one session at a time."""
    listed = directory / ssh_machines.FILE
    for name, box in zip((A1, B2), pair, strict=True):
        ssh_machines.add(listed, SshMachine(name, f"root@{box.address}", python=PYTHON))
    places = SshPlaces(listed, directory / "notes", Path(tempfile.mkdtemp(prefix="ciuic-p-")))
    provider = SshProvider(places)
    config = {"session": "s", "token": "t" * 32, "key_hex": "00" * 32, "store": str(directory / "store")}

    async def lose(machine: str) -> None:
        [(box, lock)] = [(box, path) for box in pair for path in box.home.rglob(f"machines/{machine}/lock")]
        os.kill(box.outer_pid(json.loads(lock.read_text())["pid"]), signal.SIGKILL)
        async with asyncio.timeout(60):
            while (found := await provider.look(machine)) is None or found.state is not MachineState.STOPPED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def intent(number: str) -> Intent:
        return Intent(number, "s", Offer(number, "ssh", 1), TAG, config)

    return Setup(provider, intent, lose, time.time)


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Box]]:
    """Two machines to ssh to, and a user of theirs whose home is this process's."""
    why = needs()
    if why is not None:
        pytest.skip(f"no machines to ssh to: {why}")
    folder = Path(tempfile.mkdtemp(prefix="cb-"))
    user = User(folder / "user")
    try:
        with boxes(folder, [user.home]) as made, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(user.home))
            patch.delenv("SSH_AUTH_SOCK", raising=False)
            for box in made:
                user.may_use(box)
            user.trusts(*made)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


MADE = [fake, local, pytest.param(ssh, marks=pytest.mark.ssh)]


@pytest.fixture(params=MADE, ids=lambda make: make.__name__)
async def setup(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Setup]:
    far = request.getfixturevalue("pair") if request.param is ssh else []
    made: Setup = ssh(tmp_path, far) if far else request.param(tmp_path)
    yield made
    for machine in await made.provider.list(TAG):
        await stopped(made, machine.id)
    assert await made.provider.list(TAG) == []
    if isinstance(made.provider, LocalProvider | SshProvider):
        shutil.rmtree(made.provider._places.sockets, ignore_errors=True)
    if isinstance(made.provider, SshProvider):
        await made.provider.close()
    for box in far:
        assert not box.processes("ciuic_jupyter")
        shutil.rmtree(box.home / ".local", ignore_errors=True)


async def stopped(setup: Setup, machine: str) -> None:
    async with asyncio.timeout(60):
        while True:
            await setup.provider.stop(machine)
            found = await setup.provider.look(machine)
            if found is None or found.state is MachineState.STOPPED:
                return


async def test_a_life(setup: Setup) -> None:
    before = setup.now()
    machine = await setup.provider.start(setup.intent(A1))
    assert machine.state in (MachineState.STARTING, MachineState.RUNNING)
    assert (machine.intent, machine.tag) == (A1, TAG)
    assert before <= machine.created_at <= setup.now()
    assert [found.id for found in await setup.provider.list(TAG)] == [machine.id]
    assert (await setup.provider.connect(machine.id)).path.name == "agent.sock"
    await stopped(setup, machine.id)
    end = await setup.provider.look(machine.id)
    assert end is not None
    assert end.stopped_at is not None
    assert machine.created_at <= end.stopped_at <= setup.now()
    assert await setup.provider.list(TAG) == []


async def test_one_intent_is_one_machine(setup: Setup) -> None:
    first, again = await asyncio.gather(*(setup.provider.start(setup.intent(A1)) for _ in range(2)))
    later = await setup.provider.start(setup.intent(A1))
    assert first.id == again.id == later.id
    assert first.created_at == later.created_at
    assert len(await setup.provider.list(TAG)) == 1


async def test_a_stop_may_be_asked_again(setup: Setup) -> None:
    machine = await setup.provider.start(setup.intent(A1))
    await stopped(setup, machine.id)
    end = await setup.provider.look(machine.id)
    await setup.provider.stop(machine.id)
    assert await setup.provider.look(machine.id) == end


async def test_a_stopped_machine_does_not_start_again(setup: Setup) -> None:
    machine = await setup.provider.start(setup.intent(A1))
    await stopped(setup, machine.id)
    again = await setup.provider.start(setup.intent(A1))
    assert again.state is MachineState.STOPPED
    assert await setup.provider.list(TAG) == []


async def test_what_never_was(setup: Setup) -> None:
    assert await setup.provider.look("never") is None
    await setup.provider.stop("never")
    assert await setup.provider.list("another tag") == []


async def test_other_tags_are_not_listed(setup: Setup) -> None:
    machine = await setup.provider.start(setup.intent(A1))
    for other in (TAG.upper(), TAG[:-1], TAG + " ", ""):
        assert await setup.provider.list(other) == []
    assert len(await setup.provider.list(TAG)) == 1
    assert machine.tag == TAG


async def test_a_lost_machine_is_seen_stopped_at_its_last_proof_of_life(setup: Setup) -> None:
    machine = await setup.provider.start(setup.intent(A1))
    await setup.lose(machine.id)
    found = await setup.provider.look(machine.id)
    assert found is not None
    assert found.state is MachineState.STOPPED
    assert found.stopped_at is not None
    assert machine.created_at <= found.stopped_at <= setup.now()
    assert await setup.provider.list(TAG) == []


async def test_what_a_lost_machine_s_agent_wrote_can_be_had(setup: Setup, tmp_path: Path) -> None:
    if not isinstance(setup.provider, Remembers):
        assert isinstance(setup.provider, FakeProvider)
        return
    target = tmp_path / "left"
    target.mkdir()
    await setup.provider.events("never-was", target, 0)
    machine = await setup.provider.start(setup.intent(A1))
    async with asyncio.timeout(60):
        while "ready" not in [header.get("state") for header in await events(setup.provider, machine.id, target)]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await setup.lose(machine.id)
    found = await events(setup.provider, machine.id, target)
    assert [header["seq"] for header in found] == list(range(1, len(found) + 1))
    assert "ready" in [header.get("state") for header in found]
    await stopped(setup, machine.id)
    assert await events(setup.provider, machine.id, target) == found


async def test_a_stopped_machine_leaves_nothing_once_it_is_forgotten_and_a_living_one_stays(
    setup: Setup, tmp_path: Path
) -> None:
    if not isinstance(setup.provider, Tidies):
        assert setup.provider.name in ("fake", "ssh"), "nothing of theirs is here"
        return
    gone = await setup.provider.start(setup.intent(A1))
    there = await setup.provider.start(setup.intent(B2))
    await setup.provider.forget(gone.id)
    assert [machine.id for machine in await setup.provider.list(TAG)] == [gone.id, there.id], "both live"
    await stopped(setup, gone.id)
    for _ in range(2):  # what was found to be gone is not looked at again
        assert [machine.id for machine in await setup.provider.list(TAG)] == [there.id]
    assert (await setup.provider.look(gone.id)) is not None, "its logs stay for a while"
    with hold_lock(tmp_path / "machines" / gone.id / "lock"):  # it was only slow to be born
        assert [machine.id for machine in await setup.provider.list(TAG)] == [gone.id, there.id]
    for machine in (gone.id, there.id, "never-was"):
        await setup.provider.forget(machine)
    assert await setup.provider.left() == {there.id}
    assert await setup.provider.look(gone.id) is None
    assert [machine.id for machine in await setup.provider.list(TAG)] == [there.id]


async def events(provider: Remembers, machine: str, target: Path) -> list[dict[str, Any]]:
    await provider.events(machine, target, 0)
    return [decode(frame).header for _, frame in left(target, 0)]


async def test_two_machines_don_t_know_each_other(setup: Setup) -> None:
    one = await setup.provider.start(setup.intent(A1))
    two = await setup.provider.start(setup.intent(B2))
    await stopped(setup, one.id)
    assert [machine.id for machine in await setup.provider.list(TAG)] == [two.id]


async def test_offers_are_priced(setup: Setup) -> None:
    for offer in await setup.provider.offers():
        assert offer.price_nano_per_hour >= 0
        assert offer.unit_seconds >= 1
        assert offer.provider == setup.provider.name


async def test_no_capacity_is_an_error_of_its_own_and_starts_nothing(tmp_path: Path) -> None:
    here = fake(tmp_path)
    assert isinstance(here.provider, FakeProvider)
    here.provider.faults.no_capacity = 1
    with pytest.raises(OutOfCapacity):
        await here.provider.start(here.intent(A1))
    nearby = local(tmp_path)
    unknown = Intent(A1, "s", Offer("gpu.9", "local", 1), TAG)
    with pytest.raises(OutOfCapacity, match=r"local\.cpu"):
        await nearby.provider.start(unknown)
    assert not (tmp_path / "machines").exists()


@pytest.mark.parametrize("machine", ["../x", "a/b", "", "a\0b", "."])
async def test_ids_that_leave_the_folder_are_refused(tmp_path: Path, machine: str) -> None:
    with pytest.raises(ProviderError):
        await local(tmp_path).provider.look(machine)
