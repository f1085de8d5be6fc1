"""The newest facts to many viewers: nothing old is sent, and who takes nothing holds up nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from ciuic_jupyter.kernels import fanout
from ciuic_jupyter.kernels.fanout import Fanout


class Reader:
    """A viewer that takes one frame whenever it is let."""

    def __init__(self, fan: Fanout, open_gate: bool = True) -> None:
        self.frames: list[dict[str, Any]] = []
        self.gate = asyncio.Event()
        self._news = asyncio.Event()
        if open_gate:
            self.gate.set()
        self.task = asyncio.create_task(fan.serve(self._send))

    async def _send(self, frame: bytes) -> None:
        await self.gate.wait()
        self.frames.append(json.loads(frame))
        self._news.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not reached():
                self._news.clear()
                await self._news.wait()


def counting() -> tuple[Fanout, dict[str, int]]:
    facts = {"n": 0}
    return Fanout(lambda: {"type": "snapshot", **facts}), facts


async def test_a_viewer_is_sent_everything_and_then_each_change() -> None:
    fan, facts = counting()
    facts["n"] = 7
    reader = Reader(fan)
    await reader.until(lambda: bool(reader.frames))
    assert reader.frames == [{"type": "snapshot", "n": 7}]
    for number in range(3):
        fan.tell("n", {"n": number})
        await reader.until(lambda number=number: len(reader.frames) == number + 2)
    assert [frame["n"] for frame in reader.frames[1:]] == [0, 1, 2]
    fan.close()
    await asyncio.wait_for(reader.task, 5)
    assert fan.viewers == 0


async def test_a_slow_viewer_skips_to_the_newest_of_each_fact() -> None:
    fan, _ = counting()
    slow, quick = Reader(fan, open_gate=False), Reader(fan)
    await quick.until(lambda: bool(quick.frames))
    for number in range(100):
        fan.tell("a", {"a": number})
        fan.tell("b", {"b": -number})
        await quick.until(lambda number=number: {"b": -number} in quick.frames)
    assert slow.frames == []
    slow.gate.set()
    await slow.until(lambda: len(slow.frames) == 3)
    assert slow.frames[1:] == [{"a": 99}, {"b": -99}]
    assert [frame["a"] for frame in quick.frames if "a" in frame] == list(range(100))
    for reader in (slow, quick):
        reader.task.cancel()


async def test_a_new_snapshot_takes_the_place_of_what_was_not_sent() -> None:
    fan, facts = counting()
    reader = Reader(fan, open_gate=False)
    await asyncio.sleep(0)
    fan.tell("old", {"old": 1})
    facts["n"] = 2
    fan.restart()
    reader.gate.set()
    await reader.until(lambda: len(reader.frames) == 2)
    assert reader.frames == [{"type": "snapshot", "n": 0}, {"type": "snapshot", "n": 2}]
    reader.task.cancel()


async def test_who_takes_nothing_is_let_go_and_all_hear_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "SEND_SECONDS", 0.05)
    monkeypatch.setattr(fanout, "ALIVE_SECONDS", 0.02)
    monkeypatch.setattr(fanout, "_LOOK_SECONDS", 0.01)
    fan, _ = counting()
    stalled, reader = Reader(fan, open_gate=False), Reader(fan)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(stalled.task), 5)
    await reader.until(lambda: sum(frame["type"] == "alive" for frame in reader.frames) >= 2)
    assert fan.viewers == 1
    reader.task.cancel()


async def test_text_that_is_no_unicode_travels() -> None:
    fan = Fanout(lambda: {"text": "\udc80 <b>\u202e"})
    reader = Reader(fan)
    await reader.until(lambda: bool(reader.frames))
    assert reader.frames == [{"text": "\udc80 <b>\u202e"}]
    reader.task.cancel()
