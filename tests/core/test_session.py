"""The session's table: what is reachable, what no order of events can break, and what a name may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.session import (
    TABLE,
    Command,
    Event,
    State,
    Step,
    check_name,
    is_live,
    meter_open,
    step,
)
from ciuic_jupyter.errors import IllegalTransition, UsageError

Table = Mapping[tuple[State | None, Event], Step]

LIVE = (State.REQUESTED, State.STARTING, State.RUNNING, State.SAVING, State.STOPPING)
NEEDS_CHECKPOINT = {Event.START_FAILED_SAVED, Event.MACHINE_LOST_SAVED, Event.STOPPED_PAUSED}
NEEDS_NONE = {Event.START_FAILED, Event.MACHINE_LOST, Event.STOPPED_FAILED}
USERS_WISH = {Event.DISCARD, Event.SAVE_GAVE_UP}
NOTHING_TO_SAVE = {Event.KERNEL_DIED, Event.RESTORE_FAILED}


@dataclass(frozen=True)
class World:
    """What is true outside the table while a session goes through it."""

    state: State | None = None
    machine: bool = False  # may exist at the provider
    segment: bool = False
    checkpoint: bool = False

    def possible(self, event: Event) -> bool:
        """Tell whether the control plane can see `event` in this world."""
        return (self.checkpoint or event not in NEEDS_CHECKPOINT) and (not self.checkpoint or event not in NEEDS_NONE)


def after(world: World, event: Event, taken: Step) -> World:
    """The world after a step, as its commands change it."""
    machine, segment, checkpoint = world.machine, world.segment, world.checkpoint
    if event in (Event.START_FAILED, Event.START_FAILED_SAVED):
        machine = False
    if event in (Event.CREATE, Event.IMPORT):
        checkpoint = False  # a new life
    for command in taken.commands:
        if command is Command.START_MACHINE:
            machine = True
        elif command is Command.OPEN_SEGMENT:
            segment = True
        elif command is Command.CLOSE_SEGMENT:
            machine = segment = False
        elif command is Command.RECORD_CHECKPOINT:
            checkpoint = True
    return World(taken.state, machine, segment, checkpoint)


def broken(world: World, event: Event, taken: Step) -> Iterator[str]:
    """Name each law that this step breaks."""
    yield from _broken_by_money(world, event, taken)
    yield from _broken_by_saving(world, event, taken)


def _broken_by_money(world: World, event: Event, taken: Step) -> Iterator[str]:
    new, commands = after(world, event, taken), taken.commands
    if meter_open(taken.state) != new.machine:
        yield "the meter is open exactly while a machine may exist"
    if new.segment and not new.machine:
        yield "no segment outlives its machine"
    if world.machine and Command.START_MACHINE in commands:
        yield "one session never has two machines"
    if Command.START_MACHINE in commands and commands[0] is not Command.RECORD_INTENT:
        yield "the intent is written before the machine is asked for"
    if Command.CLOSE_SEGMENT in commands and not {Command.RECEIPT, Command.TELL} & set(commands):
        yield "no machine ends in silence"


def _broken_by_saving(world: World, event: Event, taken: Step) -> Iterator[str]:
    new, commands = after(world, event, taken), taken.commands
    if Command.STOP_MACHINE in commands and event is not Event.STOP_FAILED:
        saved = event is Event.SAVED and commands.index(Command.RECORD_CHECKPOINT) < commands.index(
            Command.STOP_MACHINE
        )
        if not (saved or event in USERS_WISH or event in NOTHING_TO_SAVE):
            yield "no stop without a checkpoint that was read back"
    if taken.state is State.STOPPING and Command.STOP_MACHINE not in commands:
        yield "who waits for a machine's end asks for it"
    if taken.state is State.PAUSED and not new.checkpoint:
        yield "paused means that there is something to go back to"
    if event in (Event.SAVED, Event.SAVED_AND_KEPT) and Command.RECORD_CHECKPOINT not in commands:
        yield "a checkpoint that was taken is recorded"
    if event is Event.SAVE_FAILED and (taken.state is not State.RUNNING or Command.TELL not in commands):
        yield "a failed save warns and keeps the machine"


def walk(table: Table) -> tuple[set[World], list[str]]:
    """Go everywhere a session can go; return all worlds and all broken laws."""
    seen, todo, found = {World()}, [World()], []
    while todo:
        world = todo.pop()
        for event in Event:
            taken = table.get((world.state, event))
            if taken is None or not world.possible(event):
                continue
            found += [f"{world} {event}: {law}" for law in broken(world, event, taken)]
            new = after(world, event, taken)
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return seen, found


def test_no_reachable_step_breaks_a_law() -> None:
    seen, found = walk(TABLE)
    assert found == []
    assert {world.state for world in seen} == {None, *State}


def test_every_state_can_end_closed() -> None:
    ends = {State.CLOSED}
    while more := {source for (source, _), s in TABLE.items() if source and s.state in ends} - ends:
        ends |= more
    assert ends == set(State)


def test_every_row_is_reached() -> None:
    seen, _ = walk(TABLE)
    reached = {(w.state, e) for w in seen for e in Event if (w.state, e) in TABLE and w.possible(e)}
    assert reached == set(TABLE)


@pytest.mark.parametrize("row", sorted(TABLE, key=str), ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_table_that_loses_a_command_that_money_hangs_on_is_found_out(row: tuple[State | None, Event]) -> None:
    vital = {Command.RECORD_INTENT, Command.STOP_MACHINE, Command.CLOSE_SEGMENT, Command.RECORD_CHECKPOINT}
    for command in set(TABLE[row].commands) & vital:
        if command is Command.RECORD_CHECKPOINT and Command.STOP_MACHINE in TABLE[row].commands:
            continue  # the checker itself looks for it
        kept = tuple(c for c in TABLE[row].commands if c is not command)
        _, found = walk({**TABLE, row: replace(TABLE[row], commands=kept)})
        assert found, f"{row} without {command} went unseen"


@pytest.mark.parametrize(
    "row",
    [
        ((State.RUNNING, Event.QUIET), Step(State.STOPPING, (Command.STOP_MACHINE,))),
        ((State.SAVING, Event.SAVE_FAILED), Step(State.STOPPING, (Command.STOP_MACHINE,))),
        ((State.STOPPING, Event.STOP_FAILED), Step(State.FAILED, (Command.TELL,))),
        ((State.RUNNING, Event.RESUME), Step(State.REQUESTED, (Command.RECORD_INTENT, Command.START_MACHINE))),
        ((State.SAVING, Event.MACHINE_LOST), Step(State.PAUSED, (Command.CLOSE_SEGMENT, Command.TELL))),
        ((State.REQUESTED, Event.DISCARD), Step(State.CLOSED, (Command.TELL,))),
        ((State.CLOSED, Event.IMPORT), Step(State.PAUSED, (Command.RECORD_CHECKPOINT, Command.START_MACHINE))),
        ((State.CLOSED, Event.IMPORT), Step(State.RUNNING, (Command.RECORD_CHECKPOINT,))),
        ((State.RUNNING, Event.IMPORT), Step(State.PAUSED, (Command.RECORD_CHECKPOINT,))),
    ],
    ids=lambda row: f"{row[0][0]}-{row[0][1]}",
)
def test_a_row_that_breaks_a_law_is_found_out(row: tuple[tuple[State, Event], Step]) -> None:
    _, found = walk({**TABLE, row[0]: row[1]})
    assert found


def test_every_unlisted_pair_is_refused_with_both_names() -> None:
    pairs = [pair for pair in product((None, *State), Event) if pair not in TABLE]
    assert len(pairs) > 100
    for state, event in pairs:
        with pytest.raises(IllegalTransition) as caught:
            step(state, event)
        assert event.value in str(caught.value)
        assert (state.value if state else "not created") in str(caught.value)


@given(st.lists(st.sampled_from(list(Event)), max_size=60))
def test_any_history_opens_and_closes_one_segment_at_a_time(events: list[Event]) -> None:
    world, open_segments, machines = World(), 0, 0
    for event in events:
        if not world.possible(event):
            continue
        try:
            taken = step(world.state, event)
        except IllegalTransition:
            continue
        assert list(broken(world, event, taken)) == []
        machines += Command.START_MACHINE in taken.commands
        open_segments += Command.OPEN_SEGMENT in taken.commands
        if Command.CLOSE_SEGMENT in taken.commands and world.segment:
            open_segments -= 1
        assert 0 <= open_segments <= 1
        world = after(world, event, taken)
    assert is_live(world.state) == world.machine if world.state else machines == 0


@pytest.mark.parametrize("state", LIVE)
def test_from_every_live_state_the_machine_can_end_without_the_user(state: State) -> None:
    ends = {s for s in State if not is_live(s)}
    reached, todo = {state}, [state]
    while todo:
        here = todo.pop()
        for (origin, event), taken in TABLE.items():
            asked = event in USERS_WISH | {Event.PAUSE, Event.CLOSE}
            if origin is here and not asked and taken.state not in reached:
                reached.add(taken.state)
                todo.append(taken.state)
    assert reached & ends


@pytest.mark.parametrize("state", [State.REQUESTED, State.STARTING, State.RUNNING, State.SAVING])
def test_discard_stops_the_machine_wherever_the_session_is(state: State) -> None:
    assert step(state, Event.DISCARD) == Step(State.STOPPING, (Command.STOP_MACHINE,))


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.SAVING])
def test_a_lost_machine_goes_back_to_its_checkpoint_if_there_is_one(state: State) -> None:
    assert step(state, Event.MACHINE_LOST_SAVED).state is State.PAUSED
    assert step(state, Event.MACHINE_LOST).state is State.FAILED
    left = step(state, Event.AGENT_SAVED_AND_LEFT)
    assert left.state is State.PAUSED
    assert left.commands == (Command.RECORD_CHECKPOINT, Command.CLOSE_SEGMENT, Command.RECEIPT)


def test_an_import_makes_a_paused_session_with_no_machine_and_only_where_none_is() -> None:
    for state in (None, State.CLOSED):
        assert step(state, Event.IMPORT) == Step(State.PAUSED, (Command.RECORD_CHECKPOINT,))
    for state in set(State) - {State.CLOSED}:
        with pytest.raises(IllegalTransition):
            step(state, Event.IMPORT)


def test_a_resume_whose_restore_fails_is_paused_again() -> None:
    state = step(State.PAUSED, Event.RESUME).state
    for event in (Event.MACHINE_STARTED, Event.RESTORE_FAILED, Event.STOP_FAILED, Event.STOPPED_PAUSED):
        state = step(state, event).state
    assert state is State.PAUSED


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.SAVING])
def test_a_dead_kernel_is_told_and_its_machine_goes(state: State) -> None:
    assert step(state, Event.KERNEL_DIED) == Step(State.STOPPING, (Command.STOP_MACHINE, Command.TELL))
    assert step(State.STOPPING, Event.STOPPED_FAILED).state is State.FAILED
    assert step(State.STOPPING, Event.STOPPED_PAUSED).state is State.PAUSED


def test_the_table_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE[None, Event.CREATE] = Step(State.CLOSED)  # type: ignore[index]


@pytest.mark.parametrize("name", ["a", "0", "train-1", "a.b", "x_y", "a" * 64, "a."])
def test_names_of_sessions(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a..b", "/a", "a/b", "A", "é", "а", "a\n", "-a", "_a", "a" * 65, "a b", "a\x00", "１"]
)
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


@given(st.text(max_size=70))
def test_an_accepted_name_is_one_plain_part_of_a_path(name: str) -> None:
    try:
        check_name(name)
    except UsageError:
        return
    assert name.isascii() and "/" not in name and ".." not in name and name[0].isalnum() and name == name.lower()
