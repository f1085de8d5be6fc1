"""Traces of cells as CSV: session, seconds of each cell, seconds until the next one."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator

from ciuic_jupyter.core.simulate import Cell, Sessions
from ciuic_jupyter.errors import UsageError

_COLUMNS = ("session", "busy_s", "gap_after_s")
_MOST_SECONDS = 10**9  # a cell of more than 30 years is a mistake


def read_trace(lines: Iterable[str], *, longest_gap_seconds: float | None = None) -> Sessions:
    """Return the sessions of a trace in its order; UsageError names the first line that can't be meant.

    Columns by name: `session`, `busy_s` and `gap_after_s` (empty after a session's last cell); others are passed over.
    `longest_gap_seconds`: over a longer gap the user shuts down by hand, and another session begins behind it.
    """
    found: dict[str, list[Cell]] = {}
    seen: set[str] = set()
    current, part, over = "", 0, False
    for number, name, busy, gap in _rows(lines):
        if name != current:
            if name in seen:
                raise _bad(number, f"session {name!r} stands apart from its other lines")
            seen.add(name)
            current, part = name, 0
        elif over:
            raise _bad(number, f"session {name!r} goes on behind a cell that has no gap after it")
        over = gap is None
        shut = gap is not None and longest_gap_seconds is not None and gap > longest_gap_seconds
        after = None if gap is None or shut else round(gap * 1000)
        found.setdefault(f"{name}#{part}", []).append(Cell(round(busy * 1000), after))
        part += shut
    if not found:
        raise UsageError("the trace has no cells; give lines below its heading")
    return found


def _rows(lines: Iterable[str]) -> Iterator[tuple[int, str, float, float | None]]:
    reader = csv.reader(lines)
    try:
        heading = [name.strip() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if heading.count(name) != 1]
        if missing:
            raise _bad(1, f"the heading needs {', '.join(_COLUMNS)}, each once; {', '.join(missing)} is not there so")
        at = [heading.index(name) for name in _COLUMNS]
        for row in reader:
            number = reader.line_num
            if len(row) != len(heading):
                raise _bad(number, f"{len(row)} fields under {len(heading)} headings")
            session, busy, gap = (row[column].strip() for column in at)
            if not session:
                raise _bad(number, "no session is named")
            yield number, session, _seconds(number, busy, "busy_s"), _gap(number, gap)
    except csv.Error as error:
        raise _bad(reader.line_num, str(error)) from None
    except UnicodeDecodeError:
        raise _bad(reader.line_num + 1, "this is not UTF-8 text") from None


def _gap(number: int, text: str) -> float | None:
    return _seconds(number, text, "gap_after_s") if text else None


def _seconds(number: int, text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _MOST_SECONDS:
        raise _bad(number, f"{column} is {text[:40]!r}, not a number of seconds from 0 to {_MOST_SECONDS}")
    return value


def _bad(number: int, what: str) -> UsageError:
    return UsageError(f"line {number} of the trace: {what}; nothing was simulated")
