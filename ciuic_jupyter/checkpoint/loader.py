"""Putting segments together again: fast when all is well, object by object when something can't be made here."""

from __future__ import annotations

import collections
import gc
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ciuic_jupyter.checkpoint import paths
from ciuic_jupyter.checkpoint.placeholder import Placeholder, describe
from ciuic_jupyter.errors import CheckpointError

_HASHING = (set, dict, collections.defaultdict)
Take = Callable[[Mapping[str, Any], Any], None]


def load_fast(
    stream: bytes | bytearray, buffers: Iterator[Any], segments: Sequence[Mapping[str, Any]], take: Take
) -> None:
    """Hand each segment and its value to `take`; whatever an object raises while it is made comes out."""
    unpickler = pickle.Unpickler(io.BytesIO(stream), buffers=buffers)
    unpickler.load()  # the seeds
    for segment in segments:
        take(segment, unpickler.load())


def load_slowly(
    stream: bytes | bytearray, buffers: Iterator[Any], segments: Sequence[Mapping[str, Any]], take: Take
) -> dict[str, str]:
    """Do the same, with a placeholder for each object that can't be made; return {path: reason}."""
    unpickler = _Patient(io.BytesIO(stream), buffers=buffers)
    unpickler.load()
    failed: dict[str, str] = {}
    for segment in segments:
        value = unpickler.load_segment(segment["name"])
        found = {}
        for placeholder in unpickler.made:
            reason = describe(placeholder)[1]
            path = paths.find(placeholder, segment["name"], value)
            Placeholder.__init__(placeholder, path, reason)
            found[path] = reason
        inside = {path: reason for path, reason in found.items() if not path.endswith(paths.SOMEWHERE)}
        failed |= inside or found  # a class that is missing shows in its objects
        unpickler.made = []
        take(segment, value)
    for (name, path), reason in unpickler.fill_late().items():
        failed[path or name] = reason
    return failed


def rehash(objects: Any) -> None:
    """Set sets and dicts right that hold one of `objects` at the place that its hash had before it was whole."""
    if not isinstance(objects, list) or not objects:
        return
    kinds = {type(each) for each in objects}
    for holder in gc.get_objects():
        if type(holder) in _HASHING and not kinds.isdisjoint(map(type, holder)):
            with suppress(Exception):  # a __hash__ or __eq__ of the user's that raises now raised before
                if any(type(key) in kinds and key not in holder for key in list(holder)):
                    contents = list(holder.items()) if isinstance(holder, dict) else list(holder)
                    holder.clear()
                    holder.update(contents)


class _Patient(pickle._Unpickler):  # noqa: SLF001 - the one whose steps can be caught
    """An unpickler that puts a placeholder where a step fails, and goes on."""

    def __init__(self, file: io.BytesIO, buffers: Iterator[Any]) -> None:
        super().__init__(file, buffers=buffers)
        self.made: list[Placeholder] = []
        self._segment: tuple[str, list[Any]] = ("", [])  # its name, and a place for its value
        self._late: list[tuple[tuple[str, list[Any]], Any, list[Any]]] = []  # segment, container, its contents

    def load_segment(self, name: str) -> Any:
        """Return the next value, which belongs to the variable `name`."""
        place: list[Any] = []
        self._segment = (name, place)
        place.append(self.load())
        return place[0]

    def put_off(self, target: Any, contents: list[Any]) -> None:
        """Fill a set or dict when all is there: a hash of the user's needs its object whole."""
        self._late.append((self._segment, target, contents))

    def fill_late(self) -> dict[tuple[str, str], str]:
        """Fill what was put off; return {(variable, path): reason} of what can't be filled even now."""
        failed: dict[tuple[str, str], str] = {}
        for (name, place), target, contents in self._late:
            try:
                _put(target, contents)
            except Exception as error:  # noqa: BLE001 - whatever the user's __hash__ or __eq__ raises
                path = paths.find(target, name, place[0])
                failed[name, path] = f"not all of it can be put back ({type(error).__name__}: {str(error)[:300]})"
        self._late = []
        return failed

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 - a module of the user's may raise anything when it is run
            return self.missing(error)

    def missing(self, error: BaseException) -> Placeholder:
        """Return a placeholder that gets its path when the whole variable is there."""
        reason = str(error)[:300]
        if not isinstance(error, _Inherited):
            reason = f"it can't be made again ({type(error).__name__}: {reason})"
        placeholder = Placeholder("", reason)
        self.made.append(placeholder)
        return placeholder


class _Inherited(Exception):  # a reason carried from part to whole
    pass


