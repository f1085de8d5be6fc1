"""Checkpoints between this disk and a machine's, over ssh: packs that are missing there, or here, and a manifest last.

A transfer has a connection and an event loop of its own, in a thread: a big one keeps nobody waiting.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint.collect import chunks_of
from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, MachineUnreachable
from ciuic_jupyter.providers import ssh_link
from ciuic_jupyter.providers.files import behind
from ciuic_jupyter.providers.ssh_link import Target

if TYPE_CHECKING:
    import asyncssh

Do = Callable[[Coroutine[Any, Any, Any]], Any]


def _name(entry: asyncssh.SFTPName) -> str:
    return entry.filename if isinstance(entry.filename, str) else os.fsdecode(entry.filename)


class Files:
    """A machine's files as `checkpoint.remote.Remote` asks for them (a part of what fsspec calls a file system)."""

    def __init__(self, sftp: asyncssh.SFTPClient, do: Do) -> None:
        self._sftp, self._do = sftp, do

    def invalidate_cache(self) -> None:
        """Nothing is cached."""

    def ls(self, path: str, detail: bool = True) -> list[dict[str, Any]]:
        """Return the files of a folder: name, size in bytes, type; FileNotFoundError if there is none."""
        import asyncssh  # noqa: PLC0415 - as in ssh_link

        try:
            found = self._do(self._sftp.readdir(path))
        except asyncssh.SFTPNoSuchFile as error:
            raise FileNotFoundError(path) from error
        regular = [one for one in found if stat.S_ISREG(one.attrs.permissions or 0)]
        return [{"name": f"{path}/{_name(one)}", "size": one.attrs.size or 0, "type": "file"} for one in regular]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file's bytes, or those from `start` to before `end`; FileNotFoundError if there is none."""
        import asyncssh  # noqa: PLC0415 - as in ssh_link

        async def read() -> bytes:
            async with self._sftp.open(path, "rb") as file:
                size = end - (start or 0) if end is not None else -1
                data: Any = await file.read(size, start or 0)  # typed as text, which it is without "b" alone
                return bytes(data)

        try:
            return bytes(self._do(read()))
        except asyncssh.SFTPNoSuchFile as error:
            raise FileNotFoundError(path) from error

    def get_file(self, path: str, target: str) -> None:
        """Copy a file to here, onto the disk: there may be no other copy soon."""
        self._do(self._sftp.get(path, target, follow_symlinks=False))
        number = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(number)
        finally:
            os.close(number)


async def _sftp(connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
    return await connection.start_sftp_client()


@contextmanager
def _files(target: Target) -> Iterator[tuple[asyncssh.SFTPClient, Do]]:
    with asyncio.Runner() as runner:
        connection = runner.run(ssh_link.connect(target))
        try:
            yield runner.run(_sftp(connection)), runner.run
        finally:
            connection.abort()
            runner.run(connection.wait_closed())


def fetch(target: Target, root: str, store: Store, key: bytes, seq: int | None) -> int:
    """Have checkpoint `seq` (None: the newest) of the folder `root` there in `store`; return the bytes that came.

    The errors of `Remote.fetch`; MachineUnreachable if the machine is.
    """
    with _files(target) as (sftp, do):
        remote = Remote(f"ssh://{target}{root}", (Files(sftp, do), root))
        newest = max(remote.manifests(), default=None) if seq is None else seq
        return 0 if newest is None else remote.fetch(store, newest, key)


def events(target: Target, log: str, folder: Path, after: int) -> None:
    """Copy the files of the event log in the folder `log` there that hold events behind `after` into `folder`."""
    import asyncssh  # noqa: PLC0415 - as in ssh_link

    try:
        with _files(target) as (sftp, do):
            files = Files(sftp, do)
            for name in behind((posixpath.basename(one["name"]) for one in files.ls(log)), after):
                files.get_file(f"{log}/{name}", str(folder / name))
    except FileNotFoundError:
        return
    except (OSError, asyncssh.Error) as error:
        raise MachineUnreachable(f"the event log of {target} can't be read: {error}") from error


def send(target: Target, root: str, store: Store, key: bytes, seq: int | None) -> int:
    """Have checkpoint `seq` of `store` (None: none) alone in the folder `root` there; return the bytes sent.

    Only packs that are missing go. What is there is checked chunk by chunk by who loads it.
    """
    import asyncssh  # noqa: PLC0415 - as in ssh_link

    packs: set[Path] = set()
    if seq is not None:
        needed, chunks = set(chunks_of(store.read_manifest(seq, key).body)), store.chunks()
        if absent := needed - chunks.keys():
            raise CheckpointDamaged(f"chunk {min(absent).hex()[:16]} is in no pack of {store.root}; use an older one")
        packs = {chunks[name] for name in needed}
    try:
        with _files(target) as (sftp, do):
            return int(do(_send(sftp, root, sorted(packs), store.manifest_path(seq) if seq is not None else None)))
    except (OSError, asyncssh.Error) as error:
        raise MachineUnreachable(f"the checkpoint can't be brought to {target}: {error}") from error


async def _send(sftp: asyncssh.SFTPClient, root: str, packs: list[Path], manifest: Path | None) -> int:
    sent = 0
    for folder in ("chunks", "manifests"):
        await sftp.makedirs(posixpath.join(root, folder), exist_ok=True)
    for name in await sftp.listdir(posixpath.join(root, "manifests")):
        if name.endswith(".json"):  # of a time that is over: what is newest there is what is brought now
            await sftp.remove(posixpath.join(root, "manifests", name))
    there = {one.filename: one.attrs.size for one in await sftp.readdir(posixpath.join(root, "chunks"))}
    for path in packs:
        if there.get(path.name) != path.stat().st_size:
            sent += await _put(sftp, path, posixpath.join(root, "chunks", path.name))
    if manifest is not None:
        sent += await _put(sftp, manifest, posixpath.join(root, "manifests", manifest.name))
    return sent


async def _put(sftp: asyncssh.SFTPClient, path: Path, there: str) -> int:
    size = os.stat(path).st_size
    partial = f"{posixpath.dirname(there)}/.sent-{posixpath.basename(there)}"
    try:
        await sftp.put(str(path), partial)
        await sftp.chmod(partial, 0o600)
        await sftp.posix_rename(partial, there)
    except BaseException:
        with suppress(Exception):
            await sftp.remove(partial)
        raise
    return size
