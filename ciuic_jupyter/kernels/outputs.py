"""Outputs waiting to be shown, and how a long list of them folds into what a viewer would see in the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

VISIBLE = frozenset({"stream", "display_data", "execute_result", "error"})
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MODEL = "IPY_MODEL_"
_CURSOR = re.compile("\x1b\\[[0-9;]*[A-HJKSTf]|\x08")  # moves the cursor or erases: only a terminal can fold it


@dataclass(frozen=True)
class Output:
    """One iopub message of a run, without its header."""

    msg_type: str
    content: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    buffers: Sequence[bytes | memoryview] = ()

    @property
    def display_id(self) -> str | None:
        found = (self.content.get("transient") or {}).get("display_id")
        return str(found) if found else None

    @property
    def comm_id(self) -> str:
        return str(self.content.get("comm_id", ""))


def stream(name: str, text: str) -> Output:
    """Return the message of `text` on `name` (stdout or stderr)."""
    return Output("stream", {"name": name, "text": text})


def merges(first: Output, second: Output) -> bool:
    """Tell whether both are text of one stream."""
    return first.msg_type == second.msg_type == "stream" and first.content["name"] == second.content["name"]


def merged(outputs: Iterable[Output]) -> Iterator[Output]:
    """Yield `outputs` with neighbouring texts of one stream joined, and without empty ones."""
    waiting: list[Output] = []
    for output in outputs:
        if output.msg_type == "stream" and not output.content["text"]:
            continue
        if waiting and not merges(waiting[-1], output):
            yield _joined(waiting)
            waiting = []
        if output.msg_type == "stream":
            waiting.append(output)
        else:
            yield output
    if waiting:
        yield _joined(waiting)


def _joined(texts: list[Output]) -> Output:
    return stream(texts[0].content["name"], "".join(text.content["text"] for text in texts))


def collapse(text: str, *, at_line_start: bool = True) -> str:
    """Return `text` with carriage returns carried out, as a front end shows it; cursor movements are left alone."""
    if "\r" not in text or _CURSOR.search(text):
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(_overwrite(line, keep_first=not (at_line_start or number)) for number, line in enumerate(lines))


def _overwrite(line: str, *, keep_first: bool) -> str:
    body = line.rstrip("\r")
    tail = "\r" if len(body) < len(line) else ""
    first, *rest = body.split("\r")
    if not rest:
        return line if keep_first else body + tail
    shown = (
        "" if keep_first else first
    )  # text shown before this one continues the line: leave it there to be overwritten
    for part in rest:
        shown = part + shown[len(part) :]
    return (first + "\r" + shown if keep_first else shown) + tail


def insert_buffers(data: Mapping[str, Any], buffers: Sequence[bytes | memoryview]) -> dict[str, Any]:
    """Return the state in a comm's `data` with its binary values at their places."""
    state = _copy(data.get("state") or {})
    for path, buffer in zip(data.get("buffer_paths") or (), buffers, strict=False):
        at: Any = state
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = bytes(buffer)
    return state  # type: ignore[no-any-return]


def extract_buffers(state: Mapping[str, Any]) -> tuple[dict[str, Any], list[list[str | int]], list[bytes]]:
    """Return (state without its binary values, their paths, the values): what a comm message carries."""
    paths: list[list[str | int]] = []
    buffers: list[bytes] = []

    def walk(value: Any, path: list[str | int]) -> Any:
        if isinstance(value, dict):
            kept = {}
            for key, item in value.items():
                if isinstance(item, bytes):
                    paths.append([*path, key])
                    buffers.append(item)
                else:
                    kept[key] = walk(item, [*path, key])
            return kept
        if isinstance(value, list):
            return [_place(item, [*path, index]) for index, item in enumerate(value)]
        return value

    def _place(item: Any, path: list[str | int]) -> Any:
        if isinstance(item, bytes):
            paths.append(path)
            buffers.append(item)
            return None
        return walk(item, path)

    return walk(state, []), paths, buffers


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def references(value: Any) -> Iterable[str]:
    """Yield the comm ids that a widget's state names."""
    if isinstance(value, str):
        if value.startswith(MODEL):
            yield value[len(MODEL) :]
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def comm_data(output: Output) -> dict[str, Any]:
    """Return a comm message's data; empty for comms that send something else than an object."""
    data = output.content.get("data")
    return data if isinstance(data, dict) else {}


def state_update(output: Output) -> bool:
    """Tell whether a comm message only sets values of a widget."""
    data = comm_data(output)
    return output.msg_type == "comm_msg" and data.get("method") == "update" and isinstance(data.get("state"), dict)


def captures(output: Output) -> bool:
    """Tell whether a comm message begins or ends the capture of outputs by an Output widget."""
    return state_update(output) and "msg_id" in output.content["data"]["state"]


def with_state(output: Output, state: Mapping[str, Any]) -> Output:
    """Return the comm message `output` carrying `state` (binary values at their places)."""
    plain, paths, buffers = extract_buffers(state)
    data = {**comm_data(output), "state": plain, "buffer_paths": paths}
    return replace(output, content={**output.content, "data": data}, buffers=buffers)


