"""What functools.lru_cache holds: read from what the collector sees, put back by calls that run nothing of the user's.

CPython shows the results to nobody. Each step checks that the memory is laid out as it is known to be; where it is
not, the cache is left alone and said to be dropped.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ciuic_jupyter.checkpoint.placeholder import Placeholder

_WORD = ctypes.sizeof(ctypes.c_void_p)
_UNBOUNDED = -1


def read(function: Any) -> dict[str, Any] | None:
    """Return the results of the lru_cache `function`, the least recent first, and its counts; None if unreadable."""
    info = function.cache_info()
    seen = gc.get_referents(function)
    pairs = _pairs(seen, info.currsize, info.maxsize)
    if pairs is None:
        return None
    mark = next((each for each in seen if type(each) is object), None)
    typed = function.cache_parameters()["typed"]
    calls = [(*_arguments(key, mark, typed), result) for key, result in pairs]
    return {"calls": calls, "hits": info.hits, "misses": info.misses}


def _pairs(seen: list[Any], size: int, maxsize: int | None) -> list[tuple[Any, Any]] | None:
    """Return the keys and results; links of a bounded cache show a key, a result and the link's type each."""
    if size == 0:
        return []
    tables = [each for each in seen if type(each) is dict and len(each) == size]
    if maxsize is None:
        keyed = [table for table in tables if "cache_parameters" not in table]
        return list(keyed[0].items()) if len(keyed) == 1 else None
    kinds = {type(link) for table in tables for link in table.values() if type(link).__name__ == "_lru_list_elem"}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    places = [index for index, each in enumerate(seen) if each is kind][:size]
    pairs = [(seen[place - 2], seen[place - 1]) for place in places if place >= 2]
    table = next(table for table in tables if any(type(link) is kind for link in table.values()))
    known = {id(key) for key in table}
    return pairs if len(pairs) == size and all(id(key) in known for key, _ in pairs) else None


def _arguments(key: Any, mark: Any, typed: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of which `key` was made; see lru_cache_make_key in _functoolsmodule.c."""
    if type(key) is not tuple:
        return (key,), {}
    plain = next((index for index, part in enumerate(key) if part is mark), None)
    if plain is None:
        return (key[: len(key) // 2] if typed else key), {}
    pairs = (len(key) - plain - 1 - plain) // 3 if typed else (len(key) - plain - 1) // 2
    named = key[plain + 1 : plain + 1 + 2 * pairs]
    return key[:plain], dict(zip(named[::2], named[1::2], strict=True))


def write(function: Any, contents: dict[str, Any]) -> None:
    """Fill the empty lru_cache `function` with what `read` returned; RuntimeError if its memory is unknown."""
    calls = [call for call in contents["calls"] if not _is_hurt(call)]
    words = _find(function)
    if words is None:
        raise RuntimeError(f"the {len(calls)} results in the lru_cache of {function.__qualname__} are dropped")
    results = [result for *_, result in calls]
    with _answering(words, iter(results)):
        for args, keywords, _ in calls:
            function(*args, **keywords)
    words["hits"].value, words["misses"].value = contents["hits"], contents["misses"]


def _is_hurt(call: tuple[tuple[Any, ...], dict[str, Any], Any]) -> bool:
    args, keywords, result = call
    return any(type(part) is Placeholder for part in (*args, *keywords.values(), result))


def _find(function: Any) -> dict[str, Any] | None:
    """Return the words of an empty cache that hold its function and its counts: cache, hits, func, maxsize, misses."""
    info = function.cache_info()
    table = next((each for each in gc.get_referents(function) if type(each) is dict and not each), None)
    if table is None or info.currsize or info.hits or info.misses:
        return None
    maxsize = _UNBOUNDED if info.maxsize is None else info.maxsize
    words = [ctypes.c_ssize_t.from_address(place) for place in range(id(function), _end(function), _WORD)]
    for index in range(len(words) - 4):
        held = [word.value for word in words[index : index + 5]]
        if held == [id(table), 0, id(function.__wrapped__), maxsize, 0]:
            return {"hits": words[index + 1], "function": words[index + 2], "misses": words[index + 4]}
    return None


def _end(function: Any) -> int:
    return id(function) + int(type(function).__basicsize__)


@contextmanager
def _answering(words: dict[str, Any], results: Iterator[Any]) -> Iterator[None]:
    """Have the cache ask `results` for the answer to each new call."""

    def answer(*_: Any, **__: Any) -> Any:
        return next(results)

    own = words["function"].value
    words["function"].value = id(answer)  # borrowed: it is put back before `answer` goes
    try:
        yield
    finally:
        words["function"].value = own
