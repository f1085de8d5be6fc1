"""The session table: every reachable state walked, every unlisted pair refused, the invariants of the design."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.session import TABLE, Command, Event, State, check_name, is_live, meter_open, step
from ciuic_jupyter.errors import IllegalTransition, UsageError

PAIRS = sorted(TABLE, key=str)
SAVING_FIRST = {Event.SAVED, Event.AGENT_SAVED_AND_LEFT}
WITHOUT_SAVE = {  # a stop without a new checkpoint: the user said so, or there is no kernel to save
    Event.DISCARD,
    Event.SAVE_GAVE_UP,
    Event.RESTORE_FAILED,
    Event.KERNEL_DIED,
    Event.STOP_FAILED,
}


def reachable() -> set[State | None]:
    seen: set[State | None] = {None}
    todo: list[State | None] = [None]
    while todo:
        state = todo.pop()
        for (source, event), _ in TABLE.items():
            if source is state:
                following = step(state, event).state
                if following not in seen:
                    seen.add(following)
                    todo.append(following)
    return seen


def test_every_state_is_reached_from_nothing_and_each_can_end_closed() -> None:
    assert reachable() == {None, *State}
    ends = {State.CLOSED}
    while True:
        before = len(ends)
        ends |= {source for (source, _), s in TABLE.items() if s.state in ends and source is not None}
        if len(ends) == before:
            break
    assert ends == set(State)


@pytest.mark.parametrize("state", [None, *State])
def test_an_unlisted_pair_raises_with_both_names(state: State | None) -> None:
    unlisted = [event for event in Event if (state, event) not in TABLE]
    assert unlisted
    for event in unlisted:
        with pytest.raises(IllegalTransition) as refused:
            step(state, event)
        assert event.value in str(refused.value)
        assert (state.value if state else "not created") in str(refused.value)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_no_machine_is_stopped_without_a_checkpoint_unless_there_is_a_reason(pair: tuple[State, Event]) -> None:
    taken = TABLE[pair]
    if Command.STOP_MACHINE in taken.commands:
        assert pair[1] in SAVING_FIRST | WITHOUT_SAVE
        if pair[1] is Event.SAVED:
            assert taken.commands.index(Command.RECORD_CHECKPOINT) < taken.commands.index(Command.STOP_MACHINE)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_the_meter_opens_with_an_intent_and_closes_only_with_the_machine(pair: tuple[State | None, Event]) -> None:
    source, taken = pair[0], TABLE[pair]
    was_open = source is not None and meter_open(source)
    if not was_open and meter_open(taken.state):
        assert taken.commands[:2] == (Command.RECORD_INTENT, Command.START_MACHINE)
    if was_open and not meter_open(taken.state):
        never_was = pair[1] in (Event.START_FAILED, Event.START_FAILED_SAVED)
        assert never_was or Command.CLOSE_SEGMENT in taken.commands
    if Command.CLOSE_SEGMENT in taken.commands:
        assert not meter_open(taken.state)


def test_an_intent_is_recorded_before_each_start() -> None:
    for taken in TABLE.values():
        if Command.START_MACHINE in taken.commands:
            assert taken.commands.index(Command.RECORD_INTENT) < taken.commands.index(Command.START_MACHINE)


def test_a_failed_save_keeps_the_machine() -> None:
    assert step(State.SAVING, Event.SAVE_FAILED).state is State.RUNNING
    assert Command.STOP_MACHINE not in step(State.SAVING, Event.SAVE_FAILED).commands


def test_a_stop_that_fails_is_asked_for_again_and_stays_billed() -> None:
    again = step(State.STOPPING, Event.STOP_FAILED)
    assert again.state is State.STOPPING
    assert meter_open(again.state)
    assert Command.STOP_MACHINE in again.commands


def contradicts(event: Event, saved: bool) -> bool:
    """Tell whether the plane, which knows if a checkpoint exists, would never feed `event`."""
    needs = (Event.START_FAILED_SAVED, Event.MACHINE_LOST_SAVED, Event.STOPPED_PAUSED)
    lacks = (Event.START_FAILED, Event.MACHINE_LOST, Event.STOPPED_FAILED)
    return event in (lacks if saved else needs)


@given(st.lists(st.sampled_from(list(Event)), max_size=60))
def test_whatever_happens_segments_and_machines_stay_in_step(events: list[Event]) -> None:
    state: State | None = None
    machine_may_live = segment_open = saved = False
    for event in events:
        if (state, event) not in TABLE or contradicts(event, saved):
            continue
        taken = step(state, event)
        for command in taken.commands:
            if command is Command.START_MACHINE:
                assert not machine_may_live, "a second machine for one session"
                machine_may_live = True
            elif command is Command.OPEN_SEGMENT:
                assert machine_may_live
                assert not segment_open
                segment_open = True
            elif command is Command.RECORD_CHECKPOINT:
                saved = True
            elif command is Command.CLOSE_SEGMENT:
                machine_may_live = segment_open = False
        if event in (Event.START_FAILED, Event.START_FAILED_SAVED):
            machine_may_live = False
        state = taken.state
        assert machine_may_live == meter_open(state) == is_live(state)
        assert not segment_open or meter_open(state)


def test_names_that_become_folders() -> None:
    for good in ("a", "digits", "run-3_b.1", "0" * 64):
        assert check_name(good) == good
    bad = ["", "A", "a\n", "..", ".a", "a..b", "a/b", "a" * 65, "ä", "a b", "-a", "a\0", "con:", "１"]
    for name in bad:
        with pytest.raises(UsageError):
            check_name(name)
