"""A loop of your own in a module: it says where it stands, and asks where it stood.

    def fit(model, optimizer, loader, epochs, job):
        stood = job.restored                             # {} in a run from the beginning
        history = stood.get("history", [])
        for epoch in range(stood.get("step", 0), epochs):
            ...
            job.checkpoint_callback(epoch + 1, history=history)

On the way back the function that the cell called is called again, with the objects it had been called with, in the
state they had. What it does before it reads `restored` is done twice; from there on all is as if never paused.
"""

from __future__ import annotations

import dis
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.resume import randomness
from ciuic_jupyter.resume.iterators import NotResumable, freeze, thaw
from ciuic_jupyter.resume.progress import tell
from ciuic_jupyter.resume.runtime import Library, Site, offer

_TURNS = "turns of the job"
_Place = tuple[str, int, str]


class Job:
    """Boundaries for loops in functions that are not the notebook's: hand it to the function.

    Set `turns` to how many turns there will be, and the run has a forecast; `step` counts them where it is a number.
    """

    turns: int | None = None
    _calls = 0

    def __init__(self) -> None:
        """Make one; it can serve one loop after the other."""
        self._reader: _Place | None = None
        self._back: _Back | None = None

    @property
    def restored(self) -> dict[str, Any]:
        """What the call of `checkpoint_callback` was given that the pause came in; {} in a run from the beginning.

        Read it right before the loop: random numbers go on from here.
        """
        Site.library = True
        self._reader = _place(sys._getframe(1).f_code)
        if self._back is None:
            return {}
        back, self._back = self._back, None
        return back.arrive()

    def checkpoint_callback(self, step: Any = None, /, **state: Any) -> None:
        """Be a boundary at the end of a turn; `step` and `state` are what `restored` is after a pause.

        An iterator in `state` (of a DataLoader, too) goes on where it stands. UsageError on the way back if the loop
        did not read `restored`.
        """
        if self._back is not None:
            self._back = None
            raise UsageError("the loop began anew: it did not read job.restored; run the cell again from its beginning")
        if self.turns is not None:
            self._calls = step if type(step) is int else self._calls + 1
            tell(_TURNS, min(self._calls + 1, self.turns), self.turns)
        if not Site.calm:
            state = state if step is None else {"step": step, **state}
            where = "job.checkpoint_callback()" if step is None else f"job.checkpoint_callback({step!r})"
            offer(Library(where, lambda called: _Back(self, called, state)))

    @property
    def reader(self) -> _Place | None:
        """The function that read `restored` last."""
        return self._reader

    def come_back(self, back: _Back) -> None:
        """Expect `restored` to be read, for `back`."""
        self._back = back


class _Back:
    """Calls a function again: saved as it is made, called in another process."""

    def __init__(self, job: Job, called: FrameType, state: dict[str, Any]) -> None:
        if job.reader is None or job.reader not in _places_up_to(called):
            raise NotResumable(f"{called.f_code.co_qualname} did not read job.restored, so it would begin anew")
        self._job = job
        self._function = _function(called.f_code)
        self._positional, self._named = _arguments(called)
        self._random = randomness.take()
        self._state = {name: value for name, value in state.items() if not hasattr(value, "__next__")}
        self._iterators = {name: freeze(value) for name, value in state.items() if hasattr(value, "__next__")}
        self._order = list(state)

    def __call__(self) -> Any:
        """Go on; return what the function returns."""
        self._job.come_back(self)
        positional, self._positional = self._positional, ()
        named, self._named = self._named, {}
        return self._function(*positional, **named)

    def arrive(self) -> dict[str, Any]:
        """Be where the pause was, and return what was kept."""
        found = {**self._state, **{name: thaw(frozen) for name, frozen in self._iterators.items()}}
        randomness.put(self._random)
        return {name: found[name] for name in self._order}


def _place(code: CodeType) -> _Place:
    return code.co_filename, code.co_firstlineno, code.co_qualname


def _places_up_to(called: FrameType) -> Iterator[_Place]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield _place(frame.f_code)
        frame = frame.f_back if frame is not called else None


def _function(code: CodeType) -> Callable[..., Any]:
    """Return the function that runs `code`; NotResumable if there is not just one."""
    found = [one for one in gc.get_referrers(code) if isinstance(one, FunctionType) and one.__code__ is code]
    if len(found) != 1 or code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE):
        raise NotResumable(f"{code.co_qualname} can't be called again")
    return found[0]


def _arguments(called: FrameType) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the function was called with; NotResumable if it has changed its parameters since."""
    known = inspect.getargs(called.f_code)
    count = called.f_code.co_argcount
    parameters = [*known.args, *filter(None, (known.varargs, known.varkw))]
    if changed := set(parameters) & set(_stored(called.f_code)):
        names = ", ".join(sorted(changed))
        raise NotResumable(f"{called.f_code.co_qualname} changed its parameter {names}, so it can't be called again")
    values = called.f_locals
    positional = [values[name] for name in known.args[:count]]
    positional += values[known.varargs] if known.varargs else ()
    named = {name: values[name] for name in known.args[count:]}
    return tuple(positional), {**named, **(values[known.varkw] if known.varkw else {})}


def _stored(code: CodeType) -> Iterator[str]:
    for one in dis.get_instructions(code):
        if one.opname.startswith(("STORE_FAST", "DELETE_FAST", "STORE_DEREF", "DELETE_DEREF")):
            names = (one.argval,) if isinstance(one.argval, str) else tuple(one.argval)
            yield from names[:1] if one.opname == "STORE_FAST_LOAD_FAST" else names
