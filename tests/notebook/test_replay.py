"""Outputs fold into what a viewer would see, and leave in time, in order, whole, and below the server's limits."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.kernels import replay
from ciuic_jupyter.kernels.outputs import Output, collapse, compact, extract_buffers, insert_buffers, stream
from ciuic_jupyter.kernels.replay import Shaper


def display(text: str, display_id: str | None = None, kind: str = "display_data") -> Output:
    transient = {"display_id": display_id} if display_id else {}
    return Output(kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient})


def clear(wait: bool) -> Output:
    return Output("clear_output", {"wait": wait})


def opened(comm: str, buffers: Any = (), paths: Any = (), **state: Any) -> Output:
    data = {"state": state, "buffer_paths": list(paths)}
    return Output("comm_open", {"comm_id": comm, "target_name": "jupyter.widget", "data": data}, buffers=buffers)


def updated(comm: str, buffers: Any = (), paths: Any = (), **state: Any) -> Output:
    data = {"method": "update", "state": state, "buffer_paths": list(paths)}
    return Output("comm_msg", {"comm_id": comm, "data": data}, buffers=buffers)


def shown(outputs: list[Output]) -> list[Any]:
    """A short form of outputs for comparing."""
    short: list[Any] = []
    for output in outputs:
        if output.msg_type == "stream":
            short.append(output.content["text"])
        elif "text/plain" in output.content.get("data", {}):
            short.append((output.msg_type, output.content["data"]["text/plain"]))
        elif output.msg_type.startswith("comm_"):
            short.append((output.msg_type, output.comm_id, output.content.get("data", {}).get("state")))
        else:
            short.append((output.msg_type, output.content.get("wait")))
    return short


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain\n", "plain\n"),
        ("10%\r20%\r100%\ndone", "100%\ndone"),
        ("hello\rHi", "Hillo"),
        ("ab\r", "ab\r"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("\r 5%\r 6%", " 6%"),
        ("up\x1b[A\rx", "up\x1b[A\rx"),
        ("abc\b\rx", "abc\b\rx"),
        ("a\r\r\rb", "b"),
    ],
)
def test_carriage_returns_are_carried_out_as_pages_do(text: str, result: str) -> None:
    assert collapse(text) == result


def test_text_behind_a_shown_half_line_keeps_its_first_part() -> None:
    assert collapse("abc\rde\rf", at_line_start=False) == "abc\rfe"
    assert collapse("\r20%\n1\r2", at_line_start=False) == "\r20%\n2"


def _screen(text: str) -> str:
    """A terminal's view of text without movements: the model to compare with."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        column = 0
        for letter in line:
            if letter == "\r":
                column = 0
            else:
                cells[column : column + 1] = [letter]
                column += 1
        lines.append("".join(cells))
    return "\n".join(lines)


@given(st.text("ab\r\n", max_size=30), st.text("ab\r\n", max_size=30))
def test_folded_text_shows_the_same_screen(first: str, second: str) -> None:
    assert _screen(collapse(first)) == _screen(first)
    if not (first.endswith("\r") and second.startswith("\n")):  # a split line end is put together by the merge instead
        shown_half = not first.endswith("\n") and first != ""
        assert _screen(first + collapse(second, at_line_start=not shown_half)) == _screen(first + second)


def test_streams_merge_by_name() -> None:
    out = [stream("stdout", "a"), stream("stdout", "b"), stream("stderr", "c"), stream("stdout", "d")]
    assert shown(compact(out)) == ["ab", "c", "d"]


def test_clear_output_erases_at_once_or_with_the_next_output() -> None:
    assert shown(compact([stream("stdout", "a"), clear(False), stream("stdout", "b")])) == [
        ("clear_output", False),
        "b",
    ]
    waiting = [stream("stdout", "a"), clear(True), stream("stdout", "b"), clear(True), stream("stdout", "c")]
    assert shown(compact(waiting)) == [("clear_output", True), "c"]
    assert shown(compact(waiting[:2])) == ["a", ("clear_output", True)]


def test_last_value_of_a_display() -> None:
    updates = [display(str(i), "d", "update_display_data") for i in range(5)]
    assert shown(compact([display("x", "d"), stream("stdout", "t"), *updates])) == [("display_data", "4"), "t"]
    assert shown(compact(updates)) == [("update_display_data", "4")]
    twice = [display("a", "d"), display("b", "d")]
    assert shown(compact(twice)) == [("display_data", "b"), ("display_data", "b")]


