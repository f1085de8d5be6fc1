"""Widgets of remote cells live in the local page: moved there, seen remotely, back after a reload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.ipykernels import VERSIONS
from tests.notebook.local_kernels import LocalKernel, local_kernel, real_plane, until


@pytest.fixture(scope="module", params=VERSIONS)
def kernel(request: pytest.FixtureRequest) -> Iterator[LocalKernel]:
    with real_plane() as plane, local_kernel(request.param, plane.setup, plane.env) as kernel:
        yield kernel


def widget(kernel: LocalKernel, code: str) -> tuple[str, Any]:
    """Run a remote cell that ends in a widget; return the widget's id and the cell."""
    cell = kernel.ok(f"%%remote\n{code}")
    view = cell.of("execute_result")[0]["data"]["application/vnd.jupyter.widget-view+json"]
    return view["model_id"], cell


def states(kernel: LocalKernel) -> dict[str, Any]:
    """What a page gets that asks for all widgets after a reload."""
    opened = {"comm_id": f"control{len(kernel.published)}", "target_name": "jupyter.widget.control", "data": {}}
    message = kernel.session.msg("comm_open", opened, metadata={"version": "1.0.0"})
    with kernel._lock:
        kernel.session.send(kernel.sockets["shell"], message)
    asked = kernel.comm("comm_msg", {"comm_id": opened["comm_id"], "data": {"method": "request_states"}})
    (answer,) = until(lambda: asked.of("comm_msg"), "the states")
    found: dict[str, Any] = answer["data"]["states"]
    return found


def set_value(kernel: LocalKernel, comm: str, **state: Any) -> None:
    kernel.comm("comm_msg", {"comm_id": comm, "data": {"method": "update", "state": state, "buffer_paths": []}})


def test_a_value_set_in_the_page_reaches_the_remote_and_comes_back(kernel: LocalKernel) -> None:
    code = "import ipywidgets\ns = ipywidgets.IntSlider(3)\nt = ipywidgets.IntText()\n"
    slider, cell = widget(kernel, code + "s.observe(lambda c: setattr(t, 'value', 2 * c['new']), 'value')\ns")
    assert slider in [content["comm_id"] for content in cell.of("comm_open")]
    set_value(kernel, slider, value=8)

    def doubled() -> bool:
        values = [
            m["content"]["data"].get("state", {}).get("value") for m in kernel.published if m["msg_type"] == "comm_msg"
        ]
        return 16 in values

    until(doubled, "the remote answer")
    assert kernel.ok("%%remote\nprint(s.value, t.value)").text() == "8 16\n"


def test_a_reloaded_page_finds_remote_and_local_widgets_with_their_values(kernel: LocalKernel) -> None:
    slider, _cell = widget(kernel, "import ipywidgets\ns = ipywidgets.IntSlider(3)\ns")
    kernel.ok("import ipywidgets\nlocal = ipywidgets.IntSlider(5)")
    kernel.ok("%%remote\ns.value = 4")
    found = states(kernel)
    assert found[slider]["state"]["value"] == 4
    assert found[slider]["model_name"] == "IntSliderModel"
    assert found[found[slider]["state"]["layout"].removeprefix("IPY_MODEL_")]["model_name"] == "LayoutModel"
    assert 5 in [model["state"].get("value") for model in found.values()]
    set_value(kernel, slider, value=9)
    until(lambda: states(kernel)[slider]["state"]["value"] == 9, "the page's own value in the mirror")


def test_one_widget_can_be_asked_for_its_state(kernel: LocalKernel) -> None:
    slider, _cell = widget(kernel, "import ipywidgets\ns = ipywidgets.IntSlider(7)\ns")
    before = len(kernel.published)
    kernel.comm("comm_msg", {"comm_id": slider, "data": {"method": "request_state"}})

    def told() -> Any:
        return [m["content"]["data"]["state"] for m in kernel.published[before:] if m["msg_type"] == "comm_msg"]

    assert until(told, "the state")[0]["value"] == 7


def test_binary_state_arrives_whole(kernel: LocalKernel) -> None:
    image, cell = widget(kernel, "import ipywidgets\ni = ipywidgets.Image(value=bytes(range(256)), format='png')\ni")
    (message,) = [m for m in cell.messages if m["msg_type"] == "comm_open" and m["content"]["comm_id"] == image]
    assert [bytes(buffer) for buffer in message["buffers"]] == [bytes(range(256))]
    assert message["content"]["data"]["buffer_paths"] == [["value"]]


def test_widgets_of_a_running_cell_answer(kernel: LocalKernel) -> None:
    cell = kernel.start("%%remote\nimport ipywidgets, time\nb = ipywidgets.Button()\ndisplay(b)\ntime.sleep(1)")
    until(lambda: cell.of("display_data"), "the button")
    found = kernel.ask("comm_info_request")
    until(lambda: found.reply, "the comms", 0.9)
    assert found.reply is not None
    assert cell.of("comm_open")[-1]["comm_id"] in found.reply["comms"]
    assert not cell.idle
    until(lambda: cell.idle, "the end")


def test_a_widget_closed_remotely_is_gone(kernel: LocalKernel) -> None:
    slider, _cell = widget(kernel, "import ipywidgets\ns = ipywidgets.IntSlider(7)\ns")
    kernel.ok("%%remote\ns.close()")
    closed = [message["content"]["comm_id"] for message in kernel.published if message["msg_type"] == "comm_close"]
    assert closed.count(slider) == 1
    until(lambda: slider not in states(kernel), "the mirror's end")


def test_attach_shows_a_remote_widget_in_a_new_kernel() -> None:
    with real_plane() as plane:
        with local_kernel("7.4.0", plane.setup, plane.env) as first:
            slider, _cell = widget(first, "import ipywidgets\ns = ipywidgets.IntSlider(1)\ns.value = 2\ns")
        with local_kernel("7.4.0", plane.setup, plane.env) as second:
            cell = second.ok("%again")
            (opened,) = [content for content in cell.of("comm_open") if content["comm_id"] == slider]
            assert opened["data"]["state"]["value"] == 2
            set_value(second, slider, value=6)
            assert until(lambda: "6" in second.ok("%%remote\nprint(s.value)").text(), "the page's value") is True


def test_remote_output_widget_names_the_local_request(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\nimport ipywidgets\no = ipywidgets.Output()\nwith o:\n    print('inside')")
    named = [c["data"]["state"]["msg_id"] for c in cell.of("comm_msg") if "msg_id" in c["data"].get("state", {})]
    assert named == [cell.msg_id, ""]
