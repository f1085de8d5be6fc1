"""The ledger: append-only, hash-chained rows in SQLite; a row that was acknowledged survives a power cut.

One connection, in one writer thread, commits whatever waits as one group (WAL, synchronous=FULL). SQLite before 3.51.3
can corrupt a WAL that two connections write or checkpoint at once (sqlite.org/wal.html#walresetbug), so nothing else
ever opens the file for writing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import queue
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    REAL,
    Column,
    Integer,
    MetaData,
    StaticPool,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.errors import LedgerError

_GROUP = 1000  # rows committed at once, at most
_GENESIS = "0" * 64

_metadata = MetaData()
_entries = Table(
    "entries",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("at", REAL, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("boot", REAL, nullable=False),
    Column("session", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("idem", Text, nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Column("prev", Text, nullable=False),
    Column("hash", Text, nullable=False),
    sqlite_strict=True,
)
_INSERT = insert(_entries)  # made once: half of what a row costs
_BY_KEY = select(_entries).where(_entries.c.idem == bindparam("key"))


@dataclass(frozen=True)
class Row:
    """What is to be written; `idem` makes writing it twice write it once."""

    kind: str
    body: Mapping[str, Any]
    session: str = ""
    machine: str = ""
    idem: str | None = None


@dataclass(frozen=True)
class Entry:
    """A row as it stands: `at` is unix seconds, `boot` seconds since the boot called `boot_id`."""

    id: int
    kind: str
    at: float
    boot_id: str
    boot: float
    session: str
    machine: str
    idem: str
    body: dict[str, Any]
    hash: str


@dataclass
class _Job:
    rows: Sequence[Row]
    done: Future[list[Entry]]


class Ledger:
    """Opens, verifies and appends; one object a file, one file an installation."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create `path`, verify every row; LedgerError names the first row that is not what was written."""
        self._path = path
        self._clock = clock
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._broken: str | None = None
        self._last_id, self._last_hash = 0, _GENESIS
        self._history: list[Entry] = []
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(opened,), name="ciuic-ledger", daemon=True)
        self._thread.start()
        opened.result()

    def replay(self) -> Iterator[Entry]:
        """Yield the entries that stood in the file when it was opened, oldest first; once, then they are let go."""
        history, self._history = self._history, []
        yield from history

    async def append(self, row: Row) -> Entry:
        """Write one row; return it when it is durable. See `append_all`."""
        return (await self.append_all([row]))[0]

    async def append_all(self, rows: Sequence[Row]) -> list[Entry]:
        """Write all rows or none, in order; return them when they are durable.

        A row whose `idem` stands in the ledger already is returned as it stands; LedgerError if its content differs, or
        if the file can't be written: from then on nothing is acknowledged until a restart has verified it.
        """
        return await asyncio.wrap_future(self.submit(rows))

    def submit(self, rows: Sequence[Row]) -> Future[list[Entry]]:
        """Queue rows without waiting; the future resolves when they are durable. LedgerError if one is not JSON."""
        for row in rows:
            _text(row.body)
        job = _Job(rows, Future())
        job.done.set_running_or_notify_cancel()  # who waits may be cancelled, what is written is not
        if self._broken is not None:
            job.done.set_exception(LedgerError(self._broken))
        else:
            self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """Write what waits and close the file."""
        self._jobs.put(None)
        self._thread.join()

    # -- the writer's thread

    def _work(self, opened: Future[None]) -> None:
        try:
            engine = _engine(self._path)
            connection = engine.connect()
            self._verify(connection)
        except LedgerError as error:
            opened.set_exception(error)
            return
        except (SQLAlchemyError, OSError) as error:
            opened.set_exception(LedgerError(f"the ledger {self._path} can't be opened: {error}; free it, or its disk"))
            return
        opened.set_result(None)
        with connection:
            while jobs := self._next_group():
                self._write(connection, jobs)
        engine.dispose()

    def _next_group(self) -> list[_Job]:
        first = self._jobs.get()
        if first is None:
            return []
        jobs, size = [first], len(first.rows)
        while size < _GROUP:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
            size += len(job.rows)
        return jobs

    def _write(self, connection: Connection, jobs: Sequence[_Job]) -> None:
        before = self._last_id, self._last_hash
        results: list[tuple[_Job, list[Entry] | LedgerError]] = []
        try:
            if self._broken is not None:
                raise LedgerError(self._broken)
            for job in jobs:
                results.append((job, self._rows(connection, job.rows)))
            connection.commit()
        except (SQLAlchemyError, LedgerError) as error:
            connection.rollback()
            self._last_id, self._last_hash = before
            self._broken = self._broken or (
                f"the ledger {self._path} can't be written: {error}; nothing new is started, stop and start the plane"
            )
            for job in jobs:
                job.done.set_exception(LedgerError(self._broken))
            return
        for job, result in results:
            if isinstance(result, LedgerError):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    def _rows(self, connection: Connection, rows: Sequence[Row]) -> list[Entry] | LedgerError:
        """Write one job's rows, or none of them; a row that stands already is not written again."""
        known = [self._standing(connection, row) for row in rows]
        for row, entry in zip(rows, known, strict=True):
            if entry is not None and (entry.kind, entry.body) != (row.kind, json.loads(_text(row.body))):
                return LedgerError(f"entry {entry.id} has the key {row.idem!r} with other content; use a new key")
        return [
            entry if entry is not None else self._insert(connection, row)
            for row, entry in zip(rows, known, strict=True)
        ]

    def _standing(self, connection: Connection, row: Row) -> Entry | None:
        if row.idem is None:
            return None
        found = connection.execute(_BY_KEY, {"key": row.idem}).mappings().first()
        return _entry(dict(found)) if found is not None else None

    def _insert(self, connection: Connection, row: Row) -> Entry:
        values: dict[str, Any] = {
            "id": self._last_id + 1,
            "kind": row.kind,
            "at": self._clock.wall(),
            "boot_id": self._clock.boot_id,
            "boot": self._clock.boot(),
            "session": row.session,
            "machine": row.machine,
            "idem": row.idem or f"#{self._last_id + 1}",
            "body": _text(row.body),
            "prev": self._last_hash,
        }
        values["hash"] = _hash(values)
        connection.execute(_INSERT, values)
        self._last_id, self._last_hash = values["id"], values["hash"]
        return _entry(values)

    def _verify(self, connection: Connection) -> None:
        checked = connection.exec_driver_sql("PRAGMA quick_check").scalar_one()
        if checked != "ok":
            raise LedgerError(f"the ledger {self._path} is damaged: {checked}; bring it back from a backup")
        for row in connection.execute(select(_entries).order_by(_entries.c.id)).mappings():
            found: dict[str, Any] = dict(row)
            if found["id"] != self._last_id + 1 or found["prev"] != self._last_hash or found["hash"] != _hash(found):
                raise LedgerError(
                    f"entry {found['id']} of the ledger {self._path} is not what was written there, or one before it "
                    "is gone; bring it back from a backup"
                )
            self._last_id, self._last_hash = found["id"], found["hash"]
            self._history.append(_entry(found))
        connection.rollback()


