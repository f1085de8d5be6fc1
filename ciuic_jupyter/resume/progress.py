"""How far the loops under way are: looked at from outside, about once a second, so that a loop's turn costs no more.

Only iterators of exactly known types are asked, and only what runs no code of the user's: no `__len__`, no
`__length_hint__`, no generator's frame. What is not known is told as not known, with its name.
"""

from __future__ import annotations

import ast
import gc
import itertools
import operator
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import GeneratorType
from typing import Any, NamedTuple

from ciuic_jupyter.resume import iterators
from ciuic_jupyter.resume.rewrite import Unit, key_of
from ciuic_jupyter.resume.runtime import ASIDE, BARS, LOOPS, Site

_MOST = 16  # loops one inside the other that are told, outermost first
_DEPTH = 8  # links of a chain such as enumerate(tqdm(zip(...)))
_WIDTH = 64  # iterators of one zip, referents of one generator
_NAME = 60
_SAMPLER = "torch/utils/data/sampler.py"
_BARS = ("tqdm/std.py", "tqdm/notebook.py", "tqdm/asyncio.py")
_SAMPLING, _LOADING = "torch.utils.data.sampler", "torch.utils.data.dataloader"
_LOADERS = ("_SingleProcessDataLoaderIter", "_MultiProcessingDataLoaderIter")


class Position(NamedTuple):
    """Items that were taken, the one under way among them (None: not known), and items that are left.

    `rough`: by the count of a progress bar, which may be behind.
    """

    taken: int | None
    left: int
    rough: bool = False


def position(iterator: Any) -> Position | None:
    """Return how far `iterator` is, None if its length is not known; runs no code of the user's and raises nothing."""
    try:
        return _position(iterator, _DEPTH)
    except Exception:  # noqa: BLE001 - a library of another version; nothing of it may reach the cell
        return None


def name_of(kind: type) -> str:
    """Return the name of a class, past whatever its metaclass does."""
    return str(type.__dict__["__name__"].__get__(kind))


def _home(kind: type) -> str:
    """Return the module of a class in the same way."""
    module = type.__dict__["__module__"].__get__(kind)
    return module if type(module) is str else ""


def _position(iterator: Any, depth: int) -> Position | None:
    kind = type(iterator)
    if kind in _PLAIN:
        left = operator.length_hint(iterator)
        return Position(_PLAIN[kind](iterator, left), left)
    if depth <= 0:
        return None
    if kind in _CHAINS:
        return _shortest(_CHAINS[kind](iterator), depth - 1)
    if kind is GeneratorType:
        return _of_generator(iterator, depth - 1)
    if _home(kind) == _LOADING and name_of(kind) in _LOADERS:
        return _of_loader(iterator, depth - 1)
    if kind is _SEQUENCE:
        return _of_array(iterator)
    return None


def _shortest(several: Any, depth: int) -> Position | None:
    """Return where the one of several stands that ends first; None if one of unknown length may end before it."""
    known = [_position(one, depth) for one in several[:_WIDTH]]
    found = [one for one in known if one is not None]
    endless = [one for one in several[:_WIDTH] if type(one) in (itertools.count, itertools.cycle)]
    if not found or len(found) + len(endless) < len(several):
        return None
    return min(found, key=lambda one: one.left)


def _index(iterator: Any, left: int) -> int | None:
    """Return the index that builtin iterators over a sequence tell; at their end they forget it."""
    told = iterator.__reduce__()
    return told[2] if left and len(told) > 2 and type(told[2]) is int else None


def _untold(iterator: Any, left: int) -> None:
    return None


_EMPTY: dict[Any, Any] = {}
_INDEXED: tuple[Any, ...] = (range(0), range(1 << 99), [], (), "", "é", b"", bytearray())
_VIEWS: tuple[Any, ...] = (_EMPTY, _EMPTY.values(), _EMPTY.items(), deque())
_PLAIN: dict[type, Callable[[Any, int], int | None]] = {
    **{type(iter(one)): _index for one in _INDEXED},
    **{type(iter(one)): _untold for one in (*_VIEWS, set())},
    **{type(reversed(one)): _untold for one in (*_VIEWS, [])},
    type(itertools.repeat(0, 1)): _untold,
}
_SEQUENCE = type(iter(type("_", (), {"__getitem__": lambda self, at: at})()))


def _parts(chain: Any) -> tuple[Any, ...]:
    parts: tuple[Any, ...] = chain.__reduce__()[1]
    return parts


_CHAINS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    enumerate: lambda one: _parts(one)[:1],
    zip: _parts,
    map: lambda one: _parts(one)[1:],
    filter: lambda one: _parts(one)[1:],  # its place in what it reads
}


