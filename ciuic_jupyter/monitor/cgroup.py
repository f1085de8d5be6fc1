"""A control group of a machine's own, where the system allows one: what is in it can't hide by forking or setsid.

Version 2 (one tree) and version 1 (the `pids` tree) of Linux; everything here is a no-op where neither can be written.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PARENT = "ciuic"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _home() -> Path | None:
    """Return the folder under which we may make groups, None if there is none."""
    if (_ROOT / "cgroup.controllers").exists():
        with suppress(OSError, IndexError):
            own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
            return _ROOT / own.lstrip("/")
        return None
    tree = _ROOT / "pids"
    return tree if (tree / "cgroup.procs").exists() else None


def join(machine: str, note: Path) -> bool:
    """Move this process, and all it will fork, into a group of the machine's own; return whether that was allowed.

    `note` is the file that tells `members` and `remove`, in whatever process, which group it is.
    """
    home = _home()
    if home is None or not _NAME.fullmatch(machine):
        return False
    group = home / _PARENT / machine
    try:
        group.mkdir(parents=True, exist_ok=True)
        note.write_text(str(group))
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return False
    return True


def _group(note: Path) -> Path | None:
    try:
        group = Path(note.read_text()).resolve()
    except OSError:
        return None
    return group if group.is_relative_to(_ROOT) and group.parent.name == _PARENT else None


def members(note: Path) -> list[int]:
    """Return the pids in the group that `note` names; none where there is no group."""
    group = _group(note)
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()] if group is not None else []
    except (OSError, ValueError):
        return []


def remove(note: Path) -> None:
    """Take away the group of a machine that has ended."""
    group = _group(note)
    if group is not None:
        with suppress(OSError):  # not empty yet, or gone already
            group.rmdir()
            note.unlink()
