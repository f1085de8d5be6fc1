"""What SQLite asks of the disk, recorded, and the files as a power cut at any moment could leave them.

The recorder is a VFS of SQLite's own kind, made with ctypes around the one that is there: in this process every file
that SQLite opens passes its writes, truncations and syncs through it. A write counts as durable once its file was
synced after it, a new or deleted name once its directory was. Of the rest a power cut may keep any, in any order; of a
write some sectors of 512 bytes. Names and contents are kept or lost each for itself: stricter than file systems are.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import random
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

SECTOR = 512

_METHODS = "Close Read Write Truncate Sync FileSize Lock Unlock CheckReservedLock FileControl SectorSize "
_METHODS += "DeviceCharacteristics ShmMap ShmLock ShmBarrier ShmUnmap Fetch Unfetch"
_CALLS = "Open Delete Access FullPathname DlOpen DlError DlSym DlClose Randomness Sleep CurrentTime GetLastError "
_CALLS += "CurrentTimeInt64 SetSystemCall GetSystemCall NextSystemCall"


class _Io(ctypes.Structure):
    _fields_ = [("iVersion", c_int), *((f"x{name}", c_void_p) for name in _METHODS.split())]


class _File(ctypes.Structure):
    _fields_ = [("methods", POINTER(_Io))]


class _Vfs(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in ("iVersion", "szOsFile", "mxPathname")),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        *((f"x{name}", c_void_p) for name in _CALLS.split()),
    ]


_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_DIRECTORY = CFUNCTYPE(c_int, c_char_p, c_void_p)
_GET = CFUNCTYPE(c_void_p, c_void_p, c_char_p)
_SET = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p)


@dataclass(frozen=True)
class Op:
    """One request: `create`, `write` (at, data), `truncate` (to at), `sync`, `delete`; `names` syncs the directory."""

    kind: str
    path: str
    at: int = 0
    data: bytes = b""


class Recorder:
    """Keeps what is asked of files below `directory`, in order."""

    def __init__(self, directory: Path) -> None:
        self.ops: list[Op] = []
        self._below = str(directory)
        self._paths: dict[int, str] = {}
        self._kept: list[Any] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Have every database that is opened meanwhile recorded; all of them must be closed inside."""
        library = ctypes.CDLL(_sqlite3.__file__)
        find, register = library.sqlite3_vfs_find, library.sqlite3_vfs_register
        find.restype, register.argtypes = POINTER(_Vfs), (POINTER(_Vfs), c_int)
        library.sqlite3_vfs_unregister.argtypes = (POINTER(_Vfs),)
        real = find(None)
        made = _Vfs.from_buffer_copy(real.contents)
        made.zName, made.pNext = b"recorded", None
        made.xOpen = self._address(_OPEN(self._open(_OPEN(real.contents.xOpen))))
        made.xDelete = self._address(_DELETE(self._delete(_DELETE(real.contents.xDelete))))
        set_call, where = _SET(real.contents.xSetSystemCall), _GET(real.contents.xGetSystemCall)(real, b"openDirectory")
        watched = self._address(_DIRECTORY(self._directory(_DIRECTORY(where))))
        register(ctypes.byref(made), 1)
        set_call(real, b"openDirectory", watched)  # asked for one thing: to sync it
        try:
            with patch.object(os, "fsync", self._fsync(os.fsync)):
                yield
        finally:
            set_call(real, b"openDirectory", where)
            library.sqlite3_vfs_unregister(ctypes.byref(made))
            register(real, 1)

    def _directory(self, real: Any) -> Any:
        def call(name: bytes, out: int) -> int:
            if name.decode().startswith(self._below):
                self.ops.append(Op("names", ""))
            return int(real(name, out))

        return call

    def _fsync(self, real: Any) -> Any:
        """The ledger's own sync of its directory."""

        def call(descriptor: int) -> None:
            real(descriptor)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                self.ops.append(Op("names", ""))

        return call

    def _address(self, function: Any) -> int:
        self._kept.append(function)
        return ctypes.cast(function, c_void_p).value or 0

    def _open(self, real: Any) -> Any:
        def call(vfs: int, name: int | None, file: int, flags: int, out: int | None) -> int:
            path = ctypes.string_at(name).decode() if name else ""
            new = not os.path.exists(path)
            status = int(real(vfs, name, file, flags, out))
            if status == 0 and path.startswith(self._below):
                self._paths[file] = path
                if new:
                    self.ops.append(Op("create", path))
                found = ctypes.cast(file, POINTER(_File)).contents
                found.methods = ctypes.pointer(self._watched(found.methods.contents))
            return status

        return call

    def _watched(self, real: _Io) -> _Io:
        io = _Io.from_buffer_copy(real)
        write, truncate, sync = _WRITE(real.xWrite), _TRUNCATE(real.xTruncate), _SYNC(real.xSync)

        def on_write(file: int, data: int, size: int, at: int) -> int:
            self.ops.append(Op("write", self._paths[file], at, ctypes.string_at(data, size)))
            return int(write(file, data, size, at))

        def on_truncate(file: int, size: int) -> int:
            self.ops.append(Op("truncate", self._paths[file], size))
            return int(truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            status = int(sync(file, flags))
            self.ops.append(Op("sync", self._paths[file]))
            return status

        io.xWrite, io.xTruncate = self._address(_WRITE(on_write)), self._address(_TRUNCATE(on_truncate))
        io.xSync = self._address(_SYNC(on_sync))
        self._kept.append(io)
        return io

    def _delete(self, real: Any) -> Any:
        def call(vfs: int, name: int, sync: int) -> int:
            path = ctypes.string_at(name).decode()
            if path.startswith(self._below):
                self.ops.append(Op("delete", path))
            return int(real(vfs, name, sync))

        return call


def image(ops: Sequence[Op], chance: random.Random | None) -> dict[str, bytes]:
    """Return the files after a power cut behind `ops`: what was synced, and what `chance` keeps of the rest."""
    files: dict[str, bytearray | None] = {op.path: None if op.kind == "create" else bytearray() for op in _firsts(ops)}
    for op, durable in zip(ops, _durable(ops), strict=True):
        part = op if durable else _kept(op, chance) if chance is not None else None
        if part is not None and part.path and (part.kind == "create" or files[part.path] is not None):
            files[part.path] = _apply(files[part.path], part)
    return {path: bytes(content) for path, content in files.items() if content is not None}


def _firsts(ops: Sequence[Op]) -> Sequence[Op]:
    seen: dict[str, Op] = {}
    for op in ops:
        if op.path:
            seen.setdefault(op.path, op)
    return list(seen.values())


def _durable(ops: Sequence[Op]) -> list[bool]:
    """Tell for each request whether a sync of its file, or for names of the directory, follows."""
    found, named, synced = [], False, set()
    for op in reversed(ops):
        if op.kind == "names":
            named = True
        elif op.kind == "sync":
            synced.add(op.path)
        elif op.kind == "delete":
            synced.discard(op.path)  # a later sync is of another file of that name
        found.append(named if op.kind in ("create", "delete") else op.path in synced)
    return found[::-1]


def _kept(op: Op, chance: random.Random) -> Op | None:
    """Return what is left of a request that was not synced: all, nothing, or for a write some of its sectors."""
    what = chance.randrange(3)
    if what < 2 or op.kind != "write":
        return op if what == 0 else None
    first = chance.randrange(0, len(op.data) + 1, SECTOR)
    last = chance.randrange(first, len(op.data) + 1, SECTOR) if len(op.data) >= SECTOR else len(op.data)
    return Op("write", op.path, op.at + first, op.data[first:last])


def _apply(here: bytearray | None, op: Op) -> bytearray | None:
    if op.kind in ("create", "delete"):
        return bytearray() if op.kind == "create" else None
    here = here if here is not None else bytearray()
    if op.kind == "truncate":
        del here[op.at :]
        here.extend(bytes(op.at - len(here)))
    elif op.kind == "write" and op.data:
        here.extend(bytes(max(0, op.at - len(here))))
        here[op.at : op.at + len(op.data)] = op.data
    return here
