"""Proof of life: the files by which a machine shows that it lives, and when and why it ended.

`lock` is held for the machine's whole life by an open-file-description lock, so that looking never takes it and the
kernel releases it at any death; `alive` is touched each second; `final.json` is the last thing an orderly exit writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ciuic_jupyter.errors import ProviderError

_FLOCK = "hhqqi"  # struct flock of Linux on 64-bit: type, whence, start, length, pid


@dataclass(frozen=True)
class Holder:
    """Who holds a machine's lock: pid and its start time in clock ticks since boot, so that a reused pid is seen."""

    pid: int
    start_ticks: int


@dataclass(frozen=True)
class Final:
    """The last word of a machine: unix time, reason, and the newest checkpoint it knew."""

    at: float
    reason: str
    checkpoint: int | None


def start_ticks(pid: int) -> int | None:
    """Return the start time of process `pid` in clock ticks since boot, or None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rsplit(")", 1)[1].split()
    return None if state in ("Z", "X") else int(rest[18])


def hold_lock(path: Path) -> BinaryIO:
    """Take the lock `path` for this machine's life and write who we are; ProviderError if another holds it.

    The lock lives as long as the returned file, or a copy of its descriptor in a forked child, is open.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b", buffering=0)
    try:
        fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        file.close()
        raise ProviderError(f"{path} is held by another process: this machine runs already; nothing to do") from error
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}).encode())
    return file


def is_held(path: Path) -> bool:
    """Tell whether a process holds the lock `path`, without ever taking it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(descriptor)
    return int(struct.unpack(_FLOCK, answer)[0]) != fcntl.F_UNLCK


def holder(path: Path) -> Holder | None:
    """Return who wrote itself into the lock `path`, if that very process still lives."""
    try:
        said = json.loads(path.read_text())
        found = Holder(int(said["pid"]), int(said["start_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if start_ticks(found.pid) == found.start_ticks else None


def touch_alive(directory: Path) -> None:
    """Prove that the machine lives now."""
    path = directory / "alive"
    path.touch(mode=0o600)
    os.utime(path)


def last_proof_of_life(directory: Path) -> float | None:
    """Return the unix time at which the machine last proved to live, or None if it never did."""
    try:
        return (directory / "alive").stat().st_mtime
    except OSError:
        return None


def write_final(directory: Path, *, reason: str, checkpoint: int | None) -> None:
    """Write the last word, whole or not at all."""
    temporary = directory / ".final.json"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"at": time.time(), "reason": reason, "checkpoint": checkpoint}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / "final.json")


def read_final(directory: Path) -> Final | None:
    """Return the last word of a machine that ended in order, else None."""
    try:
        said = json.loads((directory / "final.json").read_text())
        return Final(float(said["at"]), str(said["reason"]), said["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