def _of_array(iterator: Any) -> Position | None:
    """Where an iteration over a numpy array stands."""
    told = iterator.__reduce__()
    array, taken = told[1][0], told[2] if len(told) > 2 else None
    numpy = sys.modules.get("numpy")
    if numpy is None or type(array) is not numpy.ndarray or type(taken) is not int:
        return None
    return Position(taken, max(0, int(array.shape[0]) - taken))


def _held(generator: Any) -> list[Any]:
    """Return what a generator's frame holds, without a look at its variables by name: that would keep them alive."""
    return gc.get_referents(generator)[: 2 * _WIDTH]


def _of_generator(generator: Any, depth: int) -> Position | None:
    code = generator.gi_code
    file = code.co_filename.replace("\\", "/")
    if code.co_name == "__iter__" and file.endswith(_BARS):
        return _of_bar(generator, depth)
    if code.co_name == "__iter__" and file.endswith(_SAMPLER):
        return _of_sampler(generator, depth)
    if code.co_filename == iterators.__file__:  # a bar that goes on after a resume
        inner = [one for one in _held(generator) if type(one) is GeneratorType]
        return next((found for one in inner if (found := _position(one, depth)) is not None), None)
    return None


def _of_bar(generator: Any, depth: int) -> Position | None:
    """Where a bar of tqdm stands: what it reads tells better than its count, which is behind."""
    held = _held(generator)
    bar = next((one for one in held if _home(type(one)).startswith("tqdm.")), None)
    if bar is None:  # it works: its frame shows nothing
        known = [found for of_loop in BARS.copy().values() for found in of_loop]
        bar = next((found for number, found in known if number == id(generator)), None)
    whole = vars(bar).get("iterable") if bar is not None else None
    for one in held:
        if one is not bar and (one is not whole or type(one) in _CHAINS or type(one) in _PLAIN):
            found = _position(one, depth)
            if found is not None:
                return found
    if bar is None or vars(bar).get("disable"):
        return None
    total, count = vars(bar).get("total"), vars(bar).get("n")
    if type(total) is int and type(count) is int and 0 <= count < total:
        return Position(count + 1, total - count - 1, rough=True)
    return None


def bars(iterator: Any) -> list[tuple[int, Any]]:
    """Return the bars of tqdm, by the id of their generators, in a chain that was not begun; raises nothing."""
    try:
        return list(_bars(iterator, _DEPTH))
    except Exception:  # noqa: BLE001 - a library of another version; nothing of it may reach the cell
        return []


def _bars(iterator: Any, depth: int) -> Iterator[tuple[int, Any]]:
    kind = type(iterator)
    if kind in _CHAINS and depth > 0:
        for one in _CHAINS[kind](iterator)[:_WIDTH]:
            yield from _bars(one, depth - 1)
    elif kind is GeneratorType and iterator.gi_code.co_filename.endswith(_BARS):
        held = [one for one in _held(iterator) if _home(type(one)).startswith("tqdm.")]
        yield from ((id(iterator), bar) for bar in held[:1])


