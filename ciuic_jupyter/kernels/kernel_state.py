"""What a shell holds beside the user's variables: hidden names, history, and what is still running."""

from __future__ import annotations

import ast
import asyncio
import builtins
import getpass
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.placeholder import Placeholder

_HISTORY = re.compile(r"_{1,3}|_i{1,3}|_i?\d+")  # names that IPython binds anew with each cell
_MACHINERY = frozenset({"ipykernel", "zmq", "tornado", "ciuic_jupyter"})
_RESTARTS = frozenset({"tqdm"})  # packages whose threads start again by themselves
_LAST = ("_", "__", "___")  # values the display hook compares with the user's, to leave one assigned by hand alone
_PREVIOUS = ("_i00", "_i", "_ii", "_iii")  # what the history manager moves one further with each cell


_WITH_OUTPUTS = ("outputs", "names", "last")  # parts of the state that hold values of cells
_OUTPUT = re.compile(r"state\['(?P<part>outputs|names|last)'\]\[(?P<key>'\w+'|\d+)\]")  # where one is in a save


def hidden_names(shell: Any) -> set[str]:
    """Return the names in the user's namespace that IPython put there and the user has not taken over."""
    user, ours = shell.user_ns, shell.user_ns_hidden
    return {name for name in user if _HISTORY.fullmatch(name) or (name in ours and user[name] is ours[name])}


def session_state(shell: Any, held: int | None = None) -> dict[str, Any]:
    """Return the history of `shell`: its objects are the live ones, so that they keep their identity in a save.

    `held` is the number of the cell under way, if its input is in the history already: the next cell counts from there.
    """
    history, user, ours = shell.history_manager, shell.user_ns, shell.user_ns_hidden
    names = {name: value for name, value in user.items() if _HISTORY.fullmatch(name)}
    return {
        "execution_count": shell.execution_count if held is None else max(shell.execution_count, held + 1),
        "inputs": list(history.input_hist_parsed),
        "inputs_raw": list(history.input_hist_raw),
        "outputs": dict(history.output_hist),
        "folders": [str(folder) for folder in history.dir_hist],
        "names": names,
        "taken": [name for name, value in names.items() if ours.get(name, names) is not value],
        "last": {name: getattr(shell.displayhook, name) for name in _LAST},
        "previous": {name: getattr(history, name) for name in _PREVIOUS},
    }


def give_up(state: dict[str, Any], forced: Mapping[str, str]) -> dict[str, str]:
    """Put a placeholder into `state` for each output of a cell that `forced` (path -> reason) says does not load again.

    Return what is left of `forced`.
    """
    left: dict[str, str] = {}
    for path, reason in forced.items():
        found = _OUTPUT.match(path)
        values = state[found["part"]] if found else {}
        key = ast.literal_eval(found["key"]) if found else None
        if key not in values:
            left[path] = reason
            continue
        where = f"Out[{key}]" if found and found["part"] == "outputs" else str(key)
        lost, placeholder = values[key], Placeholder(where, reason)
        for part in _WITH_OUTPUTS:
            state[part] = {name: placeholder if value is lost else value for name, value in state[part].items()}
    return left


def apply_session_state(shell: Any, state: Mapping[str, Any]) -> None:
    """Put the history of another kernel in the place of this one's; In, Out and friends stay the same objects.

    A part that could not be saved is not in `state`; the others are applied.
    """
    history, user = shell.history_manager, shell.user_ns
    for name in [name for name in user if _HISTORY.fullmatch(name)]:
        del user[name]
        shell.user_ns_hidden.pop(name, None)
    history.input_hist_parsed[:] = state.get("inputs", [""])
    history.input_hist_raw[:] = state.get("inputs_raw", [""])
    history.output_hist.clear()
    history.output_hist.update(state.get("outputs", {}))
    history.dir_hist[:] = [Path(folder) for folder in state.get("folders", ())]
    shell.execution_count = state.get("execution_count", 1)
    taken, names = set(state.get("taken", ())), state.get("names", {})
    shell.push({name: value for name, value in names.items() if name not in taken}, interactive=False)
    shell.push({name: value for name, value in names.items() if name in taken})
    for owner, key in ((shell.displayhook, "last"), (history, "previous")):
        for name, value in state.get(key, {}).items():
            setattr(owner, name, value)


@contextmanager
def between_cells(shell: Any) -> Iterator[None]:
    """Put what IPython and ipykernel set for the length of a cell as it is between two, and back again.

    It is no state of the user's, and leads to what no save can hold.
    """
    kernel, display = shell.kernel, shell.display_trap
    set_for_a_cell = (
        (builtins, "input", kernel.raw_input, kernel._sys_raw_input),  # noqa: SLF001 - nothing public tells
        (getpass, "getpass", kernel.getpass, kernel._save_getpass),  # noqa: SLF001
        (sys, "displayhook", display.hook, display.old_hook),
        (sys, "excepthook", shell.excepthook, shell.sys_excepthook),
    )
    changed = [
        (owner, name, ours, before) for owner, name, ours, before in set_for_a_cell if getattr(owner, name) == ours
    ]
    for owner, name, _, before in changed:
        setattr(owner, name, before)
    shell.builtin_trap.deactivate()
    try:
        yield
    finally:
        shell.builtin_trap.activate()
        for owner, name, ours, _ in changed:
            setattr(owner, name, ours)


class Watch:
    """Tells what runs in this process that no checkpoint can hold; what ran when it was made is the kernel's own."""

    def __init__(self) -> None:
        self._ours = set(threading.enumerate())

    def running(self) -> list[str]:
        """Return a line for each thread, asyncio task and child process of the user's."""
        return [*self._threads(), *self._tasks(), *_children()]

    def _threads(self) -> list[str]:
        found = []
        for thread in threading.enumerate():
            modules = {type(thread).__module__, getattr(getattr(thread, "_target", None), "__module__", None) or ""}
            packages = {module.partition(".")[0] for module in modules}
            if thread not in self._ours and not packages & (_MACHINERY | _RESTARTS):
                found.append(f"thread {thread.name} was running")
        return found

    def _tasks(self) -> list[str]:
        try:
            tasks = asyncio.all_tasks()
        except RuntimeError:  # no loop runs
            return []
        found = []
        for task in tasks:
            frame = getattr(task.get_coro(), "cr_frame", None)
            module = frame.f_globals.get("__name__", "") if frame is not None else ""
            if str(module).partition(".")[0] not in _MACHINERY:
                found.append(f"asyncio task {task.get_name()} was running")
        return sorted(found)


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:  # the thread ended, or the system does not list children
            continue
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if command:  # a zombie has none
                words = command.replace(b"\0", b" ").decode(errors="replace").strip()
                found.append(f"process {pid} ({words[:80]}) was running")
    return found