def _why(parts: Sequence[Any]) -> None:
    """Raise with the reason of the first part that is a placeholder: what needs it can't be made."""
    for part in parts:
        if type(part) is Placeholder:
            raise _Inherited(describe(part)[1])


def _reduce(self: Any) -> None:
    args = self.stack.pop()
    function = self.stack[-1]
    try:
        _why([function])
        self.stack[-1] = function(*args)
    except CheckpointError as error:
        _replace(self, args, error)
    except Exception as error:  # noqa: BLE001 - whatever the user's object raises
        _replace(self, args, error)


def _replace(self: Any, args: Any, error: Exception) -> None:
    from ciuic_jupyter.errors import CheckpointDamaged  # noqa: PLC0415 - beside its only use

    if isinstance(error, CheckpointDamaged):
        raise error
    hurt = [part for part in args if type(part) is Placeholder] if isinstance(args, tuple) else []
    self.stack[-1] = self.missing(_Inherited(describe(hurt[0])[1]) if hurt else error)


def _new_object(self: Any) -> None:
    args = self.stack.pop()
    kind = self.stack[-1]
    try:
        _why([kind])
        self.stack[-1] = kind.__new__(kind, *args)
    except Exception as error:  # noqa: BLE001 - whatever the user's class raises
        _replace(self, args, error)


def _new_object_ex(self: Any) -> None:
    keywords = self.stack.pop()
    args = self.stack.pop()
    kind = self.stack[-1]
    try:
        _why([kind])
        self.stack[-1] = kind.__new__(kind, *args, **keywords)
    except Exception as error:  # noqa: BLE001 - whatever the user's class raises
        _replace(self, args, error)


def _put(target: Any, contents: list[Any]) -> None:
    """Put the elements of a set or the flat keys and values of a dict where they belong."""
    if type(target) is set:
        target.update(contents)
    else:
        target.update(zip(contents[::2], contents[1::2], strict=True))


def _hashing(plain: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return `plain`, a step that hashes what it puts into the container on the stack, so that it can be put off."""

    def step(self: Any) -> None:
        target, contents = self.metastack[-1][-1], self.stack
        if type(target) not in (set, dict):
            plain(self)
            return
        try:
            _put(target, contents)
        except Exception:  # noqa: BLE001 - whatever the user's __hash__ or __eq__ raises
            self.put_off(target, contents)
        self.pop_mark()

    return step


def _set_item(self: Any) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self.metastack.append(self.stack)
    self.stack = [key, value]
    self.append = self.stack.append
    self.dispatch[pickle.SETITEMS[0]](self)


def _frozen_set(self: Any) -> None:
    contents = self.pop_mark()
    try:
        self.append(frozenset(contents))
    except Exception as error:  # noqa: BLE001 - whatever the user's __hash__ or __eq__ raises
        self.append(self.missing(error))


def _guarded(plain: Callable[[Any], None], items: bool) -> Callable[[Any], None]:
    """Return the step `plain`, which fills the object on the stack, made harmless."""

    def step(self: Any) -> None:
        target = self.metastack[-1][-1] if items else self.stack[-2]
        depth, height = len(self.metastack) - int(items), len(self.metastack[-1] if items else self.stack[:-1])
        if type(target) is not Placeholder:
            try:
                plain(self)
                return
            except Exception as error:  # noqa: BLE001 - whatever the user's object raises
                failure: Exception | None = error
        else:
            failure = None
        if items and len(self.metastack) > depth:
            self.stack = self.metastack.pop()
            self.append = self.stack.append
        del self.stack[height:]
        if failure is not None:
            hurt = self.missing(failure)
            self.stack[-1] = hurt
            for index, value in self.memo.items():
                if value is target:
                    self.memo[index] = hurt

    return step


def _steps() -> dict[int, Callable[[Any], None]]:
    table = dict(pickle._Unpickler.dispatch)  # noqa: SLF001
    table[pickle.REDUCE[0]] = _reduce
    table[pickle.NEWOBJ[0]] = _new_object
    table[pickle.NEWOBJ_EX[0]] = _new_object_ex
    table[pickle.BUILD[0]] = _guarded(table[pickle.BUILD[0]], False)
    table[pickle.APPENDS[0]] = _guarded(table[pickle.APPENDS[0]], True)
    table[pickle.SETITEM[0]] = _set_item
    table[pickle.FROZENSET[0]] = _frozen_set
    for code in (pickle.SETITEMS, pickle.ADDITEMS):
        table[code[0]] = _hashing(_guarded(table[code[0]], True))
    return table


_Patient.dispatch = _steps()
