"""A checkpoint from elsewhere: its newest manifest is checked, what it needs is copied, and signed with the own key.

Nothing is unpickled. Files are opened below the folder's own descriptor and must be plain ones with one name.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.pack import CHUNK, digest, index_of
from ciuic_jupyter.checkpoint.store import MAX_MANIFEST, Manifest, Save, Store, said_by, signed_by
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointUntrusted, UsageError

_MANIFEST = re.compile(r"([0-9]{8,18})\.json")
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEX = re.compile(r"[0-9a-f]{64}")
_MOST_INDEX = 64 << 20  # bytes of one pack's index: 1.5 million chunks

Place = tuple[str, int, bytes]  # pack, offset, chunk


def take(source: Path, target: Store, key: bytes, *, trust: bool, ours: Sequence[bytes] = ()) -> Manifest:
    """Make the newest checkpoint of the folder `source` one of `target`, with the same body, signed with `key`.

    CheckpointUntrusted if neither that nor one of `ours` signed it, unless `trust`; CheckpointDamaged names what is
    missing, altered, a link, or no plain file; UsageError if `source` is no folder of checkpoints; SaveFailed if the
    disk refuses. Then `target` has no new checkpoint.
    """
    with _folder(str(source), str(source)) as root:
        with _folder("manifests", f"{source}/manifests", root) as folder:
            body = _newest(folder, f"{source}/manifests", None if trust else [key, *ours])
        needed = _needed(body, str(source))
        with _folder("chunks", f"{source}/chunks", root) as folder:
            places = _find(folder, f"{source}/chunks", needed)
            with target.save() as save:
                _copy(folder, f"{source}/chunks", places, needed, save)
    return target.write_manifest(body, key)


# files that nobody can bend


@contextmanager
def _folder(name: str, where: str, parent: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if parent is not None else 0)
    try:
        number = os.open(name, flags, dir_fd=parent)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        text = (
            f"{where} can't be opened as a folder of checkpoints: {why}; give the one that has chunks/ and manifests/"
        )
        raise UsageError(f"{text} in it; nothing was taken") from error
    try:
        yield number
    finally:
        os.close(number)


@contextmanager
def _file(name: str, folder: int, where: str) -> Iterator[tuple[int, int]]:
    """Give descriptor and size of a plain file; CheckpointDamaged for a link, a second name, a pipe, a device."""
    try:
        number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise CheckpointDamaged(f"{where} can't be taken: {why}; copy the folder again, links resolved") from error
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            text = f"{where} can't be taken: it is no plain file, or a hard link of another"
            raise CheckpointDamaged(f"{text}; copy the folder again, links resolved")
        yield number, found.st_size
    finally:
        os.close(number)


def _exactly(number: int, offset: int, length: int) -> bytes:
    """Return what a file has there; less only if it ends, or shrank meanwhile."""
    parts, size = [], 0
    while size < length and (part := os.pread(number, length - size, offset + size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


# the manifest


def _newest(folder: int, where: str, keys: Sequence[bytes] | None) -> dict[str, Any]:
    numbers = {int(found[1]): found[0] for found in map(_MANIFEST.fullmatch, os.listdir(folder)) if found}
    if not numbers:
        raise UsageError(f"{where} has no manifest, so there is no checkpoint; nothing was taken")
    seq = max(numbers)
    where = f"{where}/{numbers[seq]}"
    with _file(numbers[seq], folder, where) as (number, size):
        if size > MAX_MANIFEST:
            raise CheckpointDamaged(f"the manifest {where} has {size} bytes, more than any; nothing was taken")
        data = _exactly(number, 0, size)
    signed = [signed_by(data, key, where) for key in keys or (b"nobody",)]  # damage is told, trusted or not
    if keys is not None and not any(signed):
        raise CheckpointUntrusted(
            f"the manifest {where} was not signed with your key, and a checkpoint is Python code that will run as you "
            "once it is resumed; if you trust who made it and the way it came, `--trust` takes it. Nothing was taken"
        )
    try:
        said = said_by(data, where)
        _check(said["body"], where)
    except (ValueError, RecursionError) as error:
        raise CheckpointDamaged(f"the manifest {where} can't be read: {error}; nothing was taken") from error
    if said.get("seq") != seq:
        raise CheckpointUntrusted(f"the manifest {where} belongs to checkpoint {said.get('seq')}; it was moved here")
    return dict(said["body"])


def _check(body: Mapping[str, Any], where: str) -> None:
    """Look at what the control plane itself reads, which never loads a checkpoint; ValueError says what is wrong."""
    run, types, lines = body.get("run"), body.get("types"), body.get("placeholders")
    right = {
        "python": isinstance(body.get("python"), str),
        "platform": isinstance(body.get("platform"), str),
        "types": isinstance(types, dict) and all(isinstance(kind, str) for kind in types.values()),
        "names": _strings(body.get("names")),
        "placeholders": isinstance(lines, list) and all(_is_line(line) for line in lines),
        "bytes_total": _count(body.get("bytes_total")),
        "blobs": isinstance(body.get("blobs"), dict),
        "buffers": isinstance(body.get("buffers"), list),
        "run": run is None or (isinstance(run, dict) and _is_run(run)),
    }
    if wrong := [name for name, fine in right.items() if not fine]:
        raise ValueError(f"no checkpoint of a session has such {', '.join(wrong)}")


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_line(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("name", "path", "reason"))


def _is_run(run: Mapping[str, Any]) -> bool:
    texts = isinstance(run.get("code"), str) and isinstance(run.get("cell_id"), str | None)
    return texts and isinstance(run.get("run"), str) and bool(_RUN.fullmatch(run["run"])) and _count(run.get("seq"))


# chunks


def _needed(body: Mapping[str, Any], where: str) -> dict[bytes, int]:
    """Return the chunks that a body refers to, with their bytes; CheckpointDamaged if sizes and names don't fit."""
    found: dict[bytes, int] = {}
    left: list[Any] = [body]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.values())
            if isinstance(value.get("chunks"), list):
                for name, length in _lengths(value, where):
                    if found.setdefault(name, length) != length:
                        raise CheckpointDamaged(f"chunk {name.hex()[:16]} has two sizes in the manifest of {where}")
        elif isinstance(value, list):
            left.extend(value)
    return found


