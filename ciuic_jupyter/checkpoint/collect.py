"""Giving space back: the newest checkpoints stay, with every pack they refer to; the rest goes.

A save takes no lock that lasts until its manifest, so what is safe follows from the order of its steps: it makes a
partial file in `chunks` and locks it, only then looks which packs it can lean on, names its pack, and writes its
manifest last. So a pack goes only if no kept manifest refers to it and no save can be between its start and its
manifest:

- no partial file is locked, and the newest manifest is younger than the last change of `chunks`, or that change is
  older than `lease`: the last save has its manifest, or it is dead;
- a pack that no manifest ever referred to, and that is younger than `lease`, stays;
- a save that starts meanwhile is seen: the folder is watched, the packs get another name first, and get their own one
  back if a partial file was made or a manifest came before that.

Killed at any moment it leaves whole checkpoints: manifests go first, durably; the next call gives packs their names
back. The watch sees savers of this machine only, so collect where the saves are made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.pack import read_index, sync_folder
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, UsageError

LEASE = 3600  # seconds; more than any save needs from its last chunk to its manifest, the test-load included
_CREATED = 0x100  # IN_CREATE of inotify
_ASIDE = ".unused"
_EVENTS = 1 << 16


@dataclass(frozen=True)
class Collected:
    """What went; `waits` says why packs that nothing needs are still here, and is empty if there are none."""

    manifests: tuple[int, ...]
    packs: tuple[str, ...]
    freed: int  # bytes of packs
    waits: str


def collect(store: Store, key: bytes, *, keep: int, named: Collection[int] = (), lease: float = LEASE) -> Collected:
    """Remove all but the newest `keep` checkpoints and the `named` ones, then the packs that none of those refers to.

    UsageError for a `keep` below 1 or a named one that is not here. CheckpointError, with nothing removed, if a kept
    manifest can't be read, for then nobody knows what it needs; if another process collects; or if the folder can't
    be watched.
    """
    if keep < 1:
        raise UsageError(f"keep={keep} would leave no checkpoint; keep 1 or more")
    chunks, manifests = store.root / "chunks", store.root / "manifests"
    if not chunks.is_dir() or not manifests.is_dir():
        raise UsageError(f"there are no checkpoints in {store.root}; nothing was removed")
    try:
        with _alone(chunks), _watched(chunks) as watch:
            _names_back(chunks)
            present = store.manifests()
            kept = {*present[-keep:], *named}
            if absent := sorted(kept - set(present)):
                raise UsageError(f"there is no checkpoint {absent[0]} in {store.root} to keep; nothing was removed")
            needed = _needed(store, kept, key)
            packs = _packs(chunks)
            old = tuple(seq for seq in present if seq not in kept)
            young = _unclaimed(store, old, key, packs, lease)
            for seq in old:
                (manifests / f"{seq:08d}.json").unlink(missing_ok=True)
            sync_folder(manifests)
            unused = {name for name, names in packs.items() if needed.isdisjoint(names)}
            if unused and (waits := _busy(chunks, manifests, lease)):
                return Collected(old, (), 0, waits)
            going = sorted(unused - young)
            _put_aside(chunks, going)
            if _happened(watch) or set(store.manifests()) - kept:
                _names_back(chunks)
                return Collected(old, (), 0, "a save has begun meanwhile; try again when it is done")
            freed = _remove(chunks, going)
            waits = f"a new pack may get its manifest within {lease:g} seconds" if unused & young else ""
            return Collected(old, tuple(going), freed, waits)
    except OSError as error:
        raise CheckpointError(
            f"old checkpoints in {store.root} can't be removed: {error.strerror}; what is kept is whole, try again"
        ) from error


# what is needed


def _needed(store: Store, seqs: Iterable[int], key: bytes) -> set[bytes]:
    return {chunk for seq in sorted(seqs) for chunk in chunks_of(store.read_manifest(seq, key).body)}


def chunks_of(body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the chunks that anything in a manifest's body refers to."""
    left: list[Any] = [body]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            chunks = value.get("chunks")
            if "size" in value and isinstance(chunks, list) and all(isinstance(name, str) for name in chunks):
                yield from map(bytes.fromhex, chunks)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(part for part in value if isinstance(part, Mapping | list))


def _packs(folder: Path) -> dict[str, Collection[bytes]]:
    """Return what each pack has; one whose index is damaged is left out, so it stays where it is."""
    packs: dict[str, Collection[bytes]] = {}
    for path in sorted(folder.glob("*.pack")):
        with suppress(CheckpointDamaged):
            packs[path.name] = read_index(path).keys()
    return packs


def _unclaimed(
    store: Store, old: Iterable[int], key: bytes, packs: Mapping[str, Collection[bytes]], lease: float
) -> set[str]:
    """Return the young packs that no manifest here refers to, the old ones included: theirs may be on its way."""
    now, folder = time.time(), store.root / "chunks"
    young = {name for name in packs if now - (folder / name).stat().st_mtime < lease}
    for seq in old:
        with suppress(CheckpointError):  # it goes anyway; its young packs wait
            claimed = _needed(store, [seq], key)
            young -= {name for name in young if not claimed.isdisjoint(packs[name])}
    return young


# who else is at work


@contextmanager
def _alone(chunks: Path) -> Iterator[None]:
    number = os.open(chunks, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CheckpointError(
                f"another process removes old checkpoints in {chunks.parent}; try again when it is done"
            ) from error
        yield
    finally:
        os.close(number)


@contextmanager
def _watched(folder: Path) -> Iterator[int]:
    """Have the kernel remember every file made in `folder` from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        if libc.inotify_add_watch(number, os.fsencode(folder), _CREATED) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield number
    finally:
        os.close(number)


def _happened(watch: int) -> bool:
    try:
        return bool(os.read(watch, _EVENTS))
    except BlockingIOError:
        return False


def _busy(chunks: Path, manifests: Path, lease: float) -> str:
    """Say why a save may be between its start and its manifest, or nothing if none can be."""
    changed = chunks.stat().st_mtime_ns
    for path in chunks.glob(".partial-*"):
        if _locked(path):
            return "a save is at work"
    newest = max((path.stat().st_mtime_ns for path in manifests.glob("*.json")), default=0)
    if newest > changed or time.time() - changed / 1e9 > lease:
        return ""
    return f"the last save may write its manifest yet; wait for it, or {lease:g} seconds"


def _locked(path: Path) -> bool:
    try:
        number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(number)
    return False


# packs that go


def _put_aside(chunks: Path, packs: Iterable[str]) -> None:
    for name in packs:
        os.rename(chunks / name, chunks / (name + _ASIDE))


def _names_back(chunks: Path) -> None:
    for path in chunks.glob("*" + _ASIDE):
        os.rename(path, path.with_suffix(""))


def _remove(chunks: Path, packs: Iterable[str]) -> int:
    freed = 0
    for name in packs:
        path = chunks / (name + _ASIDE)
        freed += path.stat().st_blocks * 512
        path.unlink()
    sync_folder(chunks)
    return freed
