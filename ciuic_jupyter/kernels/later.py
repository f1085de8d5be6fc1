"""The end of a save whose bytes are written while the cell goes on: a thread of the kernel tells it in a file."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.errors import CiuicError, by_name
from ciuic_jupyter.kernels.variables import write_file

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.snapshot import Pending

_UNTOLD = "the checkpoint was written, and then its list could not be; make room on the machine's disk, then save again"


class Later:
    """One such save, in the kernel; the file is there, whole, when every byte is durable or none will be."""

    def __init__(self, path: Path) -> None:
        """OSError if the file can't be made."""
        self._path = path
        self._untold = path.with_suffix(".untold")  # made now: a disk that is full later can still rename it
        self._thread: threading.Thread | None = None
        write_file([_failure("SaveFailed", _UNTOLD)], self._untold)

    def start(self, pending: Pending, more: Mapping[str, Any]) -> None:
        """Wait for `pending` in a thread; `more` goes into its body, placeholders to those that it has."""
        self._thread = threading.Thread(target=self._run, args=(pending, more), name="checkpoint's end", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until nothing of it is written any more: one at a time saves to a store."""
        if self._thread is not None:
            self._thread.join()

    def drop(self) -> None:
        """Leave no file behind; nobody waits for it."""
        self._untold.unlink(missing_ok=True)

    def _run(self, pending: Pending, more: Mapping[str, Any]) -> None:
        from ciuic_jupyter.checkpoint.snapshot import arena  # noqa: PLC0415 - only a kernel that is saved needs it

        try:
            body = pending.body()
            body = {**body, **more, "placeholders": [*body["placeholders"], *more["placeholders"]]}
            told = json.dumps({"body": body}).encode()
        except CiuicError as error:
            told = _failure(type(error).__name__, str(error))
        except BaseException as error:  # noqa: BLE001 - somebody waits for the file, whatever happens
            told = _failure("SaveFailed", f"the save failed: {type(error).__name__}: {error}; save again")
        arena.release()  # until the next checkpoint, which is minutes away, its memory is the user's
        try:
            write_file([told], self._path)
        except OSError:
            with suppress(OSError):
                os.replace(self._untold, self._path)
        else:
            self.drop()


def _failure(kind: str, message: str) -> bytes:
    return json.dumps({"type": kind, "message": message}).encode()


def read_body(path: Path) -> dict[str, Any] | None:
    """Return the body that the kernel told of in `path`, once; None if it told nothing yet. What failed is raised."""
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    if "body" not in told:
        raise by_name(str(told.get("type")))(str(told.get("message")))
    return dict(told["body"])
