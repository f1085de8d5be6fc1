"""What the ssh provider remembers of each machine it was asked for: a file per intent, written before anything starts.

It holds how to reach and stop the machine as it was then, so that a machine which leaves the list can still be stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ciuic_jupyter.errors import ProviderError, UsageError
from ciuic_jupyter.providers.base import Machine, MachineState
from ciuic_jupyter.providers.files import write_private
from ciuic_jupyter.providers.ssh_machines import SshMachine


@dataclass
class Note:
    """One machine of ours; times are unix seconds of this computer's clock."""

    intent: str
    tag: str
    session: str
    machine: SshMachine
    created_at: float
    sent: bool = False  # from here on an agent may run there
    socket: str = ""  # where it listens, there
    store: str = ""  # its checkpoints, there
    events: str = ""  # the event log of its agent, there
    stopped_at: float | None = None
    detail: str = ""

    def seen(self, state: MachineState, detail: str = "", *, ended: bool = False) -> Machine:
        """Return the machine as its provider sees it."""
        return Machine(self.intent, self.intent, self.tag, state, self.created_at, None, detail, ended)

    def stopped(self) -> Machine:
        """Return the machine as one that is proven gone."""
        state = MachineState.STOPPED
        return Machine(self.intent, self.intent, self.tag, state, self.created_at, self.stopped_at, self.detail)


class Notes:
    """The notes in one private folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, intent: str) -> Path:
        if not intent or not all(c.isalnum() or c in "-_" for c in intent):
            raise ProviderError(f"{intent!r} is not the id of a machine; nothing was done")
        return self._folder / f"{intent}.json"

    def get(self, intent: str) -> Note | None:
        """Return the note of a machine, None if there is none; ProviderError if it can't be read."""
        path = self._path(intent)
        try:
            kept = json.loads(path.read_text())
            values = {one.name: kept[one.name] for one in fields(Note) if one.name in kept}
            return Note(**{**values, "machine": SshMachine(**kept["machine"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise ProviderError(f"what is known of machine {intent} can't be read from {path}: {error}") from error

    def living(self) -> Iterator[Note]:
        """Yield the notes of machines that are not proven gone."""
        for path in sorted(self._folder.glob("*.json")):
            note = self.get(path.stem)
            if note is not None and note.stopped_at is None:
                yield note

    def keep(self, note: Note) -> None:
        """Write a note, durable when this returns."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path(note.intent), json.dumps(asdict(note)))

    def forget(self, note: Note) -> None:
        """Drop the note of a machine that never was."""
        self._path(note.intent).unlink(missing_ok=True)
