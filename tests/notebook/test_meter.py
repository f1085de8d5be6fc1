"""The meter's numbers, what it draws, when it draws, and what it does with presses."""

from __future__ import annotations

import re
import threading
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.control import purse
from ciuic_jupyter.core.budget import Limit
from ciuic_jupyter.core.money import NANO, format_money
from ciuic_jupyter.notebook import card, report, tick
from ciuic_jupyter.notebook.meter import INTERVAL, Meter, drifted, fact, make_meter, usage_percent


def view(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "s",
        "state": "running",
        "instance": "local.cpu",
        "currency": "USD",
        "rate_nano_per_hour": 3_600 * NANO,
        "spent_nano": 5 * NANO,
        "as_of": 1000.0,
        "billed_seconds": 5,
        "unbilled_seconds": 0,
        "unspent_nano": 0,
        "last_seq": 1,
    }
    return {**plain, **changes}


class Tags(HTMLParser):
    """Checks that every tag that is opened is closed, in order; keeps the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.scripts = 0
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attrs)
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def seen_at(html: str, seconds: float) -> str:
    """Return the number an odometer shows `seconds` after it was put on the page, by SVG's rules of animation."""
    shown = []
    for piece in re.findall(r'<g class="ciuic-wheel">.*?</g>|<text x="[\d.]+" y="19">[^<]*</text>', html):
        glyphs = re.findall(r"<tspan[^>]*>([^<]*)</tspan>", piece)
        if not glyphs:
            shown.append(re.sub(r"<[^>]*>", "", piece))
            continue
        (duration,), (begin,) = re.findall(r'dur="([\d.]+)s"', piece), re.findall(r'begin="(-?[\d.]+)s"', piece)
        end = re.findall(r' end="([\d.]+)s"', piece)
        at = min(seconds, float(end[0])) if end else seconds
        share = ((at - float(begin)) % float(duration)) / float(duration)
        shown.append(glyphs[min(int(share * len(glyphs)), len(glyphs) - 1)])
    return "".join(shown)


