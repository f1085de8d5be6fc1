"""The table of attacks: each test here enters what it does and what must come of it, for docs/security.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Room:
    """The attacks on one part of the product, in the order of their tests."""

    name: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def attack(self, what: str, answer: str) -> Callable[[Test], Test]:
        """Enter a test of its own."""
        self.rows.append((what, answer))
        return lambda test: test

    def cases(self, table: Mapping[str, tuple[Any, ...]]) -> list[Any]:
        """Enter {attack: (answer in words, values of the test...)} and return the parameters of its test."""
        self.rows.extend((what, values[0]) for what, values in table.items())
        return [pytest.param(*values[1:], id=what.replace(" ", "-")[:60]) for what, values in table.items()]

    def markdown(self) -> str:
        """Return the rows as a table."""
        lines = [f"### {self.name}", "| attack | answer |", "|---|---|"]
        return "\n".join([*lines, *(f"| {what} | {answer} |" for what, answer in self.rows)])
