"""The forecast: what was slow at first predicts nothing, phases are told apart, and what can't be known is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.forecast import Forecast, Loop, NoForecast, Progress, about, words
from ciuic_jupyter.core.money import NANO


def loop(taken: int | None, left: int | None, place: str = "a", **more: Any) -> Loop:
    return Loop(place, f"line {place}", taken, left, **more)


def watched(until: float, loops: Callable[[float], Sequence[Loop]], progress: Progress | None = None) -> Progress:
    """Return a run looked at once a second."""
    progress = progress or Progress()
    now = math.floor(progress.ran) + 1.0
    while now <= until:
        progress.see(now, loops(now))
        now += 1.0
    return progress


def known(progress: Progress) -> Forecast:
    said = progress.forecast()
    assert isinstance(said, Forecast), said
    assert 0 <= said.low <= said.left <= said.high
    return said


def turns(starts: Sequence[float]) -> Callable[[float], list[Loop]]:
    """Return the place of one loop whose turns begin at `starts`, the last being the end."""

    def at(now: float) -> list[Loop]:
        taken = sum(1 for start in starts[:-1] if start <= now)
        return [loop(taken, len(starts) - 1 - taken)] if taken and now < starts[-1] else []

    return at


def sums(seconds: Sequence[float]) -> list[float]:
    return [math.fsum(seconds[:at]) for at in range(len(seconds) + 1)]


def test_a_steady_loop_ends_when_its_pace_says() -> None:
    said = known(watched(30, turns(sums([0.5] * 400))))
    assert said.left == pytest.approx(170, rel=0.02) and said.fraction == pytest.approx(0.15, rel=0.03)
    assert (said.done, said.total) == (60, 400) and said.seconds_per_turn == pytest.approx(0.5, rel=0.03)
    assert said.low < 170 < said.high < 1.3 * said.left


def test_few_long_turns_are_counted_with_the_part_that_is_over() -> None:
    assert known(watched(150, turns(sums([60.0] * 10)))).left == pytest.approx(450, abs=6)


def test_compiling_at_first_is_spent_and_predicts_nothing() -> None:
    assert known(watched(40, turns(sums([20.0, *[0.1] * 1199])))).left == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize("times", [1.5, 0.6])
def test_after_a_change_of_pace_only_the_new_one_counts(times: float) -> None:
    starts = sums([*[0.5] * 400, *[0.5 * times] * 600])
    said = known(watched(300, turns(starts)))
    assert said.left == pytest.approx(starts[-1] - 300, rel=0.03)


def test_a_steady_drift_goes_on() -> None:
    starts = sums([0.5 + 0.0004 * turn for turn in range(1000)])
    truth = starts[-1] - 250
    assert known(watched(250, turns(starts))).left == pytest.approx(truth, rel=0.05)


def epochs(train: float, steps: int, validation: float, rest: float, count: int = 10) -> Callable[[float], list[Loop]]:
    """Return the place in epochs of train steps, a validation of ten, and a rest without a loop."""
    whole = train + validation + rest

    def at(now: float) -> list[Loop]:
        epoch, into = int(now // whole), now % whole
        if epoch >= count:
            return []
        found = [loop(epoch + 1, count - epoch - 1)]
        if into < train:
            step = int(into / train * steps)
            found.append(loop(step + 1, steps - step - 1, "train"))
        elif into < train + validation:
            step = int((into - train) / validation * 10)
            found.append(loop(step + 1, 9 - step, "validation"))
        return found

    return at


@pytest.mark.parametrize("now", [51, 65, 83, 88, 91, 130, 350])
def test_an_epoch_is_its_steps_its_validation_and_the_rest(now: int) -> None:
    run = epochs(train=30.2, steps=100, validation=9.4, rest=3.6)
    assert known(watched(now, run)).left == pytest.approx(432 - now, abs=6)


def test_in_the_first_epoch_the_bounds_leave_room_for_what_was_not_seen() -> None:
    said = known(watched(20, epochs(train=30.2, steps=100, validation=9.4, rest=3.6)))
    assert said.left == pytest.approx(302 - 20, rel=0.05), "only the steps are known"
    assert said.low < 0.7 * said.left and said.high > 432 - 20 - 60


def test_why_there_is_none() -> None:
    def why(*loops: Loop, seconds: float = 10) -> str:
        said = watched(seconds, lambda _: loops).forecast()
        assert isinstance(said, NoForecast)
        return said.why

    assert why() == "no loop is under way"
    assert why(loop(None, None, kind="generator")) == "the loop of line a (generator) has no known length"
    assert "`while` of line 7" in why(loop(1, 5, endless=7))
    assert why(loop(1, 5), seconds=2) == "it has run for less than 3 s"
    assert why(loop(1, 5)) == "no turn of the loop is over yet"
    slow = watched(60, lambda now: [loop(int(now / 10) + 1, 10**12 - int(now / 10))]).forecast()
    assert slow == NoForecast("at this pace it takes more than ten years")
    again = watched(20, turns(sums([1.0] * 20)))
    again.see(21.0, [])
    again.see(22.0, [loop(1, 19)])
    said = again.forecast()
    assert isinstance(said, NoForecast) and "runs again" in said.why


def test_an_inner_loop_of_unknown_length_hides_no_outer_one() -> None:
    def at(now: float) -> list[Loop]:
        return [loop(int(now // 5) + 1, 19 - int(now // 5)), loop(None, None, "inner")]

    assert known(watched(32, at)).left == pytest.approx(68, abs=3)


def test_a_loop_that_can_not_be_seen_into_for_a_moment_is_where_it_was() -> None:
    progress = watched(30, turns(sums([0.5] * 400)))
    for now in range(31, 52):
        hidden = loop(None, None) if now % 2 else loop(20, 380, rough=True)
        progress.see(float(now), [hidden] if now % 10 else [loop(2 * now, 400 - 2 * now)])
    assert known(progress).left == pytest.approx(200 - 51, rel=0.03)


def test_times_that_are_none_or_go_back_are_left_out() -> None:
    progress = watched(30, turns(sums([0.5] * 400)))
    before = progress.forecast()
    for wrong in (math.nan, math.inf, -1.0, 12.0, 30.0, 1e300):
        progress.see(wrong, [loop(1, 399)])
    assert progress.forecast() == before


def test_a_run_that_goes_on_elsewhere_is_the_same_run() -> None:
    run = epochs(train=30.2, steps=100, validation=9.4, rest=3.6)
    progress = watched(100, run)
    progress.moved()
    said = known(watched(140, lambda now: run(now - 20), progress))  # from a checkpoint 20 s ago
    assert said.left == pytest.approx(432 - 120, abs=12) and said.ran == 140


def test_what_a_kernel_tells_is_not_believed() -> None:
    wrong = {"place": None, "name": "\x1b" + "x" * 999, "taken": math.nan, "left": -1, "endless": True, "follow": "2"}
    assert Loop.of(wrong) == Loop("", "\\x1b" + "x" * 99, None, None, "", None, 0)
    assert Loop.of({"place": "p", "taken": 1, "left": 2}) == Loop("p", "", 1, 2)


counts = st.none() | st.integers(0, 50)
looks = st.tuples(
    st.just(math.nan) | st.floats(0, 30), st.lists(st.builds(loop, counts, counts, st.sampled_from("abc")), max_size=4)
)


@given(st.lists(looks, max_size=60), st.booleans())
def test_whatever_is_seen_the_forecast_is_a_time_or_a_reason(seen: list[tuple[float, list[Loop]]], moves: bool) -> None:
    progress, now = Progress(), 0.0
    for passed, loops in seen:
        now = now + passed if math.isfinite(passed) else now
        progress.see(now if math.isfinite(passed) else passed, loops)
        said = progress.forecast()
        if isinstance(said, Forecast):
            assert 0 <= said.low <= said.left <= said.high < math.inf
            assert 0 <= said.fraction <= 1 and 0 <= said.done < max(1, said.total)
        if moves and len(loops) == 4:
            progress.moved()


@given(st.floats(0.02, 20), st.integers(20, 2000), st.floats(0.1, 0.9))
def test_an_even_pace_is_predicted_whatever_it_is(seconds: float, count: int, share: float) -> None:
    total = seconds * count
    now = max(share * total, 6 * seconds, 20.0)
    if now > 0.9 * total:
        return

    def at(moment: float) -> list[Loop]:
        taken = min(count, int(moment / seconds) + 1)
        return [loop(taken, count - taken)]

    every, progress = max(1.0, now / 300), Progress()
    for beat in range(1, int(now / every) + 1):
        progress.see(beat * every, at(beat * every))
    said = known(progress)
    assert said.ran + said.left == pytest.approx(total, rel=0.1)


def test_a_long_run_takes_no_more_memory_than_a_short_one() -> None:
    progress = Progress()
    for now in range(1, 40_000):
        progress.see(float(now), [loop(now, 100_000 - now)])
    assert known(progress).left == pytest.approx(60_000, rel=0.02)
    assert all(len(level.pace) <= 240 for level in progress._levels.values())
    for now in range(40_000, 42_000):
        progress.see(float(now), [loop(1, 1, f"place {now}")])
    assert len(progress._levels) < 600


def test_it_is_said_no_finer_than_it_is_known() -> None:
    told = {"total_nano": 42 * NANO // 100, "low_nano": 40 * NANO // 100, "high_nano": 47 * NANO // 100}
    assert words(told, "USD", 725) == ("forecast $0.42 (0.40 to 0.47), 12 min left", "")
    text, warning = words({**told, "follow": 1, "budget_seconds": 480.0}, "CNY", 44)
    assert text == "forecast ¥0.42 (0.40 to 0.47), 40 s left, without the loop that follows"
    assert warning == "will reach the budget in about 8 min"
    small = {name: nano // 1000 for name, nano in told.items()}
    assert words(small, "USD", 5)[0] == "forecast $0.000420 (0.000400 to 0.000470), 10 s left"
    assert words({"why": "no loop"}, "USD", 0) == ("no forecast: no loop", "")
    assert [about(s) for s in (-5, 91, 7199, 7300, 10**5, 10**6)] == [
        "10 s",
        "2 min",
        "2 h 0 min",
        "2 h 0 min",
        "27 h 50 min",
        "11 d 13 h",
    ]