@given(
    nano=st.integers(0, 5000 * NANO),
    rate=st.integers(10**6, 500 * NANO),
    seconds=st.floats(0, 86_000),
)
def test_drawn_amount_is_the_amount_at_any_later_moment(nano: int, rate: int, seconds: float) -> None:
    shown = seen_at(tick.money(nano, rate, "USD"), seconds)
    assert re.fullmatch(r"\$\d+\.\d{2,6}", shown)
    true = (nano + rate * seconds / 3600) / NANO
    if true >= 10 ** (len(str(nano // NANO)) + 1):
        return  # two more digits than at the last fact: facts come long before
    places = len(shown.split(".")[1])
    # a wheel may be one step early or late: times are written with 0.1 ms
    assert float(shown.lstrip("$")) == pytest.approx(
        true, abs=1.01 * 10**-places + rate / NANO / 3600 * 0.01 + true * 1e-3
    )


def test_drawn_amount_shows_one_more_digit_when_it_grows_into_it() -> None:
    html = tick.money(9_990_000_000, 3600 * NANO, "USD")  # a dollar a second
    assert seen_at(html, 0) == "$9.99"
    assert seen_at(html, 0.505) == "$10.49"
    assert seen_at(html, 60) == "$69.99"


@pytest.mark.parametrize(("rate", "most"), [(NANO // 100, 4), (NANO, 4), (30 * NANO, 4), (300 * NANO, 9)])
def test_last_digit_moves_at_a_pace_people_can_read(rate: int, most: float) -> None:
    steps = rate / 3600 / NANO * 10 ** tick.places_for(rate)
    assert 0.02 < steps <= most


@given(seconds=st.floats(0, 20_000), later=st.floats(0, 30_000))
def test_countdown_is_right_at_any_moment_and_ends_at_zero(seconds: float, later: float) -> None:
    shown = seen_at(tick.clock(seconds, down=True), later)
    parts = [int(part) for part in shown.split(":")]
    value = sum(part * 60**at for at, part in enumerate(reversed(parts)))
    assert value == pytest.approx(max(0.0, seconds - later), abs=1.05)


@given(seconds=st.floats(0, 7000), later=st.floats(0, 190))
def test_clock_counts_up(seconds: float, later: float) -> None:
    shown = seen_at(tick.clock(seconds), later)
    parts = [int(part) for part in shown.strip(":").split(":")]
    value = sum(part * 60**at for at, part in enumerate(reversed(parts)))
    assert value == pytest.approx(seconds + later, abs=1.05)


@pytest.mark.parametrize(
    "state", ["requested", "starting", "running", "saving", "stopping", "paused", "failed", "closed"]
)
@pytest.mark.parametrize("live", [True, False])
def test_card_is_sound_html_and_escapes_what_others_wrote(state: str, live: bool) -> None:
    evil = '<img src=x onerror="alert(1)">'
    facts = view(
        name=evil, state=state, message=evil, step=evil, text=evil, instance=evil, budget_nano=NANO,
        budgets=[budget(evil)],
        idle={"verdict": "idle", "release_at": 1e9, "reason": evil},
        checkpoint={"seq": 1, "bytes": 5, "at": 1.0, "placeholders": [{"name": evil, "reason": evil}]},
    )  # fmt: skip
    tags = Tags(card.card(facts, card.sparkline("CPU", [1.0, 50.0]), live=live, now=1000.0, notice=""))
    assert tags.scripts == 0
    assert "<img" in tags.text  # as text, not as a tag


def test_card_never_says_free_and_names_the_price() -> None:
    for state, rate in (("running", 900_000_000), ("paused", 0)):
        text = Tags(card.card(view(state=state, rate_nano_per_hour=rate), live=False, now=1000.0)).text.lower()
        assert "free" not in text
        assert f"compute {'$0.90' if rate else '$0.00'}/h" in text


def test_saved_notebook_keeps_the_last_numbers_and_no_animation() -> None:
    meter = Meter("s", lambda _: None)
    meter.update(view(as_of=time.time()))
    bundle = meter.static()
    assert "<animate" not in bundle["text/html"]
    label = re.findall(r'aria-label="(\$[\d.]+) spent so far"', bundle["text/html"])
    assert len(label) == 1
    assert float(label[0].lstrip("$")) == pytest.approx(5.0, abs=1.0)
    assert "so far" in bundle["text/plain"]


def test_unspent_grows_while_paused_at_the_rate_it_had() -> None:
    paused = view(state="paused", rate_nano_per_hour=0, unbilled_seconds=1800, unspent_nano=NANO)
    assert card.unspent_rate(paused) == 2 * NANO
    assert card.unspent_rate(view(unbilled_seconds=1800, unspent_nano=NANO)) == 0


def budget(scope: str = "session", spent: float = 5.0, cap: float = 6.0, **changes: Any) -> dict[str, Any]:
    limit = Limit(scope, "", round(cap * NANO), round(spent * NANO), 0, changes.pop("rate", 3_600 * NANO))
    return {**purse.view(limit), **changes}


def test_every_budget_is_drawn_in_order_and_warns_at_its_marks() -> None:
    given = [budget("run"), budget("day", 5, 10), budget("month", 5, 100), budget("user", 99.5, 100, mark=100)]
    html = card.card(view(budgets=given), live=False, now=1000.0)
    assert re.findall(r'aria-valuenow="(\d+)"', html) == ["83", "50", "5", "99"]
    assert re.findall(r'ciuic-budget( ciuic-\w+)?"', html) == [" ciuic-over", " ciuic-half", "", " ciuic-over"]
    text = Tags(html).text
    for part in ("this cell 83% of $6.00past 80%", "today 50% of $10.00past 50%", "this month 5% of $100.00all"):
        assert part in text
    assert text.endswith("all sessions 99% of $100.00reached")
    assert "ciuic-budgets" not in card.card(view(), now=1000.0)


def test_a_budget_grows_at_its_own_rate() -> None:
    given = [budget("session", 5, 10, rate=3_600 * NANO), budget("day", 5, 10, rate=7_200 * NANO)]
    html = card.card(view(budgets=given), now=1002.0)
    assert re.findall(r'aria-valuenow="(\d+)"', html) == ["70", "90"]
    assert re.findall(r'from="([\d.]+)" to="100" dur="([\d.]+)s"', html) == [("70.000", "3.000"), ("90.000", "0.500")]
    assert "<animate" not in card.budgets(view(budgets=given), False, 1002.0), "a saved notebook stands still"


@given(share=st.floats(0, 99.9), rate=st.floats(0.5, 100_000), seconds=st.floats(0, 86_000))
def test_a_share_counts_to_its_end_and_stays_there(share: float, rate: float, seconds: float) -> None:
    shown = int(seen_at(tick.percent(share, rate), seconds))
    assert shown == pytest.approx(min(99.5, share + rate * seconds / 3600), abs=1.02 + rate / 3600 * 0.05)


def test_a_share_that_is_whole_or_stands_is_plain_text() -> None:
    assert (tick.percent(100, 5), tick.percent(250.0, 5), tick.percent(42.9, 0)) == ("100%", "100%", "42%")
    assert "<animate" not in tick.bar(100, 5) + tick.bar(42, 0) + tick.bar(1, 0.001)


def test_a_budget_that_another_session_eats_is_news() -> None:
    same = view(budgets=[budget("day", 1)])
    assert fact(same) == fact(view(budgets=[budget("day", 1.5)])), "amounts count by themselves"
    assert fact(same) != fact(view(budgets=[budget("day", 1, rate=1)]))
    assert fact(same) != fact(view(budgets=[budget("day", 3)])), "a mark"


@pytest.mark.parametrize(
    ("usage", "percent"),
    [
        ({"cpu_percent": 40.0, "gpus": []}, ("CPU", 40.0)),
        ({"cpu_percent": 390.0}, ("CPU", 390.0)),
        ({"cpu_percent": 3.0, "gpus": [{"utilization_percent": 5.0}, {"utilization_percent": 97.0}]}, ("GPU", 97.0)),
        ({"cpu_percent": True}, None),
        (None, None),
        ({}, None),
    ],
)
def test_usage_to_draw(usage: Any, percent: tuple[str, float] | None) -> None:
    assert usage_percent(usage) == percent


def test_counting_on_is_no_new_fact_but_a_changed_state_is() -> None:
    later = view(as_of=1060.0, spent_nano=65 * NANO, last_seq=9, billed_seconds=65, unbilled_seconds=1)
    assert fact(view()) == fact(later)
    assert not drifted(view(), later)
    assert drifted(view(), {**later, "spent_nano": 70 * NANO})
    for change in ({"state": "saving"}, {"pause_pending": True}, {"run": "r"}, {"message": "m"}, {"kept_until": 9.0}):
        assert fact(view(**change)) != fact(view())
    # what a sampler sees of an idle machine changes all the time and is no news
    assert fact(view(usage={"cpu_percent": 1.0})) == fact(view(usage={"cpu_percent": 2.5}))


class Recorder:
    """A panel that writes down what it is told, and when."""

    def __init__(self, meter: Meter) -> None:
        self.painted: list[tuple[float, str]] = []
        self.actions: list[str] = []
        self.possible = True
        self.seen = threading.Condition()
        self.closed = False

    def paint(self, html: str, view: Any) -> None:
        with self.seen:
            self.painted.append((time.monotonic(), html))
            self.seen.notify_all()

    def pressed(self, action: str) -> bool:
        with self.seen:
            self.actions.append(action)
            self.seen.notify_all()
        return self.possible

    def bundle(self) -> dict[str, Any]:
        return {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}}

    def close(self) -> None:
        self.closed = True

    def wait(self, condition: Any) -> None:
        with self.seen:
            assert self.seen.wait_for(condition, timeout=10)


def recorded(act: Any) -> tuple[Meter, Recorder]:
    made: list[Recorder] = []

    def panel(meter: Meter) -> Recorder:
        made.append(Recorder(meter))
        return made[0]

    return Meter("s", act, panel=panel), made[0]


def test_a_burst_of_facts_is_at_most_two_pictures_a_second_and_the_last_one_is_shown() -> None:
    meter, panel = recorded(lambda _: None)
    for number in range(50):
        meter.update(view(message=f"news {number}"))
    panel.wait(lambda: "news 49" in (panel.painted or [(0, "")])[-1][1])
    assert len(panel.painted) <= 3
    gaps = [b - a for (a, _), (b, _) in zip(panel.painted, panel.painted[1:], strict=False)]
    assert all(gap >= INTERVAL * 0.95 for gap in gaps)
    meter.close()
    assert panel.closed


def test_a_press_is_done_in_another_thread_and_its_answer_drawn() -> None:
    done: list[tuple[str, str]] = []

    def act(action: str) -> dict[str, Any]:
        done.append((action, threading.current_thread().name))
        return view(pause_pending=True)

    meter, panel = recorded(act)
    meter.update(view())
    meter.press("pause")
    panel.wait(lambda: any("Pausing" in html for _, html in panel.painted))
    assert done == [("pause", "ciuic-buttons-s")]
    meter.close()


def test_a_press_that_fails_says_so_and_the_next_one_works() -> None:
    def act(action: str) -> None:
        raise RuntimeError("no plane <b>")

    meter, panel = recorded(act)
    meter.update(view())
    meter.press("pause")
    panel.wait(lambda: any("pause did not work: no plane &lt;b&gt;" in html for _, html in panel.painted))
    meter.press("release")
    panel.wait(lambda: any("release did not work" in html for _, html in panel.painted))
    meter.close()


def test_a_dimmed_button_asks_for_nothing() -> None:
    asked: list[str] = []
    meter, panel = recorded(asked.append)
    panel.possible = False
    meter.update(view(state="saving"))
    meter.press("pause")
    panel.wait(lambda: any("pause is not possible now" in html for _, html in panel.painted))
    assert asked == []
    meter.close()


def test_without_widgets_the_meter_is_a_line_of_text() -> None:
    meter = make_meter("s", lambda _: None, widgets=False)
    meter.update(view(as_of=time.time()))
    assert not meter.live
    assert meter.text().startswith("[s] running · local.cpu · compute $3,600.00/h · ")
    assert set(meter._repr_mimebundle_()) == {"text/plain", "text/html"}


def test_money_drawn_still_is_what_money_says() -> None:
    html = tick.money(1_234_567_890_123, 0, "CNY", label="spent")
    assert seen_at(html, 5) == format_money(1_234_567_890_123, "CNY")


def ahead(**changes: Any) -> dict[str, Any]:
    told = {"ends_at": 1725.0, "why": None, "follow": 0, "budget_seconds": None}
    nano = {"total_nano": 42 * NANO // 100, "low_nano": 40 * NANO // 100, "high_nano": 47 * NANO // 100}
    return view(run="r", run_started_at=990.0, forecast={**told, **nano, **changes})


def test_a_forecast_is_drawn_with_its_warning_and_anew_only_when_it_says_something_else() -> None:
    text = "forecast $0.42 (0.40 to 0.47), 12 min left"
    assert text in Tags(card.card(ahead(), now=1000.0)).text
    assert card.line(ahead(), 1000.0).endswith(f" · {text}")
    warned = Tags(card.card(ahead(budget_seconds=480.0), now=1000.0)).text
    assert f"{text}will reach the budget in about 8 min" in warned
    assert fact(ahead()) == fact(ahead(ends_at=1728.0, total_nano=421 * NANO // 1000))
    assert fact(ahead()) != fact(ahead(ends_at=1790.0))
    assert text not in card.card(ahead(), live=False, now=1000.0), "a saved notebook foretells nothing"
    assert text not in card.card({**ahead(), "run": None}, now=1000.0)
    assert dict(report.status(ahead()).tables[0].rows)["ahead"].startswith("forecast $0.42 (0.40 to 0.47)")


def test_why_there_is_no_forecast_is_said_of_a_run_that_goes_on() -> None:
    none = {"fraction": None, "ends_at": None, "why": "the loop of line 3 (<b>) has no known length"}
    told = view(run="r", run_started_at=990.0, forecast=none)
    assert "no forecast" not in card.card(told, now=1000.0)
    assert "no forecast: the loop of line 3 (<b>) has no known length" in Tags(card.card(told, now=1010.0)).text
