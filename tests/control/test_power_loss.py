"""The ledger's files as a power cut could leave them at any moment: every acknowledged row is there, none is torn."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control.clock import FakeClock
from ciuic_jupyter.control.ledger import Entry, Ledger, Row
from tests.control.power import Op, Recorder, image

IMAGES = 900


@pytest.fixture
def memory() -> Iterator[Path]:
    """Yield a folder whose files cost no disk: what a disk would keep is reckoned, not tried."""
    shm = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="ciuic-p-", dir=shm if shm.is_dir() else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def written(directory: Path) -> tuple[list[Op], list[tuple[int, int]]]:
    """Write rows in four lives of a ledger; return what the disk was asked, and (row, requests before it was told)."""
    recorder, acked, chance = Recorder(directory), [], random.Random(3)
    with recorder.recording():
        row = 0
        for _ in range(4):
            ledger = Ledger(directory / "ledger.db", FakeClock())
            for _ in range(16):
                size = chance.choice((1, 1, 1, 4))
                rows = [Row("note", {"n": row + more, "text": "x" * chance.randrange(1500)}) for more in range(size)]
                last = row + size - 1

                def done(future: Future[list[Entry]], last: int = last) -> None:
                    assert future.exception() is None
                    acked.append((last, len(recorder.ops)))

                waiting = ledger.submit(rows)
                waiting.add_done_callback(done)
                waiting.result()
                row += size
            ledger.close()
    return recorder.ops, acked


def rows_of(path: Path) -> list[int]:
    """Return the rows a ledger starts with; it verifies every one, and the file."""
    ledger = Ledger(path, FakeClock())
    try:
        return [int(str(entry.body["n"])) for entry in ledger.replay()]
    finally:
        ledger.close()


def test_no_acknowledged_row_is_lost_by_a_power_cut_at_any_moment(memory: Path) -> None:
    source, target = memory / "written", memory / "cut"
    source.mkdir()
    ops, acked = written(source)
    assert sum(op.kind == "sync" for op in ops) >= len(acked)
    chance, images, kept = random.Random(4), 0, set()
    rounds = 1 + IMAGES // len(ops)  # beside the image of what was synced alone
    for moment in range(len(ops) + 1):
        told = max((last for last, at in acked if at <= moment), default=-1)
        for variant in range(1 + rounds):
            files = image(ops[:moment], chance if variant else None)
            found = after_the_cut(target, files, whole=images % 9 == 0)
            assert found == list(range(len(found))), f"moment {moment}: rows are not in order: {found}"
            assert len(found) > told, f"moment {moment}, variant {variant}: row {told} was acknowledged and is lost"
            kept.add(len(found) - 1 - told)
            images += 1
    assert images >= IMAGES
    assert kept != {0}, "no cut fell between a write and its acknowledgement"


def after_the_cut(target: Path, files: dict[str, bytes], *, whole: bool) -> list[int]:
    """Put an image down and read it: as the ledger does if `whole`, else by SQLite's own full check and a read."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path, content in files.items():
        (target / Path(path).name).write_bytes(content)
    if whole or not (target / "ledger.db").exists():
        return rows_of(target / "ledger.db")
    connection = sqlite3.connect(target / "ledger.db")
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        if not connection.execute("select 1 from sqlite_master where name='entries'").fetchall():
            return []
        query = "select json_extract(body, '$.n') from entries order by id"
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()


def test_the_model_of_a_power_cut_keeps_what_was_synced_and_may_lose_or_tear_the_rest() -> None:
    page: Any = b"a" * 1024
    ops = [Op("create", "f"), Op("write", "f", 0, page), Op("sync", "f")]
    assert image(ops, None) == {}, "its name was not synced"
    ops += [Op("names", ""), Op("write", "f", 0, b"b" * 1024)]
    seen = {image(ops, random.Random(seed))["f"] for seed in range(40)}
    assert image(ops, None) == {"f": page}
    assert {page, b"b" * 1024, b"b" * 512 + b"a" * 512} <= seen
