"""Disks of machines: checkpoints that are brought here are swept here, and what an agent said unheard is heard."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.core.session import State
from ciuic_jupyter.providers.base import Intent
from ciuic_jupyter.providers.fake import FakeProvider
from ciuic_jupyter.providers.files import behind
from tests.control.conftest import Cloud, reach, until
from tests.control.test_plane_edges import cut_off, ends


class Elsewhere(FakeProvider):
    """Its machines write checkpoints in a folder of their own."""

    disk: Path

    async def bring(self, machine: str, store: Path, key: bytes, seq: int | None) -> int:
        """Copy a checkpoint as the ssh provider does, from file to file."""
        remote = Remote(self.disk.as_uri())
        newest = max(remote.manifests(), default=None) if seq is None else seq
        return 0 if newest is None else await asyncio.to_thread(remote.fetch, Store(store), newest, key)


class Remembering(FakeProvider):
    """The logs of its machines can be had when they are gone."""

    logs: Path

    async def events(self, machine: str, target: Path, after: int) -> None:
        """Copy what a machine's agent wrote, as the local provider does."""
        for name in behind(os.listdir(self.logs / machine), after):
            shutil.copyfile(self.logs / machine / name, target / name)


@pytest.fixture
async def remembering(cloud: Cloud, tmp_path: Path) -> AsyncIterator[Cloud]:
    """Yield a cloud whose machines' logs are copied aside as they end."""
    await cloud.plane.close()
    made = Remembering(cloud.clock.wall, cloud.agent.socket)
    made.logs = tmp_path / "logs"

    def end(machine: str) -> None:
        assert cloud.agent.log is not None
        shutil.copytree(cloud.agent.log.directory, made.logs / machine)
        cloud.agent.end(machine)

    made.on_start, made.on_stop = cloud.agent.start, end
    cloud.provider = made
    await cloud.begin()
    yield cloud


@pytest.mark.parametrize("restarted", [False, True], ids=["the line was cut", "the plane was killed"])
async def test_what_an_agent_said_unheard_before_it_left_is_heard(remembering: Cloud, restarted: bool) -> None:
    cloud = remembering
    runner = await cloud.session()
    await runner.submit("r", "hang", None)
    await cloud.agent.emit(kind="stream", run="r", name="stdout", text="heard")
    await until(lambda: [h["text"] for _, h in runner.headers(0) if h["kind"] == "stream"] == ["heard"])
    await cloud.agent.emit(kind="stream", run="r", name="stdout", text="while it went down")
    assert cloud.agent.log is not None
    said = {"run": "r", "count": 1}
    log, machine = cloud.agent.log, cloud.provider.alive[0]
    log.append({"kind": "stream", "name": "stdout", "text": "unheard", **said})
    log.append({"kind": "run_ended", "status": "ok", "seconds": 3.5, **said})
    if restarted:
        await cloud.plane.close()
        cloud.provider.vanish(machine)
        await cloud.begin()
        runner = cloud.plane.runner("s")
        await until(lambda: runner.book.state is State.FAILED)
    else:
        await cut_off(cloud, runner)
    assert [h["text"] for _, h in runner.headers(0) if h["kind"] == "stream"] == [
        "heard",
        "while it went down",
        "unheard",
    ]
    assert ends(runner) == {"r": "ok"}, "and not that it went down with its machine"
    assert [seq for seq, _ in runner.headers(0)] == list(range(1, runner.mirror.last_seq + 1))
    assert not list(cloud.plane.context.session_directory("s").glob("left-*"))
    again = await cloud.session()
    await again.submit("after", "ok", None)
    await until(lambda: ends(again).get("after") == "ok")


async def test_the_end_of_a_kernel_with_its_machine_is_heard_and_told_once(remembering: Cloud) -> None:
    cloud = remembering
    runner = await cloud.session()
    await runner.submit("r", "hang", None)
    await until(lambda: cloud.agent.current == "r" and runner.current == "r")
    assert cloud.agent.log is not None
    cloud.agent.log.append({"kind": "run_ended", "run": "r", "status": "died", "count": 1, "seconds": 1.0})
    cloud.agent.log.append({"kind": "kernel", "run": None, "state": "dead", "exit_code": None, "signal": 15})
    await cut_off(cloud, runner)
    assert runner.book.state is State.FAILED
    assert runner.message.startswith("the machine is gone"), "and not that its kernel died"
    assert [h["status"] for _, h in runner.headers(0) if h["kind"] == "run_ended"] == ["died"]
    assert runner.book.runs["r"].status == "died"


async def test_a_log_with_a_hole_or_with_nonsense_is_heard_up_to_there(remembering: Cloud) -> None:
    cloud = remembering
    runner = await cloud.session()
    await runner.submit("r", "hang", None)
    await until(lambda: cloud.agent.current == "r" and runner.current == "r")
    assert cloud.agent.log is not None
    log = cloud.agent.log
    log.append({"kind": "stream", "run": "r", "name": "stdout", "text": "whole"})
    log._write(b"nonsense")
    log.append({"kind": "stream", "run": "r", "name": "stdout", "text": "behind it"})
    await cut_off(cloud, runner)
    assert [h["text"] for _, h in runner.headers(0) if h["kind"] == "stream"] == ["whole"]
    assert runner.book.state is State.FAILED
    await until(lambda: ends(runner) == {"r": "died"})


async def test_old_checkpoints_that_were_brought_here_go_behind_the_next(cloud: Cloud, tmp_path: Path) -> None:
    await cloud.plane.close()
    cloud.settings = cloud.settings.model_copy(update={"earlier_checkpoints": 1})
    made = Elsewhere(cloud.clock.wall, cloud.agent.socket)
    made.disk = tmp_path / "disk"

    def start(intent: Intent) -> None:
        cloud.agent.start(replace(intent, agent_config={**intent.agent_config, "store": str(made.disk)}))

    made.on_start, made.on_stop = start, cloud.agent.end
    cloud.provider = made
    await cloud.begin()
    runner = await cloud.session()
    for _ in range(4):
        await runner.pause()
        await runner.let_go()
        assert runner.book.state is State.PAUSED
        await runner.ensure()
        await reach(runner, State.RUNNING)
    assert Store(made.disk).manifests() == [1, 2, 3, 4]
    here = Store(runner.context.store_directory(runner.book))
    assert here.manifests() == [3, 4]
    assert cloud.agent.restored_from == [None, 1, 2, 3, 4]
