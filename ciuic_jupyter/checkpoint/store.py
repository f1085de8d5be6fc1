"""The store of one session's checkpoints: content-addressed chunks in pack files, signed manifests written last."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.pack import (
    CHUNK,
    PackWriter,
    clear_partial,
    digest,
    open_plain,
    pieces,
    read_index,
    sync_folder,
)
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CheckpointUntrusted, SaveFailed

_MAGIC = b"ciuic-manifest-1"
MAX_MANIFEST = 1 << 30  # bytes
_READERS = 2
_APART = 8 << 20  # bytes; smaller blobs are not worth a second thread
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # what file systems say that have none


@dataclass(frozen=True)
class Manifest:
    """One checkpoint as its manifest tells it; `sha` is the digest of the file, for a record kept elsewhere."""

    seq: int
    body: dict[str, Any] = field(repr=False)
    created: float
    sha: str


class Save:
    """The chunks of one save under way; made by `Store.save`."""

    def __init__(self, writer: PackWriter, known: Mapping[bytes, Any]) -> None:
        self._writer = writer
        self._known = known
        self.bytes_total = 0
        self.tell: Callable[[int], None] | None = None  # called with `bytes_total` after each chunk

    @property
    def bytes_written(self) -> int:
        """Bytes of chunks that the store did not have."""
        return self._writer.size

    def add(self, data: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Store `data`; return what `Store.read` needs: its size and the names of its chunks."""
        view = memoryview(data).cast("B")
        names = []
        for piece in pieces(view):
            name = digest(piece)
            if name not in self._known and name not in self._writer:
                self._writer.add(name, piece)
            names.append(name.hex())
            self.bytes_total += piece.nbytes
            if self.tell is not None:
                self.tell(self.bytes_total)
        return {"size": view.nbytes, "chunks": names}