def _of_sampler(generator: Any, depth: int) -> Position | None:
    """Where a sampler of torch stands, in items of its own: indices, or batches of them."""
    held = _held(generator)
    owner = next((one for one in held if _home(type(one)) == _SAMPLING), None)
    if generator.gi_frame is None:
        return Position(None, 0)
    if name_of(type(owner)) == "BatchSampler":
        inner = next((found for one in held if (found := _position(one, depth)) is not None), None)
        if inner is None or owner is None:
            return None
        size, drop = int(vars(owner)["batch_size"]), bool(vars(owner)["drop_last"])
        return Position(None, inner.left // size if drop else -(-inner.left // size))
    lists = [one for one in held if type(one) in (type(iter([])), type(iter(())))]
    ranges = [one for one in held if type(one) is type(iter(range(0)))]
    if not lists or any(operator.length_hint(one) for one in ranges):  # drawn in pieces
        return None
    return Position(None, operator.length_hint(lists[-1]))


def _of_loader(iterator: Any, depth: int) -> Position | None:
    """Where a DataLoader's iterator stands, over data that is read by index."""
    state = vars(iterator)
    if state.get("_dataset_kind") != 0:
        return None
    ahead = _position(state.get("_sampler_iter"), depth)
    taken = state["_num_yielded"]
    if ahead is None:
        return None
    sent = state.get("_send_idx", taken)  # workers are given batches before they are asked for
    return Position(taken, max(0, sent + ahead.left - taken))


class Around(NamedTuple):
    """What stands around a loop in its cell's text."""

    name: str  # what people call it
    endless: int | None  # the line of a `while` around it
    follow: int  # loops of the cell that come after it


def around(unit: Unit, key: str, *, running: Unit | None) -> Around:
    """Look at the statement `key` of `unit`, in the cell `running`; LookupError if there is none."""
    path = _path(unit.tree, key)
    scopes = [at for at, node in enumerate(path) if isinstance(node, ast.FunctionDef)]
    inside = path[scopes[-1] + 1 :] if scopes else path
    where = f"line {key.partition(':')[0]}" + (f" of {path[scopes[-1]].name}()" if scopes else "")  # type: ignore[attr-defined]
    loops = [node.lineno for node in inside if isinstance(node, ast.While)]
    if scopes and running is not None:  # who calls the function, and how often, is not known but for the cell itself
        loops += [node.lineno for node in running.tree.body if isinstance(node, ast.While)]
    own = not scopes and running is not None and unit.name == running.name
    later = [node for node in unit.tree.body if node.lineno > path[0].end_lineno] if own else []  # type: ignore[attr-defined]
    return Around(where[:_NAME], loops[0] if loops else None, sum(_loops(node) for node in later))


def _path(tree: ast.AST, key: str) -> list[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.For) and key_of(child) == key:
            return [child]
        below = _path(child, key)
        if below:
            return [child, *below]
    if isinstance(tree, ast.Module):
        raise LookupError(key)
    return []


def _loops(node: ast.AST) -> bool:
    return any(isinstance(one, ast.For | ast.While) for one in ast.walk(node))


class Looker:
    """Looks at the loops of the cell under way; any thread may ask."""

    def __init__(self, unit_of: Callable[[str], Unit | None], running: Callable[[], Unit | None]) -> None:
        """`unit_of` a name; `running` is the unit of the cell under way."""
        self._unit_of = unit_of
        self._running = running
        self._around: dict[tuple[Site, str], Around | None] = {}

    def look(self) -> dict[str, Any]:
        """Return {at, loops}: `at` in seconds of the monotonic clock, of each loop {place, name, taken, left, ...}.

        Outermost first. `left` is None for one of unknown length, and `kind` what it is over. Raises nothing.
        """
        try:
            under_way = [(key[1], one) for key, one in LOOPS.copy().items() if key not in ASIDE][:_MOST]
            loops = [self._told(place, one) for place, one in under_way]
            at = time.monotonic()
            told = list(told_by_libraries())
        except Exception:  # noqa: BLE001 - the loops went on meanwhile; the next look sees them
            return {"at": time.monotonic(), "loops": []}
        return {"at": at, "loops": [*loops, *told][:_MOST]}

    def _told(self, place: Site, iterator: Any) -> dict[str, Any]:
        found = position(iterator)
        about = self._about(place)
        return {
            "place": f"{place.unit} {place.key}",
            "name": about.name if about else f"line {place.key.partition(':')[0]}",
            "taken": found.taken if found else None,
            "left": found.left if found else None,
            "rough": found.rough if found else False,
            "kind": name_of(type(iterator))[:_NAME],
            "endless": about.endless if about else None,
            "follow": about.follow if about else 0,
        }

    def _about(self, place: Site) -> Around | None:
        running = self._running()
        key = (place, running.name if running else "")
        if key not in self._around:
            if len(self._around) > 1000:
                self._around.clear()
            unit = self._unit_of(place.unit)
            try:
                self._around[key] = around(unit, place.key, running=running) if unit is not None else None
            except (LookupError, RecursionError):
                self._around[key] = None
        return self._around[key]


# loops inside libraries: their callbacks tell

_TOLD: dict[str, Position | None] = {}


def tell(name: str, taken: Any, total: Any) -> None:
    """A library's callback says that item `taken` of `total` of its loop `name` begins; outer loops are told first.

    What are no plain counts make a loop of unknown length, so a callback need not check.
    """
    if threading.current_thread() is threading.main_thread():  # whose loops are the cell's
        known = type(taken) is int and type(total) is int and 0 < taken <= total
        _TOLD[name] = Position(taken, total - taken) if known else None


def forget(*names: str) -> None:
    """The loops `names` of a library are over; without names all."""
    for name in names or list(_TOLD):
        _TOLD.pop(name, None)


def told_by_libraries() -> Iterator[dict[str, Any]]:
    """Yield what callbacks told, as `Looker.look` tells loops."""
    for name, found in _TOLD.copy().items():
        taken, left = (found.taken, found.left) if found is not None else (None, None)
        told = {"place": name, "name": name[:_NAME], "taken": taken, "left": left}
        yield {**told, "kind": "" if found is not None else "a library's", "endless": None, "follow": 0}
