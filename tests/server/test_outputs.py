"""Outputs as a notebook holds them: folded as they come or all at once, the same."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ciuic_jupyter.kernels.outputs import Output, compact, stream
from ciuic_jupyter.server import outputs
from ciuic_jupyter.server.outputs import Shown, notebook_outputs


def display(text: str, display_id: str | None = None, kind: str = "display_data") -> Output:
    content: dict[str, Any] = {"data": {"text/plain": text}, "metadata": {}}
    return Output(kind, content | ({"transient": {"display_id": display_id}} if display_id else {}))


def seen(folded: list[Output]) -> list[Any]:
    """Return what a notebook shows: a carriage return before a line's end moves nothing."""
    found = list(notebook_outputs(folded, 1))
    return [one | {"text": re.sub("\r+(\n|$)", r"\1", one["text"])} if "text" in one else one for one in found]


pieces = st.one_of(
    st.builds(stream, st.sampled_from(["stdout", "stderr"]), st.text("ab\r\n", max_size=6)),
    st.builds(display, st.sampled_from("xyz"), st.sampled_from([None, "d"])),
    st.builds(display, st.sampled_from("uvw"), st.just("d"), st.just("update_display_data")),
    st.builds(lambda wait: Output("clear_output", {"wait": wait}), st.booleans()),
)


@given(st.lists(pieces, max_size=40), st.integers(1, 30))
@example([stream("stdout", "a"), Output("clear_output", {"wait": True}), stream("stdout", "")], 1)
@example([stream("stdout", "")], 1)
def test_folded_on_the_way_or_at_the_end_is_the_same(came: list[Output], fold_at: int) -> None:
    before = outputs._FOLD_AT
    try:
        folded = []
        for outputs._FOLD_AT in (fold_at, 1 << 30):
            shown = Shown()
            for output in came:
                shown.take(output, len(str(output.content)))
            folded.append(seen(shown.outputs()))
        assert folded[0] == folded[1]
    finally:
        outputs._FOLD_AT = before


def test_a_progress_bar_of_a_million_steps_is_kept_short() -> None:
    shown = Shown()
    for step in range(200_000):
        shown.take(stream("stderr", f"\r{step:>7} of 1000000"), 200)
    assert sum(len(output.content["text"]) for output in (*shown._folded, *shown._waiting)) < 1 << 20
    (bar,) = notebook_outputs(shown.outputs(), None)
    assert bar["text"].rstrip("\r").endswith(" 199999 of 1000000")
    assert len(bar["text"]) < 40


@pytest.mark.parametrize(
    ("came", "kept"),
    [
        ([stream("stdout", "a"), Output("clear_output", {"wait": False})], []),
        ([stream("stdout", "a"), Output("clear_output", {"wait": True})], ["stream"]),
        ([display("u", "elsewhere", "update_display_data")], []),
        ([Output("comm_open", {"comm_id": "w", "data": {"state": {}}}), display("w")], ["display_data"]),
        ([Output("error", {"ename": "E", "evalue": "v", "traceback": ["t"]})], ["error"]),
    ],
)
def test_what_a_notebook_holds_of_it(came: list[Output], kept: list[str]) -> None:
    assert [one["output_type"] for one in notebook_outputs(compact(came), 3)] == kept


def test_what_an_output_widget_caught_is_the_widgets() -> None:
    def capture(message: str) -> Output:
        return Output("comm_msg", {"comm_id": "w", "data": {"method": "update", "state": {"msg_id": message}}})

    came = [stream("stdout", "before\n"), capture("m"), stream("stdout", "caught\n"), capture(""), display("after")]
    found = list(notebook_outputs(compact(came), 1))
    assert [one.get("text") or one["data"]["text/plain"] for one in found] == ["before\n", "after"]
