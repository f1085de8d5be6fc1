"""Parts of a machine's time add up to its bill, and none of them ever shrinks."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.control.kinds import KINDS, Course
from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.core.session import State
from tests.control.test_spending import HOUR, RATE, book

BEGIN = 1_800_000_000_000


def parts(made: Book, now: int) -> tuple[Counter[str], Counter[str]]:
    nano: Counter[str] = Counter()
    ms: Counter[str] = Counter()
    for segment in made.segments:
        for part in Course(made).parts(segment, now):
            assert part.kind in KINDS and part.nano >= 0 and part.billed_ms >= 0
            nano[part.kind] += part.nano
            ms[part.kind] += part.billed_ms
    return nano, ms


def ran(made: Book, begin: int, end: int | None) -> None:
    name = f"r{len(made.runs)}"
    made.runs[name] = Run(name, "", None, begin, "ok" if end else "running", 1, None, begin, end)


def test_a_life_by_what_its_machine_did() -> None:
    made = book((BEGIN, BEGIN + 10 * HOUR))
    made.moments = [
        (BEGIN - 5, State.REQUESTED),
        (BEGIN, State.STARTING),
        (BEGIN + HOUR, State.RUNNING),
        (BEGIN + 7 * HOUR, State.SAVING),
        (BEGIN + 8 * HOUR, State.STOPPING),
        (BEGIN + 9 * HOUR, State.PAUSED),  # told too soon: it lived for an hour more
    ]
    ran(made, BEGIN + 2 * HOUR, BEGIN + 3 * HOUR)
    ran(made, BEGIN + 5 * HOUR, None)  # it is suspended in the checkpoint
    nano, ms = parts(made, BEGIN + 20 * HOUR)
    hours = {"starting": 1, "idle": 3, "running": 3, "saving": 1, "releasing": 2}
    assert ms == {kind: count * HOUR for kind, count in hours.items()}
    assert nano == {kind: count * RATE for kind, count in hours.items()}


def test_a_billing_unit_belongs_to_what_was_going_on_when_it_began() -> None:
    made = book((BEGIN, None), unit_ms=HOUR, minimum_ms=2 * HOUR)
    made.moments = [(BEGIN, State.STARTING), (BEGIN + 1000, State.RUNNING)]
    assert parts(made, BEGIN + 500)[1] == {"starting": 2 * HOUR}
    assert parts(made, BEGIN + 2 * HOUR)[1] == {"starting": 2 * HOUR}
    assert parts(made, BEGIN + 2 * HOUR + 1)[1] == {"starting": 2 * HOUR, "idle": HOUR}


def test_a_machine_that_was_told_to_stop_may_have_done_so_already() -> None:
    made = book((BEGIN, None))
    made.moments = [(BEGIN, State.RUNNING), (BEGIN + 60_000, State.STOPPING), (BEGIN + 65_000, State.PAUSED)]
    told = [Course(made).told_until(BEGIN + at) - BEGIN for at in (-5, 59_000, 60_000, 64_000, 69_000, 80_000)]
    assert told == [-5, 59_000, 60_000, 60_000, 60_000, 70_000]


def test_a_clock_that_is_put_back_by_hours_counts_nothing_twice() -> None:
    made = book((BEGIN, BEGIN + 9 * HOUR))
    steps = [(0, State.STARTING), (4, State.RUNNING), (1, State.SAVING), (6, State.STOPPING)]
    made.moments = [(BEGIN + at * HOUR, state) for at, state in steps]
    assert parts(made, BEGIN + 9 * HOUR)[1] == {"starting": 4 * HOUR, "saving": 2 * HOUR, "releasing": 3 * HOUR}


def test_a_machine_that_no_session_asked_for_is_an_orphan() -> None:
    made = book((BEGIN, BEGIN + HOUR))
    made.state = None
    assert parts(made, BEGIN + HOUR)[1] == {"orphan": HOUR}


step = st.tuples(st.integers(-2000, 3 * HOUR), st.sampled_from(list(State)))


@given(
    st.lists(step, min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 2 * HOUR), st.integers(0, 2 * HOUR)), max_size=4),
    st.tuples(st.integers(0, 5 * HOUR), st.integers(0, 9 * HOUR), st.booleans()),
    st.tuples(st.sampled_from([1000, 60_000, HOUR]), st.sampled_from([0, 60_000]), st.integers(1, 10**12)),
)
def test_parts_add_up_to_the_bill_and_never_shrink(
    states: list[tuple[int, State]],
    cells: list[tuple[int, int]],
    machine: tuple[int, int, bool],
    price: tuple[int, int, int],
) -> None:
    opened, length, closed = BEGIN + machine[0], machine[1], machine[2]
    made = book((opened, opened + length if closed else None), rate=price[2], unit_ms=price[0], minimum_ms=price[1])
    at = BEGIN
    for gap, state in states:
        at += gap  # at times into the past: a clock that was put back
        made.moments.append((at, state))
    at = BEGIN
    for gap, seconds in cells:
        ran(made, at + gap, at + gap + seconds)
        at += gap + seconds
    before: Counter[str] = Counter()
    for now in sorted({opened, opened + 1, opened + length // 2, opened + length, opened + length + HOUR}):
        nano, ms = parts(made, now)
        assert sum(nano.values()) == made.compute_nano(now)
        assert sum(ms.values()) == made.billed_ms(now)
        if not closed:
            assert all(nano[kind] >= value for kind, value in before.items())
        before = nano
