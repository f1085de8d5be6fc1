"""A save that hardly blocks: the structure is pickled at once, the big bytes are written behind the caller's back.

Who writes the memory next decides how: nobody, in an idle kernel, so a forked child shares it (`fork`); a training
step, so it is copied first (`arena`), for that is faster than the page faults after a fork. What did not change is
hashed again all the same: nothing proves that memory is unchanged. A tensor's version does not count writes through
`.data`, a numpy view or a kernel of the user's own, and numpy counts none.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ciuic_jupyter.checkpoint.arena import Arena, NoRoom
from ciuic_jupyter.checkpoint.forked import SILENCE, Beat, Child, ChildLost
from ciuic_jupyter.checkpoint.namespace import HIDDEN, Walked, capture, walked, write
from ciuic_jupyter.checkpoint.store import Save, Store
from ciuic_jupyter.errors import SaveFailed, UsageError

How = Literal["fork", "arena", "inline"]
_SLICE = 8 << 20  # bytes between two signs of life

arena = Arena()  # of this process; `arena.reserve` before the first step spares that step the wait for fresh memory
_in_arena: list[threading.Thread] = []  # the one that still writes from it


class Pending:
    """A save whose bytes are on their way to the store."""

    def __init__(self, how: How, begun: float, head: dict[str, Any]) -> None:
        self.how: How = how  # "inline" as soon as the caller's thread had to write
        self.head = head  # the body without what the writer adds; its placeholders are all there are
        self.why = ""  # why that had to be
        self.seconds: dict[str, float] = {}  # blocked: of the caller; durable: until all was on the disk
        self._begun = begun
        self._body: dict[str, Any] | None = None
        self._turn = threading.Lock()

    def done(self) -> bool:
        """Tell whether nobody writes any more: `body` returns at once, or tells what went wrong."""
        return self._body is not None

    def body(self, silence: float = SILENCE) -> dict[str, Any]:
        """Wait until every byte is durable and return the manifest's body, for `write_manifest`.

        Where the writing process died, or said nothing for `silence` seconds, the variables of NOW are saved here and
        `why` tells so; in another thread than the one that took the snapshot that is a SaveFailed, for the notebook may
        be running. SaveFailed too if the disk refuses.
        """
        with self._turn:
            if self._body is None:
                self._body = self._finish(silence)
                self.seconds.setdefault("durable", time.monotonic() - self._begun)
            return self._body

    def _finish(self, silence: float) -> dict[str, Any]:
        raise NotImplementedError


class _Inline(Pending):
    """Written before the caller went on."""

    def __init__(self, walk: Walked, store: Store, begun: float, why: str = "") -> None:
        super().__init__("inline", begun, walk.head)
        self.why = why
        self._body = {**walk.head, **_written(walk.graph.stream, walk.graph.buffers, store, _nobody)}
        self.seconds["durable"] = time.monotonic() - self._begun


class _Forked(Pending):
    """Written by a child."""

    def __init__(self, walk: Walked, store: Store, begun: float, again: Callable[[], dict[str, Any]]) -> None:
        super().__init__("fork", begun, walk.head)
        views = _own_copies(walk.graph.buffers)
        stream = walk.graph.stream
        self._again, self._thread = again, threading.get_ident()
        self._child: Child | None = Child(lambda beat: _timed(_written(stream, views, store, beat)))

    def done(self) -> bool:
        return self._child is None or self._child.ended()

    def _finish(self, silence: float) -> dict[str, Any]:
        assert self._child is not None
        try:
            written = self._child.wait(silence)
        except ChildLost as error:
            self.how, self.why = "inline", str(error)
            if threading.get_ident() != self._thread:
                raise SaveFailed(f"{error}; nothing was saved, take the checkpoint again") from error
            return self._again()
        self._child = None
        self.seconds["durable"] = written.pop("ended") - self._begun
        return {**self.head, **written}


class _Staged(Pending):
    """Copied into the arena and written by a thread."""

    def __init__(self, walk: Walked, store: Store, begun: float) -> None:
        super().__init__("arena", begun, walk.head)
        for thread in _in_arena:  # one that is still writing from it
            thread.join()
        stream = walk.graph.stream
        alive = [index for index, part in enumerate(stream) if type(part) is not bytes]  # a bytearray of the user's
        copies = arena.copy([*walk.graph.buffers, *(memoryview(stream[index]) for index in alive)])
        views = copies[: len(walk.graph.buffers)]
        self._stream: list[bytes | memoryview] = list(stream)
        for index, copied in zip(alive, copies[len(views) :], strict=True):
            self._stream[index] = copied
        self._store = store
        self._written: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._writer = threading.Thread(target=self._write, args=(views,), name="checkpoint from arena", daemon=True)
        _in_arena[:] = [self._writer]
        self._writer.start()

    def done(self) -> bool:
        return not self._writer.is_alive()

    def _write(self, views: Sequence[memoryview]) -> None:
        try:
            self._written = _timed(_written(self._stream, views, self._store, _nobody))
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            self._error = error

    def _finish(self, silence: float) -> dict[str, Any]:
        self._writer.join()
        if isinstance(self._error, SaveFailed):
            raise self._error
        if self._error is not None:
            kind = type(self._error).__name__
            raise SaveFailed(f"the copy could not be written ({kind}: {self._error}); save again") from self._error
        self.seconds["durable"] = self._written.pop("ended") - self._begun
        return {**self.head, **self._written}


def snapshot(
    namespace: dict[str, Any],
    store: Store,
    how: How = "fork",
    *,
    hidden: Collection[str] = HIDDEN,
    state: Mapping[str, Any] | None = None,
    force_placeholders: Mapping[str, str] | None = None,
) -> Pending:
    """Save like `capture`, but come back before the bytes are on the disk; what is saved is what is there now.

    `fork` is for a kernel between two cells, `arena` for a training step that goes on, `inline` writes before it
    returns, and so do the others where the machine has no room for them. Nothing of the user's may run until this
    returns; afterwards everything may. UsageError for another `how`, SaveFailed if the disk refuses.
    """
    if how not in get_args(How):
        raise UsageError(f"a snapshot can't be taken by {how!r}; say one of {', '.join(get_args(How))}")
    begun = time.monotonic()

    def again() -> dict[str, Any]:
        return capture(namespace, store, hidden=hidden, state=state, force_placeholders=force_placeholders)

    with walked(namespace, hidden=hidden, state=state, force_placeholders=force_placeholders) as walk:
        pending: Pending
        try:
            if how == "fork":
                pending = _Forked(walk, store, begun, again)
            elif how == "arena":
                pending = _Staged(walk, store, begun)
            else:
                pending = _Inline(walk, store, begun)
        except (NoRoom, OSError) as error:
            pending = _Inline(walk, store, begun, str(error))
    pending.seconds["blocked"] = time.monotonic() - begun
    return pending


# the bytes


class _Telling:
    """A save that gives a sign of life every few bytes."""

    def __init__(self, save: Save, beat: Beat) -> None:
        self._save, self._beat = save, beat

    @property
    def bytes_total(self) -> int:
        return self._save.bytes_total

    @property
    def bytes_written(self) -> int:
        return self._save.bytes_written

    def add(self, data: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Store `data` as `Save.add` does."""
        view, names = memoryview(data).cast("B"), []
        for start in range(0, view.nbytes, _SLICE):
            names += self._save.add(view[start : start + _SLICE])["chunks"]
            self._beat()
        return {"size": view.nbytes, "chunks": names}