class Store:
    """Checkpoints under one folder. Any number may read; one at a time saves."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._chunks = self.root / "chunks"
        self._manifests = self.root / "manifests"
        self._indexes: dict[str, dict[bytes, tuple[int, int]]] = {}

    def make_folders(self) -> None:
        """Have a place for packs and manifests."""
        for folder in (self.root, self._chunks, self._manifests):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    # chunks

    def _known(self, *, tell: list[str] | None = None) -> dict[bytes, tuple[str, int, int]]:
        """Return where each chunk is; a pack whose index is damaged is left out and told."""
        known: dict[bytes, tuple[str, int, int]] = {}
        names = [path.name for path in sorted(self._chunks.glob("*.pack"))]
        for name in names:
            if name not in self._indexes:
                try:
                    self._indexes[name] = read_index(self._chunks / name)
                except CheckpointDamaged as error:
                    if tell is not None:
                        tell.append(str(error))
                    continue
            known.update((chunk, (name, *place)) for chunk, place in self._indexes[name].items())
        for gone in self._indexes.keys() - set(names):
            del self._indexes[gone]
        return known

    @contextmanager
    def save(self) -> Iterator[Save]:
        """Take chunks; at the end of the block the new ones are durable, or after an exception none is kept.

        SaveFailed if the disk refuses.
        """
        try:
            self.make_folders()
            clear_partial(self._chunks)
            writer = PackWriter(self._chunks)
        except OSError as error:
            raise _refused(self.root, error) from error
        try:
            yield Save(writer, self._known())
            writer.close()
        except OSError as error:
            writer.abort()
            raise _refused(self.root, error) from error
        except BaseException:
            writer.abort()
            raise

    def chunks(self) -> dict[bytes, Path]:
        """Return the file that has each chunk; what is damaged inside a pack shows where it is read."""
        return {name: self.pack_path(place[0]) for name, place in self._known().items()}

    def pack_path(self, name: str) -> Path:
        """Return where the pack called `name` is, or would be."""
        return self._chunks / name

    def reader(self) -> Reader:
        """Return what reads blobs; it sees the packs that are here now."""
        damaged: list[str] = []
        return Reader(self._chunks, self._known(tell=damaged), damaged)

    def distrust(self, pack: str) -> None:
        """Have no later save lean on the chunks of `pack`, which turned out to be damaged."""
        path = self._chunks / pack
        if path.exists():
            os.rename(path, path.with_suffix(".damaged"))
            self._indexes.pop(pack, None)

    # manifests

    def manifests(self) -> list[int]:
        """Return the sequence numbers of the checkpoints here, oldest first."""
        return sorted(int(path.stem) for path in self._manifests.glob("*.json") if path.stem.isdecimal())

    def write_manifest(self, body: Mapping[str, Any], key: bytes) -> Manifest:
        """Sign `body` and write it as the newest checkpoint: all of it or nothing, durable when this returns."""
        self.make_folders()
        while True:
            seq = (self.manifests() or [0])[-1] + 1
            created = time.time()
            payload = _canonical({"body": body, "created": created, "seq": seq})
            data = _head(payload, key) + payload
            try:
                if self._publish(self.manifest_path(seq), data):
                    return Manifest(seq, json.loads(payload)["body"], created, digest(data).hex())
            except OSError as error:
                raise _refused(self.root, error) from error

    def _publish(self, path: Path, data: bytes) -> bool:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(partial, path)  # unlike a rename it never takes the place of another saver's
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if not _renamed(partial, path):
                    return False
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(self._manifests)
        return True

    def read_manifest(self, seq: int | None, key: bytes) -> Manifest:
        """Return checkpoint `seq`, or the newest for None; its signature is checked before a byte is understood.

        CheckpointUntrusted if `key` did not sign it, CheckpointDamaged if it is not whole, CheckpointError if there
        is none. Never another one instead.
        """
        if seq is None:
            seq = (self.manifests() or [0])[-1]
        path = self.manifest_path(seq)
        try:
            number = open_plain(path)
        except OSError as error:
            raise CheckpointError(f"there is no checkpoint {seq} in {self.root}: {error.strerror}") from error
        with os.fdopen(number, "rb") as file:
            data = file.read(MAX_MANIFEST + 1)
        return checked_manifest(data, seq, key, str(path))

    def manifest_path(self, seq: int) -> Path:
        """Return where the manifest of checkpoint `seq` is, or would be."""
        return self._manifests / f"{seq:08d}.json"

    def adopt_manifest(self, data: bytes, seq: int) -> None:
        """Make checkpoint `seq` out of a manifest that was checked, with its packs here; one that is here stays."""
        try:
            self._publish(self.manifest_path(seq), data)
        except OSError as error:
            raise _refused(self.root, error) from error


def checked_manifest(data: bytes, seq: int, key: bytes, where: str) -> Manifest:
    """Return the manifest that `data` is, as `Store.read_manifest` does; `where` names it in errors."""
    payload = _checked(data, key, where)
    if payload.get("seq") != seq:
        raise CheckpointUntrusted(f"the manifest {where} belongs to checkpoint {payload.get('seq')}; it was moved here")
    return Manifest(seq, payload["body"], payload["created"], digest(data).hex())


def _renamed(partial: Path, path: Path) -> bool:
    """Give `partial` the name `path` unless that is taken: who does it here holds a lock, as no link can say it."""
    number = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        if path.exists():
            return False
        os.rename(partial, path)
        return True
    finally:
        os.close(number)


class Reader:
    """Reads blobs and checks each chunk against the name it has in the manifest."""

    def __init__(self, folder: Path, known: Mapping[bytes, tuple[str, int, int]], damaged: Sequence[str]) -> None:
        self._folder = folder
        self._known = known
        self._damaged = damaged
        self._files: dict[str, int] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.bad_packs: set[str] = set()

    def read(self, blob: Mapping[str, Any], what: str) -> bytearray:
        """Return the bytes of `blob`, which is `what` to the reader of an error."""
        data = bytearray(blob["size"])
        self.read_into(blob, memoryview(data), what)
        return data

    def read_into(self, blob: Mapping[str, Any], target: memoryview, what: str) -> None:
        """Fill `target`; CheckpointDamaged names `what`, the chunk and the file."""
        names = blob["chunks"]
        size = target.nbytes
        if size != blob["size"] or len(names) != -(-size // CHUNK):
            raise CheckpointDamaged(f"{what} has {blob['size']} bytes in the manifest where {size} are needed")
        places = [(self._place(name, what), index * CHUNK) for index, name in enumerate(names)]
        if size < _APART:
            for (name, place), start in places:
                self._fill(name, place, target[start : start + CHUNK], what)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_READERS, "checkpoint reader")
        lanes = [self._pool.submit(self._fill_all, places[lane::_READERS], target, what) for lane in range(_READERS)]
        for lane in lanes:
            lane.result()

    def _fill_all(
        self, places: Sequence[tuple[tuple[bytes, tuple[str, int, int]], int]], target: memoryview, what: str
    ) -> None:
        for (name, place), start in places:
            self._fill(name, place, target[start : start + CHUNK], what)

    def _place(self, text: str, what: str) -> tuple[bytes, tuple[str, int, int]]:
        name = bytes.fromhex(text)
        place = self._known.get(name)
        if place is None:
            why = "; ".join(self._damaged) or f"no pack in {self._folder} has it"
            raise CheckpointDamaged(f"chunk {text[:16]} of {what} is missing: {why}; use an older checkpoint")
        pack = place[0]
        if pack not in self._files:
            path = self._folder / pack
            try:
                self._files[pack] = open_plain(path)
            except OSError as error:
                raise CheckpointDamaged(f"the pack {path} of {what} can't be opened: {error.strerror}") from error
        return name, place

    def _fill(self, name: bytes, place: tuple[str, int, int], target: memoryview, what: str) -> None:
        pack, offset, length = place
        done = os.preadv(self._files[pack], [target], offset) if length == target.nbytes else -1
        if done != length or digest(target) != name:
            self.bad_packs.add(pack)
            raise CheckpointDamaged(
                f"chunk {name.hex()[:16]} of {what} in {self._folder / pack} is not what was saved; "
                "use an older checkpoint"
            )

    def close(self) -> None:
        """Let go of threads and files."""
        if self._pool is not None:
            self._pool.shutdown()
        for number in self._files.values():
            os.close(number)
        self._files = {}


def _refused(root: Path, error: OSError) -> SaveFailed:
    return SaveFailed(f"the checkpoint can't be written to {root}: {error.strerror}; make room there, then save again")


def _canonical(value: Any) -> bytes:
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SaveFailed(f"the manifest has something JSON can't say: {error}") from error
    return text.encode()


def _head(payload: bytes, key: bytes) -> bytes:
    """One line before the payload: magic, digest (tells damage from distrust), signature."""
    check = digest(payload).hex().encode()
    sign = hmac.new(key, _MAGIC + payload, hashlib.sha256).hexdigest().encode()
    return b" ".join((_MAGIC, check, sign)) + b"\n"


def _checked(data: bytes, key: bytes, path: str) -> dict[str, Any]:
    if not signed_by(data, key, path):
        raise CheckpointUntrusted(f"the manifest {path} was not signed with this key; nothing of it was loaded")
    return said_by(data, path)


def signed_by(data: bytes, key: bytes, where: str) -> bool:
    """Tell whether `key` signed the manifest that `data` is; CheckpointDamaged if its digest says it is not whole."""
    head, _, payload = data.partition(b"\n")
    words = head.split(b" ")
    if len(words) != 3 or words[0] != _MAGIC or words[1] != digest(payload).hex().encode():
        raise CheckpointDamaged(f"the manifest {where} is damaged or cut off; use an older checkpoint")
    sign = hmac.new(key, _MAGIC + payload, hashlib.sha256).hexdigest().encode()
    return hmac.compare_digest(words[2], sign)


def said_by(data: bytes, where: str) -> dict[str, Any]:
    """Return what a manifest says: only of one that `signed_by` was asked about, and that is trusted."""
    value = json.loads(data.partition(b"\n")[2])
    if not isinstance(value, dict) or not isinstance(value.get("body"), dict):
        raise CheckpointDamaged(f"the manifest {where} has no body; use an older checkpoint")
    return value