def _engine(path: Path) -> Engine:
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    found = path.lstat()  # not opened: to close it again would end SQLite's own locks on it
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
        raise LedgerError(f"the ledger {path} is a link, no file, or another user's; remove it, or bring back a backup")
    engine = create_engine(f"sqlite:///{path}", poolclass=StaticPool)
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        for name, value in wanted.items():
            connection.execute(f"PRAGMA {name}={value}")
            found = connection.execute(f"PRAGMA {name}").fetchone()[0]
            if found != value:
                raise LedgerError(f"the ledger {path} can't have {name}={value} (it is {found}); use a local disk")

    _metadata.create_all(engine)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return engine


def _text(body: Mapping[str, Any]) -> str:
    try:
        return json.dumps(body, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise LedgerError(f"this can't stand in the ledger: {error}; nothing was written") from error


def _hash(values: Mapping[str, Any]) -> str:
    names = ("id", "kind", "at", "boot_id", "boot", "session", "machine", "idem", "body", "prev")
    return hashlib.sha256(json.dumps([values[name] for name in names]).encode()).hexdigest()


def _entry(values: Mapping[str, Any]) -> Entry:
    kept = {
        name: values[name] for name in ("id", "kind", "at", "boot_id", "boot", "session", "machine", "idem", "hash")
    }
    return Entry(**kept, body=json.loads(values["body"]))
