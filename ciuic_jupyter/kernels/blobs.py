"""Big data between plane and kernel: raw bytes on a websocket of their own, kept in a file until used.

The file lies in the machine's directory: the page cache makes it as fast as shared memory, and nothing stays in memory
when an agent is killed. Upload: the plane opens /blob/<id>, sends binary frames and then one text frame "end"; the
agent answers {"size": n} as text. Download of a pulled blob: the agent sends binary frames, then {"size": n} as text,
and closes; it is deleted once it was sent whole, so a cut download can be asked again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import OrderedDict
from pathlib import Path
from uuid import uuid4

from websockets.asyncio.server import ServerConnection

from ciuic_jupyter.errors import ProtocolError, UsageError
from ciuic_jupyter.kernels.protocol import BLOB_CHUNK

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PULLED_KEPT = 16


class Blobs:
    """The files of one machine's blobs."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, emptied: what an earlier agent left there belongs to nobody."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in directory.iterdir():
            path.unlink()
        self._directory = directory
        self._uploaded: set[str] = set()
        self._pulled: OrderedDict[str, int] = OrderedDict()

    async def serve(self, blob: str, socket: ServerConnection) -> None:
        """Receive or send one blob, as its id says."""
        if not _ID.fullmatch(blob):
            raise ProtocolError("a blob's id has other characters than letters, digits, _ and -")
        if blob in self._pulled:
            await self._send(blob, socket)
        else:
            await self._receive(blob, socket)

    async def _receive(self, blob: str, socket: ServerConnection) -> None:
        path = self._directory / blob
        size = 0
        whole = False
        with path.open("wb", buffering=0) as file:
            path.chmod(0o600)
            try:
                async for data in socket:
                    if isinstance(data, str):
                        whole = data == "end"
                        break
                    await asyncio.to_thread(file.write, data)
                    size += len(data)
            finally:
                if not whole:
                    path.unlink(missing_ok=True)
        if whole:
            self._uploaded.add(blob)
            await socket.send(json.dumps({"size": size}))

    async def _send(self, blob: str, socket: ServerConnection) -> None:
        with (self._directory / blob).open("rb") as file:
            while data := await asyncio.to_thread(file.read, BLOB_CHUNK):
                await socket.send(data)
        size = self._pulled[blob]
        await socket.send(json.dumps({"size": size}))
        await socket.close()
        self.drop(blob)

    def uploaded(self, blob: object) -> Path:
        """Return the file of an uploaded blob; UsageError if it did not arrive."""
        if not isinstance(blob, str) or blob not in self._uploaded:
            raise UsageError(f"blob {blob!r} did not arrive whole; upload it again")
        return self._directory / blob

    def new(self) -> tuple[str, Path]:
        """Return an id and a path where the kernel may write a blob to be pulled."""
        blob = uuid4().hex
        return blob, self._directory / blob

    def pulled(self, blob: str) -> int:
        """Offer a written blob to the plane; return its size in bytes."""
        size = (self._directory / blob).stat().st_size
        self._pulled[blob] = size
        while len(self._pulled) > _PULLED_KEPT:
            self.drop(next(iter(self._pulled)))
        return size

    def drop(self, blob: str) -> None:
        """Forget a blob and delete its file."""
        self._pulled.pop(blob, None)
        self._uploaded.discard(blob)
        (self._directory / blob).unlink(missing_ok=True)
