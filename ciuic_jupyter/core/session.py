"""The life of a session as a table: (state, event) -> (next state, commands). Nothing here acts or tells time.

No row stands for "nothing to do". What is asked twice (a pause while saving, a discard while stopping) the control
plane answers from the state; what comes too late (a `saved` from a machine that is being stopped) is refused here, and
it drops it. In STOPPING every end of the machine, wished or not, is proven by the provider: `stopped_...` alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ciuic_jupyter.errors import IllegalTransition, UsageError

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,63}", re.ASCII)


class State(StrEnum):
    """Where a session is; the meter is open in those where a machine may exist."""

    REQUESTED = "requested"
    STARTING = "starting"
    RUNNING = "running"
    SAVING = "saving"
    STOPPING = "stopping"
    PAUSED = "paused"
    FAILED = "failed"
    CLOSED = "closed"


class Event(StrEnum):
    """What can happen to a session; `..._saved` means that a checkpoint exists to go back to."""

    CREATE = "create"
    IMPORT = "import"
    RESUME = "resume"
    MACHINE_STARTED = "machine_started"
    START_FAILED = "start_failed"
    START_FAILED_SAVED = "start_failed_saved"
    KERNEL_READY = "kernel_ready"
    RESTORE_FAILED = "restore_failed"
    RUN = "run"
    PAUSE = "pause"
    QUIET = "quiet"
    SAVED = "saved"
    SAVED_AND_KEPT = "saved_and_kept"
    SAVE_FAILED = "save_failed"
    SAVE_GAVE_UP = "save_gave_up"
    DISCARD = "discard"
    KERNEL_DIED = "kernel_died"
    MACHINE_LOST = "machine_lost"
    MACHINE_LOST_SAVED = "machine_lost_saved"
    AGENT_SAVED_AND_LEFT = "agent_saved_and_left"
    STOP_FAILED = "stop_failed"
    STOPPED_PAUSED = "stopped_paused"
    STOPPED_CLOSED = "stopped_closed"
    STOPPED_FAILED = "stopped_failed"
    CLOSE = "close"


class Command(StrEnum):
    """What the control plane must do after a step; it is the only executor."""

    RECORD_INTENT = "record_intent"
    START_MACHINE = "start_machine"
    OPEN_SEGMENT = "open_segment"
    CONNECT = "connect"
    START_RUN = "start_run"
    WAIT_QUIET = "wait_quiet"
    SAVE = "save"
    RECORD_CHECKPOINT = "record_checkpoint"
    STOP_MACHINE = "stop_machine"
    CLOSE_SEGMENT = "close_segment"
    RECEIPT = "receipt"
    TELL = "tell"


@dataclass(frozen=True)
class Step:
    """The outcome of one event."""

    state: State
    commands: tuple[Command, ...] = ()


def _table() -> dict[tuple[State | None, Event], Step]:
    s, e, c = State, Event, Command
    start = Step(s.REQUESTED, (c.RECORD_INTENT, c.START_MACHINE))
    stop = Step(s.STOPPING, (c.STOP_MACHINE,))
    stop_and_tell = Step(s.STOPPING, (c.STOP_MACHINE, c.TELL))
    gone = Step(s.FAILED, (c.CLOSE_SEGMENT, c.TELL))
    gone_saved = Step(s.PAUSED, (c.CLOSE_SEGMENT, c.TELL))
    left = Step(s.PAUSED, (c.RECORD_CHECKPOINT, c.CLOSE_SEGMENT, c.RECEIPT))
    table = {
        (None, e.CREATE): start,
        (s.CLOSED, e.CREATE): start,
        (s.FAILED, e.CREATE): start,
        (None, e.IMPORT): Step(s.PAUSED, (c.RECORD_CHECKPOINT,)),
        (s.CLOSED, e.IMPORT): Step(s.PAUSED, (c.RECORD_CHECKPOINT,)),
        (s.FAILED, e.RESUME): start,
        (s.FAILED, e.CLOSE): Step(s.CLOSED, (c.TELL,)),
        (s.PAUSED, e.RESUME): start,
        (s.PAUSED, e.CLOSE): Step(s.CLOSED, (c.TELL,)),
        (s.REQUESTED, e.MACHINE_STARTED): Step(s.STARTING, (c.OPEN_SEGMENT, c.CONNECT)),
        (s.REQUESTED, e.START_FAILED): Step(s.FAILED, (c.TELL,)),
        (s.REQUESTED, e.START_FAILED_SAVED): Step(s.PAUSED, (c.TELL,)),
        (s.STARTING, e.KERNEL_READY): Step(s.RUNNING, (c.TELL,)),
        (s.STARTING, e.RESTORE_FAILED): stop_and_tell,
        (s.STARTING, e.KERNEL_DIED): stop_and_tell,
        (s.RUNNING, e.RUN): Step(s.RUNNING, (c.START_RUN,)),
        (s.RUNNING, e.PAUSE): Step(s.RUNNING, (c.WAIT_QUIET,)),
        (s.RUNNING, e.QUIET): Step(s.SAVING, (c.SAVE,)),
        (s.RUNNING, e.KERNEL_DIED): stop_and_tell,
        (s.SAVING, e.SAVED): Step(s.STOPPING, (c.RECORD_CHECKPOINT, c.STOP_MACHINE)),
        (s.SAVING, e.SAVED_AND_KEPT): Step(s.RUNNING, (c.RECORD_CHECKPOINT, c.TELL)),
        (s.SAVING, e.SAVE_FAILED): Step(s.RUNNING, (c.TELL,)),
        (s.SAVING, e.SAVE_GAVE_UP): stop_and_tell,
        (s.SAVING, e.KERNEL_DIED): stop_and_tell,
        (s.STOPPING, e.STOP_FAILED): stop_and_tell,
        (s.STOPPING, e.STOPPED_PAUSED): Step(s.PAUSED, (c.CLOSE_SEGMENT, c.RECEIPT)),
        (s.STOPPING, e.STOPPED_CLOSED): Step(s.CLOSED, (c.CLOSE_SEGMENT, c.RECEIPT)),
        (s.STOPPING, e.STOPPED_FAILED): gone,
    }
    for state in (s.REQUESTED, s.STARTING, s.RUNNING, s.SAVING):
        table[state, e.DISCARD] = stop
    for state in (s.STARTING, s.RUNNING, s.SAVING):
        table[state, e.MACHINE_LOST] = gone
        table[state, e.MACHINE_LOST_SAVED] = gone_saved
        table[state, e.AGENT_SAVED_AND_LEFT] = left
    return table


TABLE: Mapping[tuple[State | None, Event], Step] = MappingProxyType(_table())


def step(state: State | None, event: Event) -> Step:
    """Return what `event` does in `state` (None: not born yet); IllegalTransition names both if that is nothing."""
    found = TABLE.get((state, event))
    if found is None:
        known = sorted(e for s, e in TABLE if s is state)
        name = state.value if state else "not created"
        raise IllegalTransition(f"a session that is {name} can't take {event.value!r}; it can take {', '.join(known)}")
    return found


def meter_open(state: State) -> bool:
    """Tell whether a machine may exist in `state`, so that money may be due."""
    return state in (State.REQUESTED, State.STARTING, State.RUNNING, State.SAVING, State.STOPPING)


def is_live(state: State) -> bool:
    """Tell whether `state` has something under way, on a machine or towards one."""
    return meter_open(state)


def check_name(name: str) -> str:
    """Return `name` if it may name a session (it becomes a folder); UsageError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{str(name)[:80]!r} can't name a session: use up to 64 of a-z, 0-9, '-', '_' and single dots, "
            "starting with a letter or a digit"
        )
    return name
