"""Pack files: the new chunks of one save, one behind another, with an index at the end; never changed once named."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import queue
import secrets
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import blake3

from ciuic_jupyter.errors import CheckpointDamaged

CHUNK = 1 << 20  # bytes; what is content-addressed
_STAGE = 4 << 20  # bytes of one write
_SECTOR = 4096  # bytes; what O_DIRECT asks of offsets and lengths
_ENTRY = struct.Struct("<32sQI")  # hash, offset, length
_TRAILER = struct.Struct("<8sQI32s")  # magic, offset of the index, entries, hash of the index
_MAGIC = b"ciuicpk1"
_PARTIAL = ".partial-"
_WRITERS = 2  # one alone leaves the disk waiting while it copies

Place = tuple[str, int, int]  # pack, offset, length


def digest(data: bytes | memoryview) -> bytes:
    """Return the 32 bytes that name `data`."""
    return blake3.blake3(data).digest()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def open_plain(path: Path) -> int:
    """Open a file to read; OSError for a link, and for what is no plain file: a pipe would hold up who reads it."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no plain file")
    return number


def read_index(path: Path) -> dict[bytes, tuple[int, int]]:
    """Return {hash: (offset, length)} of the pack `path`; CheckpointDamaged if its index is not whole."""
    try:
        number = open_plain(path)
    except OSError as error:
        raise CheckpointDamaged(
            f"the pack {path} can't be opened: {error.strerror}; use an older checkpoint"
        ) from error
    try:
        return index_of(lambda offset, length: os.pread(number, length, offset), os.fstat(number).st_size, str(path))
    finally:
        os.close(number)


def index_of(read: Callable[[int, int], bytes], size: int, where: str) -> dict[bytes, tuple[int, int]]:
    """Do so for a pack of `size` bytes that `read(offset, length)` gives parts of; `where` names it in errors."""
    trailer = read(size - _TRAILER.size, _TRAILER.size) if size >= _TRAILER.size else b""
    magic, start, count, check = _TRAILER.unpack(trailer) if len(trailer) == _TRAILER.size else (b"", 0, 0, b"")
    whole = magic == _MAGIC and start + count * _ENTRY.size + _TRAILER.size == size
    table = read(start, count * _ENTRY.size) if whole and count else b""
    if not whole or digest(table) != check:
        raise CheckpointDamaged(f"the index of the pack {where} is damaged or cut off; use an older checkpoint")
    return {name: (offset, length) for name, offset, length in _ENTRY.iter_unpack(table)}


def clear_partial(folder: Path) -> None:
    """Remove what savers that were killed left behind; a saver at work holds a lock on its own."""
    for path in folder.glob(_PARTIAL + "*"):
        with suppress(OSError):
            number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(number)


@dataclass
class _Stage:
    """Sector-aligned memory that is filled with chunks, then written in one go."""

    memory: mmap.mmap
    offset: int = 0
    used: int = 0


class PackWriter:
    """Writes one pack: `add` chunks, then `close`; nothing has a name before everything is on the disk.

    Chunks are copied before `add` returns. Writes go past the page cache where the file system lets them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._entries: dict[bytes, tuple[int, int]] = {}
        self._direct = _open_direct(self._partial)
        self._free: queue.SimpleQueue[_Stage] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[_Stage | None] = queue.SimpleQueue()
        self._stages: list[_Stage] = []
        self._stage = self._fresh_stage()
        self._end = 0
        self._error: OSError | None = None
        self._threads: list[threading.Thread] = []

    def __contains__(self, name: bytes) -> bool:
        return name in self._entries

    @property
    def size(self) -> int:
        """Bytes of chunks added so far."""
        return sum(length for _, length in self._entries.values())

    def add(self, name: bytes, data: memoryview) -> None:
        """Append one chunk of at most CHUNK bytes, whose hash is `name`, at the start of a sector."""
        room = -(-data.nbytes // _SECTOR) * _SECTOR
        if self._stage.used + room > _STAGE:
            self._send()
        stage = self._stage
        stage.memory[stage.used : stage.used + data.nbytes] = data
        if room > data.nbytes:
            stage.memory[stage.used + data.nbytes : stage.used + room] = bytes(room - data.nbytes)
        self._entries[name] = (self._end, data.nbytes)
        stage.used += room
        self._end += room

    def close(self) -> str | None:
        """Make everything durable and give it its name, which is returned; None if there were no chunks."""
        try:
            if not self._entries:
                self.abort()
                return None
            self._send()
            self._stop()
            if self._error is not None:
                raise self._error
            self._write_index()
            os.fsync(self._file)
            name = f"{secrets.token_hex(8)}.pack"
            os.rename(self._partial, self._folder / name)
            sync_folder(self._folder)
            self._close_files()
            return name
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Leave nothing behind."""
        self._stop()
        self._partial.unlink(missing_ok=True)
        self._close_files()

    def _write_index(self) -> None:
        table = b"".join(_ENTRY.pack(name, *place) for name, place in self._entries.items())
        data = table + _TRAILER.pack(_MAGIC, self._end, len(self._entries), digest(table))
        _write_all(self._file, memoryview(data), self._end)
        os.ftruncate(self._file, self._end + len(data))

    def _fresh_stage(self) -> _Stage:
        if len(self._stages) <= _WRITERS:
            stage = _Stage(mmap.mmap(-1, _STAGE))
            self._stages.append(stage)
            return stage
        return self._free.get()

    def _send(self) -> None:
        if not self._stage.used:
            return
        if len(self._threads) < _WRITERS:
            thread = threading.Thread(target=self._write, name="checkpoint writer", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._full.put(self._stage)
        if self._error is not None:
            raise self._error
        self._stage = self._fresh_stage()
        self._stage.offset, self._stage.used = self._end, 0

    def _write(self) -> None:
        while (stage := self._full.get()) is not None:
            try:
                if self._error is None:
                    target = self._file if self._direct is None else self._direct
                    with memoryview(stage.memory) as view:
                        _write_all(target, view[: stage.used], stage.offset)
            except OSError as error:
                self._error = error
            self._free.put(stage)

    def _stop(self) -> None:
        for _ in self._threads:
            self._full.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _close_files(self) -> None:
        for number in {self._file, self._direct} - {None}:
            with suppress(OSError):
                os.close(number)  # type: ignore[arg-type]
        self._file, self._direct = -1, None


def _open_direct(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:  # tmpfs and some overlays refuse
        return None


def _write_all(number: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(number, view, offset)
        view, offset = view[done:], offset + done


def pieces(data: memoryview) -> Iterator[memoryview]:
    """Yield the chunks of `data` (bytes)."""
    for start in range(0, data.nbytes, CHUNK):
        yield data[start : start + CHUNK]
