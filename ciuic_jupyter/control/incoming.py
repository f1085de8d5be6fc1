"""Checkpoints that come in from elsewhere: copied aside first, put in their place when a session begins with them."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.foreign import take
from ciuic_jupyter.checkpoint.pack import sync_folder
from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Manifest, Store
from ciuic_jupyter.control.context import Context, life_key
from ciuic_jupyter.control.projections import Book
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.settings import private_directory

_ASIDE = ".import-"  # no session's folder begins so


def _home(context: Context) -> Path:
    return private_directory(context.settings.state_dir / "checkpoints")


def clear(context: Context) -> None:
    """Remove what a plane that was killed in the middle of a copy left."""
    for folder in _home(context).glob(f"{_ASIDE}*"):
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Copy:
    """A checkpoint in a folder of its own that no session has yet."""

    folder: Path
    manifest: Manifest

    def saved(self) -> dict[str, Any]:
        """Return what the ledger keeps of it, like the answer to a save."""
        body = self.manifest.body
        report = {
            "seconds": {},
            "bytes_total": body["bytes_total"],
            "bytes_written": body["bytes_total"],
            "names": sorted(body["names"]),
            "placeholders": body["placeholders"],
            "attempts": 1,
            "run": body.get("run"),
        }
        return {"seq": self.manifest.seq, "report": report}

    @asynccontextmanager
    async def placed(self, context: Context, book: Book) -> AsyncIterator[dict[str, Any]]:
        """Have it where the session of `book` has its checkpoints; gone again if the block fails."""
        target = context.store_directory(book)
        try:
            await asyncio.to_thread(self._place, context, book, target)
            yield self.saved()
        except BaseException:  # a request that is cancelled, too
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _place(self, context: Context, book: Book, target: Path) -> None:
        os.rename(self.folder, target)  # over the empty folder that was just made for it
        sync_folder(target.parent)
        if (url := context.remote(book)) is not None:
            Remote(url).push(Store(target), self.manifest.seq, context.key_of(book))


@asynccontextmanager
async def copied(context: Context, path: str, life: str, *, trust: bool) -> AsyncIterator[Copy]:
    """Copy the newest checkpoint of `path` for a session's life, checked as `foreign.take` does; gone at the end."""
    if not os.path.isabs(path):
        raise UsageError(f"{path[:200]!r} is no absolute path; nothing was taken")
    folder = _home(context) / f"{_ASIDE}{secrets.token_hex(8)}"
    try:
        key, ours = life_key(context.key, life), context.keys()
        manifest = await asyncio.to_thread(take, Path(path), Store(folder), key, trust=trust, ours=ours)
        yield Copy(folder, manifest)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