def _lengths(blob: Mapping[str, Any], where: str) -> Iterator[tuple[bytes, int]]:
    size, names = blob.get("size"), blob["chunks"]
    hexed = all(isinstance(name, str) and _HEX.fullmatch(name) for name in names)
    if type(size) is not int or size < 0 or len(names) != -(-size // CHUNK) or not hexed:
        raise CheckpointDamaged(
            f"the newest manifest of {where} has sizes and chunks that don't fit; nothing was taken"
        )
    for index, name in enumerate(names):
        yield bytes.fromhex(name), min(CHUNK, size - index * CHUNK)


def _find(folder: int, where: str, needed: Mapping[bytes, int]) -> list[Place]:
    """Return where each chunk is, in the order of the packs; CheckpointDamaged if one is nowhere, with why maybe."""
    known: dict[bytes, Place] = {}
    damaged = []
    for pack in sorted(name for name in os.listdir(folder) if name.endswith(".pack")):
        try:
            index = _index(pack, folder, f"{where}/{pack}")
        except CheckpointDamaged as error:  # it may be one that this checkpoint does not need
            damaged.append(str(error))
            continue
        for name in needed.keys() & index.keys():
            known[name] = (pack, index[name][0], name)
    if missing := needed.keys() - known.keys():
        why = "; ".join(damaged) or f"no pack in {where} has it"
        raise CheckpointDamaged(f"chunk {min(missing).hex()[:16]} is missing: {why}. Nothing was taken")
    return sorted(known.values())


def _index(pack: str, folder: int, where: str) -> dict[bytes, tuple[int, int]]:
    with _file(pack, folder, where) as (number, size):

        def read(offset: int, length: int) -> bytes:
            if length > _MOST_INDEX:
                raise CheckpointDamaged(f"the pack {where} says that its index has {length} bytes, more than any")
            return _exactly(number, offset, length)

        return index_of(read, size, where)


def _copy(folder: int, where: str, places: list[Place], needed: Mapping[bytes, int], save: Save) -> None:
    for pack, group in groupby(places, key=lambda place: place[0]):
        with _file(pack, folder, f"{where}/{pack}") as (number, size):
            for _, offset, name in group:
                length = needed[name]
                data = _exactly(number, offset, length) if offset + length <= size else b""
                if len(data) != length or digest(data) != name:
                    text = f"chunk {name.hex()[:16]} in {where}/{pack} is not what was saved"
                    raise CheckpointDamaged(f"{text}; copy the folder again. Nothing was taken")
                save.add(data)
