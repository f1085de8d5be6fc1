"""Iterators under way, taken apart for a checkpoint and put together in another process.

What pickle keeps exactly (lists, ranges, dicts, files by line) stays the object it is. Chains (enumerate, zip, map, a
progress bar) are taken apart link by link. A DataLoader's iterator is made again under the random numbers it was made
under and brought forward: by its sampler alone where the data is read in this process by index, else by reading.
"""

from __future__ import annotations

import gc
import itertools
import operator
import sys
import warnings
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from types import GeneratorType, ModuleType
from typing import Any

from ciuic_jupyter.resume import randomness

Frozen = tuple[Any, ...]
_MARK = "_ciuic_mark"


class NotResumable(Exception):
    """This boundary can't be resumed; the text says why."""


def freeze(iterator: Any) -> Frozen:
    """Return what `thaw` makes the rest of `iterator` from; NotResumable if nothing does."""
    kind = type(iterator)
    if kind in _CHAINS:
        return _CHAINS[kind](iterator)
    if kind in _VIEWS:
        return _view(iterator)
    if isinstance(iterator, GeneratorType):
        return _generator(iterator)
    if hasattr(iterator, _MARK):
        return _loader(iterator)
    if kind.__module__.partition(".")[0] in ("torch", "ray", "multiprocessing", "concurrent"):
        raise NotResumable(f"it loops over a {kind.__module__}.{kind.__qualname__}, which can't be saved")
    if kind.__name__ == "odict_iterator" or (kind.__module__ == "itertools" and _over_view(iterator)):
        raise NotResumable("it loops over a dict whose later values would not be seen")
    return "same", iterator


def thaw(frozen: Frozen) -> Iterator[Any]:
    """Return the iterator that goes on where the frozen one stood; it may use random numbers."""
    return _THAW[frozen[0]](*frozen[1:])


# chains


