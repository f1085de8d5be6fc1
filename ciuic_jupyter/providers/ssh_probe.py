"""Asks another machine what it has: a line of sh finds its Python, which reads `machine_probe` from its stdin.

Nothing but that line is in an argv there, and nothing is left on the disk.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.core import words
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers import machine_probe

LEAST_PYTHON = (3, 11)
PROBE_SECONDS = 300.0  # torch from a cold disk, twice
_PYTHON = "CIUIC-PYTHON"
_NEWEST = 15  # the last minor version that is looked for by its name
_SHOWN = 300


@dataclass(frozen=True)
class Python:
    """A Python there: the name it was asked for by, its version, and its path."""

    asked: str
    version: str
    path: str


@dataclass(frozen=True)
class Probed:
    """What came back: the Pythons that were tried, the last of which gave the facts, if there are any."""

    pythons: tuple[Python, ...]
    facts: dict[str, Any] | None


def command(minor: int, python: str | None = None) -> list[str]:
    """Return the command that runs the program on its stdin in the best Python there.

    That is `python` if it is given and new enough, else 3.`minor`, which is ours, else the newest.
    """
    others = [number for number in range(_NEWEST, LEAST_PYTHON[1] - 1, -1) if number != minor]
    names = [*([python] if python else []), *(f"python3.{number}" for number in (minor, *others)), "python3", "python"]
    wanted = " ".join(shlex.quote(name) for name in names)
    least = f"({LEAST_PYTHON[0]}, {LEAST_PYTHON[1]})"
    script = (
        f'umask 077; for c in {wanted}; do p=$(command -v "$c" 2>/dev/null) || continue; '
        'v=$("$p" -S -c "import sys; print(sys.version.split()[0])" 2>/dev/null) || continue; '
        f'printf "{_PYTHON}\\t%s\\t%s\\t%s\\n" "$c" "$v" "$p"; '
        f'"$p" -S -c "import sys; sys.exit(sys.version_info < {least})" && exec "$p" -P -; done; exit 0'
    )
    return ["sh", "-c", script]


def program(folder: str) -> str:
    """Return the text for the command's stdin; `folder` is where machines keep their files there."""
    source = Path(machine_probe.__file__).read_text()
    return f"{source}\n\nmain(json.loads({json.dumps(json.dumps({'folder': folder}))}))\n"


def parse(printed: str) -> Probed:
    """Read what the command printed, among whatever a shell's start-up files print; ProviderError if it broke off."""
    pythons, facts = [], None
    for line in printed.splitlines():
        if line.startswith(f"{_PYTHON}\t") and line.count("\t") == 3:
            pythons.append(Python(*line.split("\t")[1:]))
        elif line.startswith(machine_probe.MARK):
            try:
                facts = json.loads(line.removeprefix(machine_probe.MARK))
            except ValueError as error:
                raise ProviderError(f"what the machine says of itself can't be read: {error}; try again") from error
    return Probed(tuple(dict.fromkeys(pythons)), facts if isinstance(facts, dict) else None)


def plain(text: str, limit: int = _SHOWN) -> str:
    """Return another machine's text in one line, its end if it is long, with nothing that a terminal obeys."""
    joined = " ".join(text.split())
    shown = joined if len(joined) <= limit else f"...{joined[-limit:]}"
    return words.plain(shown)
