"""Output that a resumed cell makes a second time: it was shown before its machine was lost, and is shown once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Stage:
    """Text of each stream up to the next output of another kind, which is None behind the last one."""

    texts: dict[str, str] = field(default_factory=dict)
    output: tuple[Any, Any, Any] | None = None


class Repeats:
    """Drops what repeats `shown` exactly; from the first difference on everything is new."""

    def __init__(self, shown: Iterable[Mapping[str, Any]]) -> None:
        """`shown` are headers of output events, in order."""
        self.differs = False
        self._stages: list[_Stage] = []
        stage = _Stage()
        for event in shown:
            if event["msg_type"] == "stream":
                name = str(event["content"]["name"])
                stage.texts[name] = stage.texts.get(name, "") + str(event["content"]["text"])
            else:
                stage.output = _identity(event)
                self._stages.append(stage)
                stage = _Stage()
        if stage.texts:
            self._stages.append(stage)
        self._stages.reverse()

    @property
    def left(self) -> bool:
        """Whether something that was shown has not come again yet."""
        return bool(self._stages)

    def text(self, name: str, text: str) -> str:
        """Return what of a stream's `text` is new."""
        if not self._stages:
            return text
        stage = self._stages[-1]
        expected = stage.texts.get(name, "")
        same = _common(expected, text)
        stage.texts[name] = expected[same:]
        if same < len(text) and (same < len(expected) or stage.output is not None):
            self._differ()
        elif stage.output is None and not any(stage.texts.values()):
            self._stages.pop()
        return text[same:]

    def output(self, event: Mapping[str, Any]) -> bool:
        """Whether an output that is no text is new."""
        if not self._stages:
            return True
        stage = self._stages[-1]
        if any(stage.texts.values()) or stage.output != _identity(event):
            self._differ()
            return True
        self._stages.pop()
        return False

    def _differ(self) -> None:
        self.differs = True
        self._stages.clear()


def _common(one: str, other: str) -> int:
    """Return how many first characters are the same."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(at for at in range(shorter) if one[at] != other[at])


def _identity(event: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return event["msg_type"], event["content"], event.get("metadata") or {}
