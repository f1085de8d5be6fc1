"""History as a file: CSV with exact amounts, Parquet with integer nano-units; written whole or not at all."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.errors import UsageError

COLUMNS = (
    "kind",
    "session",
    "run",
    "machine",
    "started",
    "ended",
    "seconds",
    "billed_seconds",
    "cost",
    "cost_nano",
    "always_on_nano",
    "currency",
    "reason",
    "text",
)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


def to_csv(rows: Sequence[Row], path: Path) -> None:
    """Write rows of a history; times are ISO 8601 in UTC. What a spreadsheet would take for a formula is quoted."""

    def write(part: Path) -> None:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in map(_exported, rows):
                writer.writerow({name: _safe(value) for name, value in row.items()})

    _whole(path, write)


def to_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write rows of a history; UsageError says what to install where the library is not here."""
    try:
        frames = importlib.import_module("pandas")
        parquet = importlib.import_module("fastparquet")
    except ImportError as error:
        raise UsageError(f"Parquet needs a library ({error}): pip install 'ciuic_jupyter[parquet]'") from error
    table = frames.DataFrame([_exported(row) for row in rows], columns=list(COLUMNS))
    for name in COLUMNS:
        if name in ("seconds", "billed_seconds"):
            table[name] = table[name].astype("float64")
        elif name.endswith("_nano"):
            table[name] = table[name].astype("int64")
        else:
            table[name] = table[name].astype(object)
    _whole(path, lambda part: parquet.write(str(part), table, object_encoding="utf8"))


def _exported(row: Row) -> Row:
    nano = int(row["cost_nano"])
    always = row.get("always_on_nano")
    return {
        **{name: "" if row.get(name) is None else row[name] for name in COLUMNS},
        "started": _time(row["at"]),
        "ended": _time(row.get("ended")),
        "cost": format(Decimal(nano) / NANO, "f"),
        "cost_nano": nano,
        "always_on_nano": nano if always is None else int(always),
    }


def _time(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror or error}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)
