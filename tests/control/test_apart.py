"""Checkpoints that lie on disks of machines: what is brought here is swept here."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.core.session import State
from ciuic_jupyter.providers.base import Intent
from ciuic_jupyter.providers.fake import FakeProvider
from tests.control.conftest import Cloud, reach


class Elsewhere(FakeProvider):
    """Its machines write checkpoints in a folder of their own."""

    disk: Path

    async def bring(self, machine: str, store: Path, key: bytes, seq: int | None) -> int:
        """Copy a checkpoint as the ssh provider does, from file to file."""
        remote = Remote(self.disk.as_uri())
        newest = max(remote.manifests(), default=None) if seq is None else seq
        return 0 if newest is None else await asyncio.to_thread(remote.fetch, Store(store), newest, key)


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
