"""The outputs of a run as a notebook would hold them, folded from numbered events: none lost, none twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.kernels.outputs import VISIBLE, Output, captures, collapse, compact, merged, stream
from ciuic_jupyter.kernels.protocol import Frame

_FOLD_AT = 4 << 20  # bytes of waiting events, from which on they are folded
_BESIDE = frozenset({"update_display_data"})  # changes what is there, and ends no line of text
_SHOWN = {
    "stream": ("name", "text"),
    "display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}
_WORDS = {"ok": "done"}

View = dict[str, Any]


class Shown:
    """Outputs of one run as they come; kept folded, so that a progress bar of a million steps is one line."""

    def __init__(self) -> None:
        self._folded: list[Output] = []
        self._waiting: list[Output] = []
        self._size = 0
        self._ids: set[str | None] = set()  # of displays that can be updated
        self._clearing = False  # by the next output that shows

    def take(self, output: Output, size: int) -> None:
        """Take the next output; `size` is that of its event in bytes."""
        if not self._shows(output):
            return
        self._waiting.append(output)
        self._size += size
        if self._size >= _FOLD_AT:
            self._size = 0
            before, line = _split(list(merged([*self._folded, *self._waiting])))
            self._folded, self._waiting = compact(before), line

    def _shows(self, output: Output) -> bool:
        """Tell whether it changes anything here: an update of what is not here does not."""
        if output.msg_type == "update_display_data":
            return output.display_id in self._ids
        if output.msg_type == "clear_output" and output.content.get("wait"):
            self._clearing = True
        elif output.msg_type == "clear_output" or (output.msg_type in VISIBLE and self._clearing):
            self._ids, self._clearing = set(), False
        if output.display_id is not None:
            self._ids.add(output.display_id)
        return output.msg_type != "stream" or bool(output.content["text"])

    def outputs(self) -> list[Output]:
        """Return all of it, folded."""
        return compact([*self._folded, *self._waiting])


def _split(whole: list[Output]) -> tuple[list[Output], list[Output]]:
    """Return `whole` without the line under way, and that line: what follows may overwrite it."""
    at = len(whole) - 1
    while at >= 0 and whole[at].msg_type in _BESIDE:
        at -= 1
    if at < 0 or whole[at].msg_type != "stream":
        return whole, []
    name, text = whole[at].content["name"], whole[at].content["text"]
    start = text.rfind("\n") + 1
    last = _line_under_way(text[start:])
    before = [*whole[:at], *whole[at + 1 :], *([stream(name, text[:start])] if start else [])]
    return before, [stream(name, last)] if last else []


def _line_under_way(line: str) -> str:
    """Return what leaves the same line with the cursor at the same place: all that shows, then its last part again."""
    shown = collapse(line)
    return line if shown == line else f"{shown.rstrip(chr(13))}\r{line.rpartition(chr(13))[2]}"


def run_outputs(client: PlaneClient, session: str, run: str) -> View:
    """Return {run, cell_id, state, last_seq, outputs, execution_count} of a run; UsageError if there is none.

    `last_seq` is the newest event that was looked at. An output that a later cell updated shows the newer value.
    """
    newest = int(client.session(session)["last_seq"])
    listed = next((one for one in client.runs(session) if one["run"] == run), None)
    if listed is None:
        raise UsageError(f"session {session} has no run {run}; it may belong to an earlier session of that name")
    state = _WORDS.get(listed["status"], listed["status"])
    answer = {"run": run, "cell_id": listed["cell_id"], "state": state, "last_seq": newest}
    first, last = listed["first_seq"], min(listed["last_seq"] or newest, newest)
    if first is None or first > newest:
        return {**answer, "outputs": [], "execution_count": None}
    shown, count, end = Shown(), None, None
    for frame in _events(client, session, first - 1, last):
        header = frame.header
        if header.get("run") == run:
            output = as_output(frame)
            if output is not None:
                shown.take(output, len(str(header.get("content", ""))))
            elif header.get("kind") in ("run_started", "run_resumed"):
                count, end = header.get("count"), None
            elif header.get("kind") == "run_ended":
                end = header
    folded = _updated(client, session, shown.outputs(), (last, newest))
    if end is not None and end.get("status") == "died":
        folded.append(Output("error", {"ename": "KernelDied", "evalue": str(end.get("evalue") or ""), "traceback": []}))
    return {**answer, "outputs": list(notebook_outputs(folded, count)), "execution_count": count}


def _events(client: PlaneClient, session: str, after: int, last: int) -> Iterator[Frame]:
    """Yield the session's events behind `after` up to `last`."""
    if after >= last:
        return
    with closing(client.stream(session, after=after)) as line:
        for frame in line:
            if frame.type != "event":
                continue
            if frame.header["seq"] <= last:
                yield frame
            if frame.header["seq"] >= last:
                return


def _updated(client: PlaneClient, session: str, folded: list[Output], behind: tuple[int, int]) -> list[Output]:
    """Give displays the values that later cells gave them."""
    named = {output.display_id for output in folded if output.display_id is not None}
    if not named:
        return folded
    later = [as_output(frame) for frame in _events(client, session, *behind)]
    updates = [out for out in later if out is not None and out.msg_type == "update_display_data"]
    return compact([*folded, *(update for update in updates if update.display_id in named)])


def as_output(frame: Frame) -> Output | None:
    """Return the iopub message an event carries, or None for events of other kinds."""
    header = frame.header
    if header.get("kind") != "output":
        return None
    kept = [bytes(buffer) for buffer in frame.buffers]
    return Output(str(header["msg_type"]), header.get("content") or {}, header.get("metadata") or {}, kept)


def notebook_outputs(folded: list[Output], count: int | None) -> Iterator[Mapping[str, Any]]:
    """Yield nbformat's outputs; what an Output widget caught stands in the widget, not in the cell."""
    caught = ""
    for output in folded:
        if captures(output):
            caught = output.comm_id if output.content["data"]["state"]["msg_id"] else ""
        fields = _SHOWN.get(output.msg_type)
        if fields is None or caught or output.content.get("text") == "":
            continue
        found: View = {"output_type": output.msg_type}
        for field in fields:
            found[field] = output.content.get(field, {} if field in ("data", "metadata") else "")
        if output.msg_type == "execute_result":
            found["execution_count"] = count
        yield found
