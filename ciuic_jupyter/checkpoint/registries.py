"""What a notebook registered with libraries: copyreg, sqlite3, levels of logging, abstract classes; tracemalloc."""

from __future__ import annotations

import abc
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from ciuic_jupyter.checkpoint import survey
from ciuic_jupyter.checkpoint.shell import is_own

_TABLES = (("copyreg", "dispatch_table"), ("sqlite3", "adapters"), ("sqlite3", "converters"))
_LEVELS = frozenset({"CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET"})
_dump: Any = abc._get_dump  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public tells
# a module, what its cells call, and what to do again: these show nobody what was registered
UNSEEN = (
    ("atexit", "register", "what runs at the end is not saved, lest a check of the save runs it"),
    ("codecs", "register", "what was registered with codecs is not saved"),
    ("codecs", "register_error", "what was registered with codecs is not saved"),
)


def record(seen: Iterable[survey.Found]) -> dict[str, Any] | None:
    """Return what was registered, with the modules that were `seen` among others; None if nothing was."""
    found = {
        "tables": {place: entries for place in _TABLES if (entries := _entries(*place))},
        "levels": {number: name for number, name in _names().items() if name not in _LEVELS},
        "abstract": _virtual(seen),
        "traced": _traced(),
    }
    return found if any(found.values()) else None


def _entries(module: str, name: str) -> list[tuple[Any, Any]]:
    table = getattr(sys.modules.get(module), name, {})
    return [(key, value) for key, value in list(table.items()) if _has_own(key) or is_own(value)]


def _has_own(key: object) -> bool:
    return any(is_own(part) for part in (key if isinstance(key, tuple) else (key,)))


def _names() -> dict[int, str]:
    return {number: name for name, number in logging.getLevelNamesMapping().items()}


def _virtual(seen: Iterable[survey.Found]) -> list[tuple[Any, Any]]:
    """Return (abstract class of a library, class of the notebook) for each registered one."""
    found = []
    for kind in {id(kind): kind for each in seen for kind in each.abstract}.values():
        registered = [reference() for reference in _dump(kind)[0]]
        found += [(kind, each) for each in registered if each is not None and is_own(each)]
    return list(dict.fromkeys(found))


def _traced() -> int:
    tracemalloc = sys.modules.get("tracemalloc")
    return tracemalloc.get_traceback_limit() if tracemalloc is not None and tracemalloc.is_tracing() else 0


def apply(value: Mapping[str, Any]) -> None:
    """Register it again."""
    for (module, name), entries in value["tables"].items():
        __import__(module)
        getattr(sys.modules[module], name).update(entries)
    for number, name in value["levels"].items():
        logging.addLevelName(number, name)
    for kind, each in value["abstract"]:
        kind.register(each)
    if value["traced"]:
        import tracemalloc  # noqa: PLC0415 - only where it was on

        tracemalloc.start(value["traced"])