class _Fold:
    """One pass over a list of outputs; `items` holds what is left, None where something was dropped."""

    def __init__(self) -> None:
        self.items: list[Output | None] = []
        self.scopes: list[str] = []  # the Output widget that captures this item, or ""
        self.scope = ""
        self.clearing: dict[str, Output] = {}  # clear_output(wait=True) not yet followed by an output
        self.erasable: dict[str, list[int]] = {}  # by scope
        self.named: dict[str, list[int]] = {}  # by display id
        self.opened: dict[str, int] = {}
        self.updated: dict[str, int] = {}

    def push(self, output: Output) -> int:
        self.items.append(output)
        self.scopes.append(self.scope)
        at = len(self.items) - 1
        if output.msg_type in VISIBLE or output.msg_type == "clear_output":
            self.erasable.setdefault(self.scope, []).append(at)
        if output.display_id is not None:
            self.named.setdefault(output.display_id, []).append(at)
        return at

    def erase(self) -> None:
        for at in self.erasable.pop(self.scope, ()):
            self.items[at] = None

    def clear(self, output: Output) -> None:
        if output.content.get("wait"):
            self.clearing[self.scope] = output
        else:
            self.clearing.pop(self.scope, None)
            self.erase()
            self.push(output)

    def show(self, output: Output) -> None:
        waiting = self.clearing.pop(self.scope, None)
        if waiting is not None:
            self.erase()
            self.push(waiting)
        if output.display_id is not None:
            self._refresh(output)
        at = self._stream_before() if output.msg_type == "stream" else None
        before = self.items[at] if at is not None else None
        if at is not None and before is not None and merges(before, output):
            self.items[at] = stream(output.content["name"], before.content["text"] + output.content["text"])
        else:
            self.push(output)

    def _stream_before(self) -> int | None:
        """The item that text would join: the one before it, past state updates, which a stream may pass."""
        for at in range(len(self.items) - 1, -1, -1):
            item = self.items[at]
            if item is None or (state_update(item) and not captures(item)):
                continue
            return at if self.scopes[at] == self.scope else None
        return None

    def _refresh(self, output: Output) -> bool:
        """Give everything already listed under this display id the new value, as front ends do."""
        found = False
        for at in self.named.get(output.display_id or "", ()):
            item = self.items[at]
            if item is not None:
                found = True
                changed = {"data": output.content["data"], "metadata": output.content.get("metadata", {})}
                self.items[at] = replace(item, content={**item.content, **changed}, buffers=output.buffers)
        return found

    def update_display(self, output: Output) -> None:
        if not self._refresh(output):
            self.push(output)

    def open(self, output: Output) -> None:
        self.opened[output.comm_id] = self.push(output)

    def message(self, output: Output) -> None:
        if captures(output):
            self.scope = output.comm_id if output.content["data"]["state"]["msg_id"] else ""
            self.push(output)
            return
        into = self.opened.get(output.comm_id, self.updated.get(output.comm_id))
        target = self.items[into] if into is not None else None
        if target is None or not state_update(output) or not isinstance(comm_data(target).get("state"), dict):
            self.updated.pop(output.comm_id, None)
            at = self.push(output)
            if state_update(output):
                self.updated[output.comm_id] = at
            return
        fresh = insert_buffers(output.content["data"], output.buffers)
        if output.comm_id not in self.opened and any(references(fresh)):
            self.updated[output.comm_id] = self.push(output)  # it may name a widget that is opened only later
            return
        assert into is not None
        self.items[into] = with_state(target, {**insert_buffers(target.content["data"], target.buffers), **fresh})

    def close(self, output: Output) -> None:
        comm = output.comm_id
        if comm not in self.opened:
            self.push(output)
            return
        self.opened.pop(comm)
        for at, item in enumerate(self.items):
            if item is None:
                continue
            view = (item.content.get("data") or {}).get(WIDGET_VIEW) if item.msg_type == "display_data" else None
            if item.comm_id == comm or (isinstance(view, dict) and view.get("model_id") == comm):
                self.items[at] = None

    def finish(self) -> list[Output]:
        for waiting in self.clearing.values():
            self.push(waiting)
        return _in_order_of_need([item for item in self.items if item is not None])


def _in_order_of_need(items: list[Output]) -> list[Output]:
    """Open each widget before the first one that names it: folded states may name later ones."""
    opens = {item.comm_id: item for item in items if item.msg_type == "comm_open"}
    done: set[str] = set()
    result: list[Output] = []

    def emit(item: Output) -> None:
        if item.comm_id in done:
            return
        done.add(item.comm_id)
        for name in references(comm_data(item).get("state")):
            if name in opens:
                emit(opens[name])
        result.append(item)

    for item in items:
        if item.msg_type == "comm_open":
            emit(item)
        else:
            result.append(item)
    return result


def compact(outputs: Iterable[Output], *, at_line_start: bool = True) -> list[Output]:
    r"""Return the shortest list that leaves a viewer with the same picture as `outputs`.

    Streams merged, `\r` carried out, clear_output honoured, the last value per display id, widget states folded into
    the message that opens them. Pass `at_line_start=False` where shown text ends in the middle of a line.
    """
    fold = _Fold()
    steps = {
        "clear_output": fold.clear,
        "update_display_data": fold.update_display,
        "comm_open": fold.open,
        "comm_msg": fold.message,
        "comm_close": fold.close,
    }
    for output in merged(outputs):
        steps.get(output.msg_type, fold.show)(output)
    folded = []
    first = True
    for item in fold.finish():
        if item.msg_type == "stream":
            text = collapse(item.content["text"], at_line_start=at_line_start or not first)
            item = stream(item.content["name"], text)
        first = first and item.msg_type not in VISIBLE
        folded.append(item)
    return folded