def test_widget_states_fold_into_their_opening_with_buffers() -> None:
    out = compact(
        [
            opened("w", value=1, layout="IPY_MODEL_l"),
            updated("w", value=2),
            updated("w", [b"xyz"], [["image", "data"]], image={"width": 3}),
            stream("stdout", "a"),
            updated("w", value=3),
        ]
    )
    assert [output.msg_type for output in out] == ["comm_open", "stream"]
    state = insert_buffers(out[0].content["data"], out[0].buffers)
    assert state == {"value": 3, "layout": "IPY_MODEL_l", "image": {"width": 3, "data": b"xyz"}}


def test_a_widget_is_opened_before_the_one_that_names_it() -> None:
    folded = compact([opened("box", children=[]), opened("child"), updated("box", children=["IPY_MODEL_child"])])
    assert [output.comm_id for output in folded] == ["child", "box"]


def test_a_closed_widget_leaves_nothing() -> None:
    view = Output("display_data", {"data": {"application/vnd.jupyter.widget-view+json": {"model_id": "w"}}})
    assert compact([opened("w", value=1), view, updated("w", value=2), Output("comm_close", {"comm_id": "w"})]) == []


def test_outputs_captured_by_a_widget_are_cleared_apart() -> None:
    out = [
        stream("stdout", "cell"),
        opened("out", msg_id=""),
        updated("out", msg_id="m"),
        stream("stdout", "inside"),
        clear(False),
        stream("stdout", "new"),
        updated("out", msg_id=""),
        stream("stdout", "cell again"),
    ]
    assert [text for text in shown(compact(out)) if isinstance(text, str)] == ["cell", "new", "cell again"]


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=4))
def test_buffers_survive_leaving_and_coming_back(state: dict[str, Any]) -> None:
    plain, paths, buffers = extract_buffers(state)
    assert insert_buffers({"state": plain, "buffer_paths": paths}, buffers) == state


class Turned:
    """A clock that tests turn, and the channel's flushes at the times it asks for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.shaper = Shaper(clock=lambda: self.now)
        self.sent: list[tuple[float, Output]] = []
        self.channel = self.shaper.channel(lambda output: self.sent.append((self.now, output)))
        self.shaper.wake = lambda channel: None  # type: ignore[method-assign]  # the test flushes itself

    def run_on(self) -> None:
        while (again := self.channel.flush(self.now)) is not None:
            assert again > self.now
            self.now = again

    @property
    def text(self) -> str:
        return "".join(output.content["text"] for _at, output in self.sent if output.msg_type == "stream")


def test_first_text_goes_at_once_and_the_rest_merges() -> None:
    turned = Turned()
    for i in range(100):
        turned.channel.put(stream("stdout", f"{i}\n"))
    assert turned.text == "0\n"
    turned.run_on()
    assert [at for at, _output in turned.sent] == [100.0, 100.0 + replay.GAP]
    assert turned.text == "".join(f"{i}\n" for i in range(100))


def test_no_window_holds_more_than_the_server_allows() -> None:
    turned = Turned()
    line = "x" * 999 + "\n"
    for _ in range(20_000):
        turned.channel.put(stream("stdout", line))
    turned.run_on()
    assert turned.text == line * 20_000
    for start, _output in turned.sent:
        window = [output for at, output in turned.sent if start <= at < start + 3.0]
        assert sum(len(output.content["text"]) * 1.002 for output in window) < 3_000_000
        assert len(window) < 3000
    assert turned.now - 100.0 < 20_000_000 / 2_400_000 * 3.2 + 1


def test_display_updates_fold_when_behind_and_their_last_value_arrives() -> None:
    turned = Turned()
    turned.channel.put(display("x", "d"))
    for i in range(50_000):
        turned.channel.put(display(str(i), "d", "update_display_data"))
    turned.run_on()
    assert len(turned.sent) < 3000
    assert turned.sent[-1][1].content["data"]["text/plain"] == "49999"


def test_a_picture_of_ten_megabytes_is_not_held_up() -> None:
    turned = Turned()
    turned.channel.put(Output("display_data", {"data": {"image/png": "A" * 10_000_000}}))
    assert len(turned.sent) == 1


def test_emptiness_is_told_once_from_the_sending_thread() -> None:
    sent: list[Output] = []
    shaper = Shaper()
    channel = shaper.channel(sent.append)
    told = threading.Event()
    for i in range(50):
        channel.put(stream("stdout", f"{i}\n"))
    channel.when_empty(told.set)
    assert told.wait(5)
    assert "".join(output.content["text"] for output in sent) == "".join(f"{i}\n" for i in range(50))
