"""The user's machines that are reached over ssh: one JSON file of mode 0600, checked when it is read and written."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers.files import write_private
from ciuic_jupyter.providers.ssh_link import Target

FILE = "machines.json"  # in the state directory
GONE = frozenset({"stopped", "terminated", "deleted", "gone", "off", "deallocated", "shutoff", "exited", "absent"})
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,63}", re.ASCII)
_TAKEN = (
    "local",
    "fake",
    "ray",
    "kubernetes",
    "ssh",
)  # other kinds of machines: these, and with a dot
_HIGHEST = 100_000 * 10**9  # nano-units an hour
_MOST_GPUS = 1024
_LONGEST = 4096  # characters of a command


@dataclass(frozen=True)
class SshMachine:
    """A machine: `start`, `stop` and `status` are shell commands that run where the control plane runs.

    `status` prints one word and exits with 0: one of GONE when the machine costs nothing any more, another one while
    it does. Any other exit code is no answer. `python` is the interpreter there that has this package.
    """

    name: str
    target: str
    price_nano_per_hour: int = 0
    gpus: int = 0
    start: str | None = None
    stop: str | None = None
    status: str | None = None
    python: str = "python3"

    def __post_init__(self) -> None:
        """Check everything; UsageError says what is wrong."""
        _check_name(self.name)
        Target.parse(self.target)
        price = self.price_nano_per_hour
        if type(price) is not int or not 0 <= price <= _HIGHEST:
            raise UsageError(f"machine {self.name}: a price of {str(price)[:40]} is not between 0 and 100000 an hour")
        if type(self.gpus) is not int or not 0 <= self.gpus <= _MOST_GPUS:
            raise UsageError(f"machine {self.name}: {str(self.gpus)[:40]} GPUs; give a number from 0 to {_MOST_GPUS}")
        for what in ("start", "stop", "status", "python"):
            _check_text(self.name, what, getattr(self, what), optional=what != "python")
        if self.stop is not None and self.status is None:
            text = f"machine {self.name} has a stop command and none for its status: a stop could never be proven"
            raise UsageError(f"{text}; give --status: a command that prints its state, like running or stopped")
        if self.start is not None and self.stop is None:
            text = f"machine {self.name} has a start command and none to stop it: it would cost money for ever"
            raise UsageError(f"{text}; give --stop and --status, too")

    @classmethod
    def of(cls, name: str, target: str, *, price: str = "0", **rest: Any) -> SshMachine:
        """Return a machine priced by text, as people write it: "0.90" is that much an hour."""
        return cls(name, target, price_nano_per_hour=parse_usd(price), **rest)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        text = f"{str(name)[:80]!r} can't name a machine: use up to 64 of a-z, 0-9, '-', '_' and single dots"
        raise UsageError(f"{text}, starting with a letter or a digit")
    if name.split(".")[0] in _TAKEN:
        raise UsageError(f"{name!r} is the name of another kind of machine; choose another, like gpu1")


def _check_text(name: str, what: str, text: str | None, *, optional: bool) -> None:
    if text is None and optional:
        return
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST or not text.isprintable():
        raise UsageError(f"machine {name}: its {what} must be one line of text, up to {_LONGEST} characters")
    if what == "python" and (text.startswith("-") or any(c.isspace() for c in text)):
        raise UsageError(
            f"machine {name}: {text[:80]!r} is no path of a python there; write it like /opt/venv/bin/python"
        )


def load(path: Path) -> list[SshMachine]:
    """Return the machines of the file `path`, none if there is no file; UsageError names the line that is wrong."""
    try:
        text = _text(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}; see to that, nothing was changed") from error
    try:
        kept = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        place = f"line {line} of {path}" if line else str(path)
        raise UsageError(
            f"{place} is damaged: {error}; mend it, or remove the file and add the machines again"
        ) from error
    found: list[SshMachine] = []
    for entry in _entries(path, kept):
        try:
            machine = SshMachine(**entry)
            if any(machine.name == other.name for other in found):
                raise UsageError(f"machine {machine.name} is there twice")
        except (TypeError, UsageError) as error:
            line = _line_of(text, entry)
            raise UsageError(f"line {line} of {path} is wrong: {error}; mend it, or remove the file") from error
        found.append(machine)
    return found


def _text(path: Path) -> str:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise OSError("others can write it, and its commands run as you: `chmod 600` it after a look")
        return file.read(1 << 24).decode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _entries(path: Path, kept: Any) -> list[dict[str, Any]]:
    entries = kept.get("machines") if isinstance(kept, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f'line 1 of {path} is wrong: no object with "machines", a list; mend it, or remove the file')
    return entries


def _line_of(text: str, entry: dict[str, Any]) -> int:
    """Return the line in which a machine's name stands, the first one if it can't be told."""
    name = json.dumps(entry.get("name"))
    lines = [number for number, line in enumerate(text.splitlines(), 1) if '"name"' in line and name in line]
    return lines[-1] if lines else 1


def add(path: Path, machine: SshMachine) -> None:
    """Add a machine, durable when this returns; UsageError if its name is taken."""
    with _locked(path):
        machines = load(path)
        if any(machine.name == other.name for other in machines):
            raise UsageError(f"there is a machine {machine.name} already; remove it first, or choose another name")
        _store(path, [*machines, machine])


def change(path: Path, name: str, **fields: Any) -> None:
    """Change fields of a machine in the list; UsageError if it is not there, or a value is wrong."""
    with _locked(path):
        machines = load(path)
        if not any(machine.name == name for machine in machines):
            raise UsageError(f"machine {name[:80]!r} was removed meanwhile; add it again")
        _store(path, [replace(machine, **fields) if machine.name == name else machine for machine in machines])


def remove(path: Path, name: str) -> None:
    """Remove a machine from the list; one that runs goes on, and is stopped as it was known when it started."""
    with _locked(path):
        machines = load(path)
        left = [machine for machine in machines if machine.name != name]
        if len(left) == len(machines):
            known = ", ".join(machine.name for machine in machines) or "none"
            raise UsageError(f"there is no machine {str(name)[:80]!r}; there are: {known}")
        _store(path, left)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    number = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _store(path: Path, machines: Sequence[SshMachine]) -> None:
    write_private(path, json.dumps({"machines": [asdict(machine) for machine in machines]}, indent=1) + "\n")