def _written(
    stream: Sequence[bytes | memoryview], views: Sequence[memoryview], store: Store, beat: Beat
) -> dict[str, Any]:
    with store.save() as save:
        return write(stream, views, _Telling(save, beat))


def _timed(written: dict[str, Any]) -> dict[str, Any]:
    return {**written, "ended": time.monotonic()}


def _nobody() -> None:
    """Tell nobody: the writer is this process itself."""


# memory that a child does not get as it was


def _own_copies(views: Sequence[memoryview]) -> list[memoryview]:
    """Copy those of `views` that lie in shared memory, which a parent's later writes reach in the child too."""
    shared = _shared()
    starts = [start for start, _ in shared]
    return [_copied(view) if _touches(view, shared, starts) else view for view in views]


def _shared() -> list[tuple[int, int]]:
    """Return the address ranges of shared mappings in their order: of files, of other processes, of devices."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights = line.split(" ", 2)[:2]
        if not rights.endswith("p"):
            low, _, high = addresses.partition("-")
            found.append((int(low, 16), int(high, 16)))
    return found


def _touches(view: memoryview, ranges: Sequence[tuple[int, int]], starts: Sequence[int]) -> bool:
    if not view.nbytes:
        return False
    import numpy as np  # noqa: PLC0415 - it tells the address of memory that may be read only

    low = int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
    before = bisect.bisect_left(starts, low + view.nbytes) - 1  # the last range that starts before the end
    return before >= 0 and ranges[before][1] > low


def _copied(view: memoryview) -> memoryview:
    return memoryview(bytes(view))
