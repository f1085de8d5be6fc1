"""The meter's widgets: core ipywidgets only, so that it works wherever notebooks do without an extension of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipywidgets import HTML, Button, HBox, Widget

from ciuic_jupyter.notebook import style

if TYPE_CHECKING:
    from ciuic_jupyter.notebook.meter import Meter, View

_LABELS = {"pause": "Pause", "resume": "Resume", "release": "Release"}
_STOP_NOW = "Stop now"
_UNDER_WAY = {"pause": "Pausing…", "resume": "Resuming…", "release": "Releasing…"}
_ICONS = {"pause": "pause", "resume": "play", "release": "eject"}
_HINTS = {
    "pause": "Save at the running cell's next loop boundary, then let the machine go",
    "resume": "Get a machine again and restore everything",
    "release": "Interrupt the running cell, save, and let the machine go now",
}
_POSSIBLE = {
    "running": ("pause", "release"),
    "requested": ("release",),
    "starting": ("release",),
    "paused": ("resume",),
    "failed": ("resume",),
}


def possible(view: View) -> tuple[str, ...]:
    """Return which actions make sense in a view's state."""
    actions = _POSSIBLE.get(str(view.get("state", "")).lower(), ())
    waits = view.get("pause_pending") and not view.get("pause")  # past its grace a pause can be had at a price
    return tuple(a for a in actions if not (a == "pause" and waits))


class Readout(HTML):  # type: ignore[misc]  # ipywidgets has no types
    """An HTML widget whose value is drawn anew for each front end that asks: a reloaded page gets today's numbers."""

    fresh: Callable[[], str] | None = None

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the state for the front end, with the value as of now."""
        state: dict[str, Any] = super().get_state(key=key, drop_defaults=drop_defaults)
        if "value" in state and self.fresh is not None and self.value:
            state["value"] = self.fresh()
        return state


class WidgetPanel:
    """A readout and three buttons in one row."""

    def __init__(self, meter: Meter) -> None:
        self._readout = Readout(value="")
        self._readout.add_class("ciuic-readout")
        look = HTML(value=style.METER)
        look.add_class("ciuic-style")
        self._buttons = {action: self._button(meter, action) for action in _LABELS}
        buttons = HBox(list(self._buttons.values()))
        buttons.add_class("ciuic-buttons")
        self._box = HBox([look, self._readout, buttons])
        self._box.add_class("ciuic-meter")
        self._readout.value = meter.html()
        self._readout.fresh = meter.html
        self._fit(meter.view)
        for widget in (self._box, buttons, look, self._readout, *self._buttons.values()):
            _answer_where_asked(widget)

    @staticmethod
    def _button(meter: Meter, action: str) -> Button:
        button = Button(description=_LABELS[action], icon=_ICONS[action], tooltip=_HINTS[action])
        button.add_class("ciuic-button")
        # may run on any thread and must not block other widgets: it only enqueues
        button.on_click(lambda _: meter.press(action))
        return button

    def paint(self, html: str, view: View) -> None:
        """Show the picture and let the buttons fit the view."""
        self._readout.value = html
        self._fit(view)

    def _fit(self, view: View) -> None:
        can = possible(view)
        pausing = bool(view.get("pause_pending"))
        for action, button in self._buttons.items():
            pending = action == "pause" and pausing
            label = _UNDER_WAY[action] if pending else _LABELS[action]
            _set(button, "description", _STOP_NOW if pending and view.get("pause") else label)
            _set(button, "tooltip", _HINTS[action] if action in can else f"{_HINTS[action]} (not possible now)")
            # dimmed, not disabled: a disabled button would drop the keyboard focus at each press
            classes = ["ciuic-button"]
            if action not in can:
                classes.append("ciuic-na")
            elif action == can[0] and action != "release":
                classes.append("ciuic-main")
            _set(button, "_dom_classes", tuple(classes))

    def pressed(self, action: str) -> bool:
        """Answer the press on the button itself, before anything else has; False: it is dimmed."""
        button = self._buttons[action]
        if "ciuic-na" in button._dom_classes:  # noqa: SLF001  (ipywidgets has no public reader of its classes)
            return False
        _set(button, "description", _UNDER_WAY[action])
        return True

    def bundle(self) -> dict[str, Any]:
        """Return the widget's own MIME entry."""
        full: dict[str, Any] = self._box._repr_mimebundle_() or {}
        return {mime: data for mime, data in full.items() if mime.startswith("application/vnd.jupyter.widget")}

    def close(self) -> None:
        """Close all comms."""
        for widget in (*self._buttons.values(), self._readout, self._box):
            widget.close()


def _set(widget: Widget, trait: str, value: Any) -> None:
    if getattr(widget, trait) != value:
        setattr(widget, trait, value)


def _answer_where_asked(widget: Widget) -> None:
    """Let clicks work while a local cell is busy on ipykernel 7.4: it would route them to the busy main thread."""
    for owner in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
        comm = getattr(owner, "comm", None)
        if comm is not None and hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = lambda data, default: default  # noqa: SLF001  (the only switch there is)
