"""Widgets that live on the remote kernel: their messages pass through, their state is kept for reloaded pages."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ciuic_jupyter.kernels.outputs import Output, comm_data, extract_buffers, insert_buffers, with_state

WIDGET = "jupyter.widget"
CONTROL = "jupyter.widget.control"
STATE_METHODS = frozenset({"update", "echo_update"})

Buffers = Sequence[bytes | memoryview]
_relays: weakref.WeakSet[WidgetRelay] = weakref.WeakSet()


class Mirror:
    """What a browser must be told to show one remote comm: how it was opened, and its state now."""

    def __init__(self, opened: Output, show: Callable[[Output], None]) -> None:
        self.opened = opened
        self.show = show  # into the cell that opened it
        data = comm_data(opened)
        self.widget = opened.content.get("target_name") == WIDGET
        self.state: dict[str, Any] = insert_buffers(data, opened.buffers) if self.widget else {}

    def take(self, data: Mapping[str, Any], buffers: Buffers) -> None:
        """Fold one message's values in."""
        if self.widget and data.get("method") in STATE_METHODS:
            self.state.update(insert_buffers(data, buffers))

    def model(self) -> dict[str, Any]:
        """Return the entry of ipywidgets' `update_states` answer (binary values at their places)."""
        state = self.state
        return {
            "model_name": state.get("_model_name"),
            "model_module": state.get("_model_module"),
            "model_module_version": state.get("_model_module_version"),
            "state": dict(state),
        }


class WidgetRelay:
    """The comms of one remote session, each with a proxy in the local kernel; safe to call from any thread."""

    def __init__(self, forward: Callable[[str, dict[str, Any], dict[str, Any], list[bytes]], None]) -> None:
        self._forward = forward
        self._lock = threading.RLock()
        self._mirrors: dict[str, Mirror] = {}
        _relays.add(self)

    def knows(self, comm_id: str) -> bool:
        """Tell whether this comm was opened here and not closed yet."""
        return comm_id in self._mirrors

    def cell_of(self, comm_id: str) -> Callable[[Output], None] | None:
        """Return the way into the cell in which a comm was opened."""
        mirror = self._mirrors.get(comm_id)
        return mirror.show if mirror else None

    def incoming(self, output: Output, show: Callable[[Output], None], msg_id: str) -> None:
        """Take a comm message of the remote kernel and show it; `msg_id` is the local cell's request."""
        output = _captured_here(output, msg_id)
        with self._lock:
            if output.msg_type == "comm_open":
                self._open(output, show)
            elif output.msg_type == "comm_close":
                self._close(output.comm_id)
            elif (mirror := self._mirrors.get(output.comm_id)) is not None:
                mirror.take(comm_data(output), output.buffers)
        show(output)

    def _open(self, output: Output, show: Callable[[Output], None]) -> None:
        import comm  # noqa: PLC0415  (only where widgets are used)

        mirror = self._mirrors[output.comm_id] = Mirror(output, show)
        if mirror.widget:
            answer_reloads()
        manager = comm.get_comm_manager()
        proxy = comm.create_comm(
            comm_id=output.comm_id, target_name=str(output.content.get("target_name", "")), primary=False
        )
        proxy.on_msg(self._from_browser)
        proxy.on_close(self._closed_by_browser)
        manager.register_comm(proxy)

    def _close(self, comm_id: str) -> None:
        import comm  # noqa: PLC0415

        self._mirrors.pop(comm_id, None)
        proxy = getattr(comm.get_comm_manager(), "comms", {}).pop(comm_id, None)
        if proxy is not None:
            proxy._closed = True  # noqa: SLF001  (else its end would send a second comm_close)

    def _from_browser(self, message: Mapping[str, Any]) -> None:
        content = message["content"]
        data = content.get("data") if isinstance(content.get("data"), dict) else {}
        buffers = [bytes(buffer) for buffer in message.get("buffers") or ()]
        with self._lock:
            mirror = self._mirrors.get(content["comm_id"])
            if mirror is not None and data.get("method") == "request_state":
                mirror.show(with_state(_update_of(content["comm_id"]), mirror.state))
                return
            if mirror is not None:
                mirror.take(data, buffers)
        self._forward("comm_msg", dict(content), dict(message.get("metadata") or {}), buffers)

    def _closed_by_browser(self, message: Mapping[str, Any]) -> None:
        content = message["content"]
        with self._lock:
            self._mirrors.pop(content["comm_id"], None)
        self._forward("comm_close", dict(content), dict(message.get("metadata") or {}), [])

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the entries of all widgets for `update_states`."""
        with self._lock:
            return {name: mirror.model() for name, mirror in self._mirrors.items() if mirror.widget}

    def forget(self) -> None:
        """Close all comms in the browser: the kernel they lived in is gone."""
        with self._lock:
            for name, mirror in list(self._mirrors.items()):
                self._close(name)
                with contextlib.suppress(OSError):
                    mirror.show(Output("comm_close", {"comm_id": name, "data": {}}))


def _update_of(comm_id: str) -> Output:
    return Output("comm_msg", {"comm_id": comm_id, "data": {"method": "update"}})


def _captured_here(output: Output, msg_id: str) -> Output:
    """Make a remote Output widget capture what the local cell shows: it names a request the page does not know."""
    data = comm_data(output)
    state = data.get("state")
    if isinstance(state, dict) and state.get("msg_id"):
        state = {**state, "msg_id": msg_id}
        return replace(output, content={**output.content, "data": {**data, "state": state}})
    return output


class _Control:
    """ipywidgets' control comm, whose answer to a reloaded page also holds the remote widgets."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        if isinstance(data, dict) and data.get("method") == "update_states":
            states = insert_buffers({"state": data["states"], "buffer_paths": data["buffer_paths"]}, buffers or ())
            for relay in list(_relays):
                states.update(relay.models())
            plain, paths, buffers = extract_buffers(states)
            data = {**data, "states": plain, "buffer_paths": paths}
        self._real.send(data, metadata=metadata, buffers=buffers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def answer_reloads() -> None:
    """Let reloaded pages find the remote widgets; may be called any number of times."""
    import comm  # noqa: PLC0415
    from ipywidgets.widgets.widget import Widget  # noqa: PLC0415  (only where widgets are used)

    manager = comm.get_comm_manager()
    if getattr(manager.targets.get(CONTROL), "holds_remote_widgets", False):
        return

    def opened(new: Any, message: Any) -> None:
        Widget.handle_control_comm_opened(new, message)
        _wrap(Widget)

    opened.holds_remote_widgets = True  # type: ignore[attr-defined]
    manager.register_target(CONTROL, opened)
    _wrap(Widget)


def _wrap(widget: Any) -> None:
    control = widget._control_comm  # noqa: SLF001  (ipywidgets has no hook for foreign models)
    if control is not None and not isinstance(control, _Control):
        widget._control_comm = _Control(control)  # noqa: SLF001