def _reduced(iterator: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return iterator.__reduce__()


def _enumerate(iterator: Any) -> Frozen:
    _, (inner, count) = _reduced(iterator)[:2]
    return "enumerate", freeze(inner), count


def _zip(iterator: Any) -> Frozen:
    reduced = _reduced(iterator)
    return "zip", tuple(freeze(inner) for inner in reduced[1]), len(reduced) > 2 and bool(reduced[2])


def _map(iterator: Any) -> Frozen:
    function, *inner = _reduced(iterator)[1]
    return "map", function, tuple(freeze(one) for one in inner)


def _filter(iterator: Any) -> Frozen:
    function, inner = _reduced(iterator)[1]
    return "filter", function, freeze(inner)


_CHAINS: dict[type, Callable[[Any], Frozen]] = {enumerate: _enumerate, zip: _zip, map: _map, filter: _filter}


def _thaw_zip(inner: tuple[Frozen, ...], strict: bool) -> Iterator[Any]:
    return zip(*(thaw(one) for one in inner), strict=strict)


def _thaw_enumerate(inner: Frozen, count: int) -> Iterator[Any]:
    return enumerate(thaw(inner), count)


def _thaw_map(function: Any, inner: tuple[Frozen, ...]) -> Iterator[Any]:
    return map(function, *(thaw(one) for one in inner))


def _thaw_filter(function: Any, inner: Frozen) -> Iterator[Any]:
    return filter(function, thaw(inner))


def _thaw_same(iterator: Iterator[Any]) -> Iterator[Any]:
    return iterator


# dicts: what pickle keeps of such an iterator is a copy of the values, and a value may change before its turn


_VIEWS: dict[type, Callable[[dict[Any, Any]], Any]] = {
    type(iter({}.items())): lambda held: held.items(),
    type(iter({}.values())): lambda held: held.values(),
    type(reversed({}.items())): lambda held: reversed(held.items()),
    type(reversed({}.values())): lambda held: reversed(held.values()),
}


def _view(iterator: Any) -> Frozen:
    held = [one for one in gc.get_referents(iterator) if isinstance(one, dict)]
    if not held:
        return "same", iter(())
    number = list(_VIEWS).index(type(iterator))
    return "view", number, held[0], len(held[0]) - operator.length_hint(iterator)


def _thaw_view(number: int, held: dict[Any, Any], taken: int) -> Iterator[Any]:
    iterator: Iterator[Any] = iter(list(_VIEWS.values())[number](held))
    for _ in itertools.islice(iterator, taken):
        pass
    return iterator


def _over_view(iterator: Any) -> bool:
    """Tell whether a chain of itertools reads a dict's values, now or later."""
    for one in gc.get_referents(iterator):
        if isinstance(one, ItemsView | ValuesView) or type(one) in _VIEWS or type(one).__name__ == "odict_iterator":
            return True
        if isinstance(one, Iterator | tuple) and not isinstance(one, GeneratorType) and _over_view(one):
            return True
    return False


# generators


def _generator(generator: GeneratorType[Any, Any, Any]) -> Frozen:
    code = generator.gi_code
    name = f"{code.co_filename}"
    if generator.gi_frame is None:
        return "same", iter(())
    if name.endswith(("tqdm/std.py", "tqdm/notebook.py")) and code.co_name == "__iter__":
        return _bar(generator)
    raise NotResumable(f"it loops over the generator {code.co_qualname}, whose place can't be saved")


def _bar(generator: GeneratorType[Any, Any, Any]) -> Frozen:
    """Return a bar of tqdm with what it still has to count; its own count stands in its generator."""
    frame = generator.gi_frame
    if frame is None:
        return "same", iter(())
    names = frame.f_locals
    if "iterable" not in names:  # of a notebook's bar: the generator that counts is inside it
        inner = [one for one in gc.get_referents(generator) if isinstance(one, GeneratorType)]
        if not inner:
            return "bar", names["self"], freeze(iter(names["self"].iterable)), names["self"].n
        return _bar(inner[0])
    counted = names.get("n", names["self"].n) + 1  # the item under way is counted when the next one is asked for
    waiting = [one for one in gc.get_referents(generator) if isinstance(one, Iterator) and one is not names["iterable"]]
    if not waiting and isinstance(names["iterable"], Iterator):
        waiting = [names["iterable"]]
    if len(waiting) != 1:
        raise NotResumable("it loops over a progress bar whose iterator can't be found")
    return "bar", names["self"], freeze(waiting[0]), counted


def _thaw_bar(bar: Any, inner: Frozen, counted: int) -> Iterator[Any]:
    rest = thaw(inner)

    def go_on() -> Iterator[Any]:
        whole, bar.iterable = bar.iterable, rest
        bar.n = bar.last_print_n = counted
        items = iter(bar)
        try:
            for item in items:
                bar.iterable = whole
                yield item
        finally:
            bar.iterable = whole

    return go_on()


# loaders of torch


def watch_loaders() -> None:
    """Have every DataLoader tell its iterator under which random numbers it was made."""
    module = sys.modules.get("torch.utils.data.dataloader")
    if not isinstance(module, ModuleType) or hasattr(module, _MARK):
        return
    kind = module.DataLoader
    original = kind.__iter__

    def __iter__(self: Any) -> Any:
        mark = randomness.take(_generators(self))
        iterator = original(self)
        setattr(iterator, _MARK, (self, mark, getattr(iterator, _MARK, (None, None, 0))[2] + 1))
        return iterator

    __iter__.__doc__ = original.__doc__
    kind.__iter__ = __iter__
    setattr(module, _MARK, original)


def _generators(loader: Any) -> list[Any]:
    """Return the generators of torch a loader draws from, each once."""
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    found = [getattr(one, "generator", None) for one in (loader, sampler, inner)]
    return list({id(one): one for one in found if one is not None}.values())


def _loader(iterator: Any) -> Frozen:
    loader, mark, times = getattr(iterator, _MARK)
    if getattr(loader, "persistent_workers", False) and times > 1:
        raise NotResumable("its workers are persistent and have lived through earlier passes")
    return "loader", loader, mark, iterator._num_yielded


def _thaw_loader(loader: Any, mark: Any, taken: int) -> Iterator[Any]:
    generators = _generators(loader)
    now = randomness.take(generators)
    if getattr(loader, "_iterator", None) is not None and loader.num_workers:
        loader._iterator = None
    watch_loaders()
    randomness.put(mark, generators)
    iterator: Iterator[Any] = iter(loader)
    by_index = loader.num_workers == 0 and type(iterator).__name__ == "_SingleProcessDataLoaderIter"
    if by_index and not _is_stream(loader):
        for _ in range(taken):
            iterator._next_index()  # type: ignore[attr-defined]
        iterator._num_yielded = taken  # type: ignore[attr-defined]
    else:
        for _ in itertools.islice(iterator, taken):
            pass
    randomness.put(now, generators)
    return iterator


def _is_stream(loader: Any) -> bool:
    return bool(getattr(loader, "_dataset_kind", 0))  # 0: a map, read by index


_THAW: dict[str, Callable[..., Iterator[Any]]] = {
    "same": _thaw_same,
    "enumerate": _thaw_enumerate,
    "zip": _thaw_zip,
    "map": _thaw_map,
    "filter": _thaw_filter,
    "view": _thaw_view,
    "bar": _thaw_bar,
    "loader": _thaw_loader,
}
