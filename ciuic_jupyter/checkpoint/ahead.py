"""Reading ahead: a checkpoint's packs stream into the system's cache while modules load and objects are made."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.arena import available
from ciuic_jupyter.checkpoint.pack import CHUNK, Place, read_index
from ciuic_jupyter.errors import CheckpointDamaged

_STEP = 32 << 20  # bytes asked for at a time
_SHARE = 0.25  # of the free memory that may be read ahead; the objects need as much again


def read_ahead(body: Mapping[str, Any], root: Path) -> None:
    """Have the system read what `body` needs from the store at `root`, in the background and in the order of need.

    Each chunk is checked where it is used, as ever; what can't be read is told there.
    """
    thread = threading.Thread(target=_ask, args=(body, Path(root)), name="checkpoint read ahead", daemon=True)
    thread.start()


def _ask(body: Mapping[str, Any], root: Path) -> None:
    left = int(available() * _SHARE)
    try:
        places = _places(root / "chunks")
        with ExitStack() as stack:
            files: dict[str, int] = {}
            for pack, start, length in _runs(body, places):
                if pack not in files:
                    files[pack] = os.open(root / "chunks" / pack, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                    stack.callback(os.close, files[pack])
                os.posix_fadvise(files[pack], start, length, os.POSIX_FADV_WILLNEED)
                left -= length
                if left < 0:
                    return
    except (OSError, CheckpointDamaged):  # advice alone: whoever needs the bytes tells what is wrong with them
        return


def _places(folder: Path) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for path in sorted(folder.glob("*.pack")):
        found.update((name.hex(), (path.name, *place)) for name, place in read_index(path).items())
    return found


def _runs(body: Mapping[str, Any], places: Mapping[str, Place]) -> Iterator[Place]:
    """Yield what lies one behind the other as one piece, in the order of the manifest."""
    pack, start, end = "", 0, 0
    entries = [*body["blobs"].values(), *body["buffers"]]
    for name in (name for entry in entries for name in entry.get("chunks", ())):
        if name not in places:
            continue
        where, offset, length = places[name]
        if where == pack and end <= offset < end + CHUNK and offset + length - start <= _STEP:
            end = offset + length
            continue
        if end > start:
            yield pack, start, end - start
        pack, start, end = where, offset, offset + length
    if end > start:
        yield pack, start, end - start
