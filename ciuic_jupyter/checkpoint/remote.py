"""Checkpoints in an object store, reached through fsspec; the folder of a `Store` is what they are copied from and to.

The remote has the folder's own form: packs in `chunks`, manifests in `manifests`, and a manifest is written last.
Whatever manifest is there was read back with all it needs before it was written. Credentials are those that the
backend finds in its usual environment and files; an address with some in it is refused.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Collection, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import blake3

from ciuic_jupyter.checkpoint.collect import chunks_of
from ciuic_jupyter.checkpoint.pack import CHUNK, digest, index_of, read_index, sync_folder
from ciuic_jupyter.checkpoint.store import Store, checked_manifest
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CiuicError, SaveFailed, UsageError

_BLOCK = 8 << 20  # bytes read at a time
_LONGEST = 300  # characters of what a backend says
_NO_FOLDERS = ("s3", "gs", "gcs", "oss")  # making a folder there would make a bucket, which is for its owner to do
_OPTIONS: dict[str, dict[str, Any]] = {  # so that a store that does not answer is told before a pause gets old
    "s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}},
}


def check_url(url: str) -> str:
    """Return `url` if checkpoints may be kept there; UsageError for one that is none or that has credentials in it."""
    parts = urlsplit(url)
    if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
        raise UsageError("the address of a checkpoint store is like s3://bucket/folder; CIUIC_CHECKPOINT_URL is not")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "CIUIC_CHECKPOINT_URL must hold no credentials and no options: give them to the backend in its usual "
            "environment or files"
        )
    return url.rstrip("/")


class Remote:
    """One session's checkpoints under `url`; nothing is asked of it before the first call. One at a time writes."""

    def __init__(self, url: str, opened: tuple[Any, str] | None = None) -> None:
        """`opened`: what answers there as a file system of fsspec does, and the folder in it; else `url` says which."""
        self.url = url if opened is not None else check_url(url)
        self._opened = opened
        self._indexes: dict[tuple[str, int], Set[bytes]] = {}  # of packs there, by name and size
        self._proven: set[str] = set()  # packs that were read back, by this process or before an older manifest

    def push(self, store: Store, seq: int, key: bytes) -> int:
        """Copy checkpoint `seq` of `store` there, packs first; return the bytes sent.

        Each file is read back and compared before the next. SaveFailed if the remote refuses or keeps something else;
        what is there then has no manifest, and counts for nothing.
        """
        with self._told(SaveFailed, "written to", "see to that, then save again"):
            manifest = store.read_manifest(seq, key)
            self._learn(store, key)
            sent, there = 0, self._sizes("chunks")
            for path in sorted(_packs_of(store, set(chunks_of(manifest.body)))):
                if path.name in self._proven and there.get(path.name) == path.stat().st_size:
                    continue
                sent += self._send(path, f"chunks/{path.name}", there.get(path.name))
                self._proven.add(path.name)
            path = store.manifest_path(seq)
            return sent + self._send(path, f"manifests/{path.name}", None)

    def fetch(self, store: Store, seq: int, key: bytes) -> int:
        """Have checkpoint `seq` in `store`, with only what is missing there brought; return the bytes brought.

        The manifest's signature is checked before it is understood, each pack before it gets its name. Errors are
        those of `Store.read_manifest`, with the remote's address; CheckpointError if it can't be reached.
        """
        with self._told(CheckpointError, "read from", "see to that, then try again"):
            store.make_folders()
            data, path = b"", store.manifest_path(seq)
            if path.exists():
                body = store.read_manifest(seq, key).body
            else:
                data = self._manifest(seq)
                body = checked_manifest(data, seq, key, f"{self.url}/manifests/{path.name}").body
            brought = self._bring(store, set(chunks_of(body)))
            if data:
                store.adopt_manifest(data, seq)
            return brought + len(data)

    def sweep(self, keep: Collection[int], key: bytes) -> tuple[str, ...]:
        """Remove all checkpoints there but those in `keep`, then the packs that none of these needs; return the packs.

        Nothing is removed if a kept one can't be read; a pack with a damaged index stays. Killed in the middle it
        leaves whole checkpoints, as manifests go first. Only who saves here may call it, between two saves.
        """
        with self._told(CheckpointError, "cleared in", "what is kept is whole, try again"):
            if not keep:
                raise UsageError("that would leave no checkpoint; keep 1 or more")
            needed: set[bytes] = set()
            for seq in sorted(keep):
                where = f"{self.url}/manifests/{seq:08d}.json"
                needed.update(chunks_of(checked_manifest(self._manifest(seq), seq, key, where).body))
            sizes = self._sizes("chunks")
            going = [name for name, size in sizes.items() if self._unneeded(name, size, needed)]
            for name in self._sizes("manifests"):
                if name not in {f"{seq:08d}.json" for seq in keep}:
                    self._fs.rm_file(self._path(f"manifests/{name}"))
            for name in going:
                self._fs.rm_file(self._path(f"chunks/{name}"))
                self._proven.discard(name)
            self._indexes = {key: self._indexes[key] for key in sizes.items() if key in self._indexes}
            return tuple(sorted(going))

    def manifests(self) -> list[int]:
        """Return the sequence numbers of the checkpoints there, oldest first."""
        with self._told(CheckpointError, "listed in", "see to that, then try again"):
            return sorted(self._numbers())

    # there

    @property
    def _fs(self) -> Any:
        return self._open()[0]

    def _path(self, name: str) -> str:
        return posixpath.join(self._open()[1], name)

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            import fsspec  # noqa: PLC0415 - only who keeps checkpoints elsewhere waits for it

            options = {"use_listings_cache": False, **_OPTIONS.get(urlsplit(self.url).scheme, {})}
            self._opened = fsspec.core.url_to_fs(self.url, **options)
        return self._opened

    def _sizes(self, folder: str) -> dict[str, int]:
        """Return the files of `folder` with their bytes; none if it is not there yet."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        files = {posixpath.basename(one["name"]): int(one["size"]) for one in found if one["type"] == "file"}
        return {name: size for name, size in files.items() if name.endswith((".pack", ".json"))}

    def _numbers(self) -> set[int]:
        names = (Path(name) for name in self._sizes("manifests"))
        return {int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdecimal()}

    def _manifest(self, seq: int) -> bytes:
        try:
            return bytes(self._fs.cat_file(self._path(f"manifests/{seq:08d}.json")))
        except FileNotFoundError as error:
            raise CheckpointError(f"there is no checkpoint {seq} in {self.url}") from error

    def _unneeded(self, name: str, size: int, needed: Set[bytes]) -> bool:
        with suppress(CheckpointDamaged):
            if (name, size) not in self._indexes:  # which never changes under a name
                self._indexes[name, size] = self._index(name, size)
            return needed.isdisjoint(self._indexes[name, size])
        return False

    def _index(self, name: str, size: int) -> Set[bytes]:
        path = self._path(f"chunks/{name}")

        def read(offset: int, length: int) -> bytes:
            return bytes(self._fs.cat_file(path, start=offset, end=offset + length))

        return index_of(read, size, f"{self.url}/chunks/{name}").keys()

    # copying

    def _learn(self, store: Store, key: bytes) -> None:
        """Take as proven what older manifests there refer to: it was read back before they were written."""
        if self._proven:
            return
        for seq in self._numbers() & set(store.manifests()):
            with suppress(CheckpointError):  # of nobody's use: its packs are read back again
                paths = _packs_of(store, set(chunks_of(store.read_manifest(seq, key).body)))
                self._proven.update(path.name for path in paths)

    def _send(self, source: Path, name: str, there: int | None) -> int:
        """Write a file unless it is there, then compare what is there with it; return the bytes sent."""
        size, path = source.stat().st_size, self._path(name)
        wanted = _sum(source.open("rb"))
        for attempt in (1, 2):
            again = attempt == 2 or there != size
            if again:
                if urlsplit(self.url).scheme not in _NO_FOLDERS:
                    self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
                self._fs.put_file(str(source), path)
                self._fs.invalidate_cache()
            if _sum(self._fs.open(path, "rb", block_size=_BLOCK)) == wanted:
                return size if again else 0
            if again:
                break
        with suppress(Exception):
            self._fs.rm_file(path)
        raise SaveFailed(f"{self.url}/{name} is not what was written to it when it is read back; save again")

    def _bring(self, store: Store, needed: set[bytes]) -> int:
        missing, brought = needed - store.chunks().keys(), 0
        here = {path.name for path in store.chunks().values()}
        damaged = []
        for name, size in sorted(self._sizes("chunks").items()) if missing else ():
            if name in here or not missing:
                continue
            try:
                has = self._index(name, size)
            except CheckpointDamaged as error:  # it may be one that this checkpoint does not need
                damaged.append(str(error))
                continue
            if not missing.isdisjoint(has):
                self._bring_pack(store, name)
                missing -= has
                brought += size
        if missing:
            why = "; ".join(damaged) or f"no pack in {self.url} has it"
            raise CheckpointDamaged(f"chunk {min(missing).hex()[:16]} is missing: {why}; use an older checkpoint")
        return brought

    def _bring_pack(self, store: Store, name: str) -> None:
        target = store.pack_path(name)
        partial = target.with_name(f".fetched-{secrets.token_hex(8)}")
        try:
            self._fs.get_file(self._path(f"chunks/{name}"), str(partial))
            partial.chmod(0o600)
            _check_pack(partial, f"{self.url}/chunks/{name}")
            partial.rename(target)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _told(self, kind: type[CheckpointError], what: str, then: str) -> Iterator[None]:
        """Say in our words what a backend raises, which may be anything."""
        try:
            yield
        except CiuicError:
            raise
        except ImportError as error:
            scheme = urlsplit(self.url).scheme
            raise kind(f"{self.url} needs `pip install 'ciuic_jupyter[{scheme}]'`: {_first_line(error)}") from error
        except Exception as error:
            text = f"the checkpoint can't be {what} {self.url}: {type(error).__name__}: {_first_line(error)}"
            raise kind(f"{text}; {then}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "it says no more")[:_LONGEST]


def _packs_of(store: Store, needed: set[bytes]) -> set[Path]:
    """Return the packs here that have what is needed; CheckpointDamaged if something is in none."""
    chunks = store.chunks()
    if absent := needed - chunks.keys():
        raise CheckpointDamaged(f"chunk {min(absent).hex()[:16]} is in no pack of {store.root}; save again")
    return {chunks[name] for name in needed}


def _sum(file: Any) -> bytes:
    """Return the digest of all that an open file has, and close it."""
    found = blake3.blake3()
    with file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.digest()


def _check_pack(path: Path, where: str) -> None:
    try:
        index = read_index(path)
    except CheckpointDamaged:
        raise CheckpointDamaged(f"the pack {where} is damaged or cut off; use an older checkpoint") from None
    with path.open("rb") as file:
        for name, (offset, length) in index.items():
            file.seek(offset)
            if length > CHUNK or digest(file.read(length)) != name:
                text = f"chunk {name.hex()[:16]} in {where} is not what was saved"
                raise CheckpointDamaged(f"{text}; use an older checkpoint")
