"""The ledger: nothing acknowledged is lost, nothing is written twice, nothing can be changed unseen."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control.clock import FakeClock
from ciuic_jupyter.control.ledger import Ledger, Row
from ciuic_jupyter.errors import LedgerError


def bodies(path: Path) -> list[dict[str, object]]:
    ledger = Ledger(path, FakeClock())
    try:
        return [entry.body for entry in ledger.replay()]
    finally:
        ledger.close()


async def fill(path: Path, count: int = 5) -> None:
    ledger = Ledger(path, FakeClock())
    for index in range(count):
        await ledger.append(Row("note", {"n": index}))
    ledger.close()


async def test_rows_come_back_in_order_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await fill(path)
    assert bodies(path) == [{"n": index} for index in range(5)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_same_key_is_written_once_and_other_content_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(path, FakeClock())
    first, again = await asyncio.gather(*(ledger.append(Row("x", {"a": 1}, idem="k")) for _ in range(2)))
    assert first == again
    with pytest.raises(LedgerError, match="other content"):
        await ledger.append_all([Row("y", {}), Row("x", {"a": 2}, idem="k")])
    await ledger.append(Row("z", {}))
    ledger.close()
    assert len(bodies(path)) == 2, "a refused group writes none of its rows"


async def test_a_waiter_that_is_cancelled_breaks_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", FakeClock())
    task = asyncio.create_task(ledger.append(Row("note", {"n": 1})))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await ledger.append(Row("note", {"n": 2}))
    ledger.close()
    assert bodies(tmp_path / "ledger.db") == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "attack",
    [
        "update entries set body='{\"n\":9}' where id=3",
        "update entries set at=at+1 where id=3",
        "update entries set machine='m' where id=3",
        "delete from entries where id=3",
        "delete from entries where id=1",
        "update entries set id=id+10 where id=5",
        "update entries set id=case id when 2 then -3 else -2 end where id in (2,3); "
        "update entries set id=-id where id<0",
    ],
)
async def test_a_row_changed_by_hand_is_named_and_nothing_starts(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "ledger.db"
    await fill(path)
    with sqlite3.connect(path) as connection:
        connection.executescript(attack)
    connection.close()
    with pytest.raises(LedgerError, match=r"entry \d+"):
        Ledger(path, FakeClock())


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError):
        Ledger(path, FakeClock())


async def test_after_a_write_fails_nothing_more_is_acknowledged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", FakeClock())
    with pytest.raises(LedgerError, match="can't be written"):
        await ledger.append_all([Row("a", {}, idem="same"), Row("b", {}, idem="same")])
    with pytest.raises(LedgerError):
        await ledger.append(Row("note", {}))
    ledger.close()
    assert bodies(tmp_path / "ledger.db") == []


async def test_what_waits_behind_a_write_that_fails_is_not_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", FakeClock())
    write, reached, go = ledger._rows, threading.Event(), threading.Event()

    def held(connection: Any, rows: Sequence[Row]) -> Any:
        reached.set()
        go.wait(20)
        return write(connection, rows)

    ledger._rows = held  # type: ignore[method-assign]
    first = asyncio.ensure_future(ledger.append_all([Row("a", {}, idem="same"), Row("b", {}, idem="same")]))
    await asyncio.to_thread(reached.wait, 20)
    behind = asyncio.ensure_future(ledger.append(Row("note", {})))  # the writer is at work: this one is queued
    await asyncio.sleep(0)
    go.set()
    for one in (first, behind):
        with pytest.raises(LedgerError, match="can't be written"):
            await one
    ledger.close()
    assert bodies(tmp_path / "ledger.db") == []


async def test_floats_that_are_no_numbers_never_get_in(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", FakeClock())
    with pytest.raises(LedgerError, match="nothing was written"):
        await ledger.append(Row("note", {"x": float("nan")}))
    await ledger.append(Row("note", {}))
    ledger.close()


WRITER = """
import asyncio, os, sys
from pathlib import Path
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger, Row

async def main():
    ledger = Ledger(Path(sys.argv[1]), Clock())
    start = len(list(ledger.replay()))
    async def one(n):
        await ledger.append(Row("note", {"n": n}, idem=f"n{n}"))
        sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
    n = start
    while True:
        await asyncio.gather(*(one(n + i) for i in range(7)))
        n += 7

for _ in sys.stdin:  # a process for each life, from one that has imported everything and has one thread
    pid = os.fork()
    if not pid:
        print("pid", os.getpid(), flush=True)
        asyncio.run(main())
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


@pytest.mark.crash
def test_no_acknowledged_row_is_lost_over_a_hundred_kills(tmp_path: Path) -> None:
    path, acked, chance = tmp_path / "ledger.db", set(), random.Random(5)
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None and writers.stdout is not None
        for _ in range(100):
            writers.stdin.write("go\n")
            writers.stdin.flush()
            pid, wanted = int(writers.stdout.readline().removeprefix("pid ")), chance.randrange(1, 120)
            while (line := writers.stdout.readline()) != "ended\n":
                assert line, "the writer failed"
                acked.add(int(line))
                wanted -= 1
                if wanted == 0:
                    os.kill(pid, signal.SIGKILL)
        writers.stdin.close()
    found = [int(str(body["n"])) for body in bodies(path)]
    assert acked <= set(found)
    assert len(found) == len(set(found))
    assert found == list(range(len(found)))
    assert json.dumps(found)
