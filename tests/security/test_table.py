"""docs/security.md shows the attacks that are tested, all of them and no other; `scripts/attacks` writes it anew."""

from __future__ import annotations

from pathlib import Path

from tests.security import (
    test_agent_line,
    test_checkpoints,
    test_jupyter_door,
    test_local_users,
    test_plane_door,
    test_shown,
)

DOCS = Path(__file__).resolve().parents[2] / "docs" / "security.md"
MARK = "<!-- written by scripts/attacks from tests/security -->\n"
MODULES = (test_plane_door, test_jupyter_door, test_agent_line, test_checkpoints, test_local_users, test_shown)
LEAST = 60


def written() -> str:
    """Return the page with its table made anew."""
    rooms = [module.ROOM for module in MODULES]
    count = sum(len(room.rows) for room in rooms)
    head = DOCS.read_text().partition(MARK)[0]
    return "\n\n".join([f"{head}{MARK}{count} attacks.", *(room.markdown() for room in rooms)]) + "\n"


def test_the_page_is_what_is_tested() -> None:
    assert DOCS.read_text() == written(), "run scripts/attacks"


def test_every_attack_is_there_once() -> None:
    rows = [what for module in MODULES for what, _ in module.ROOM.rows]
    assert len(rows) >= LEAST
    for module in MODULES:
        named = [what for what, _ in module.ROOM.rows]
        assert len(named) == len(set(named)), module
        tests = [name for name in vars(module) if name.startswith("test_")]
        assert len(named) >= len(tests), f"a test of {module.__name__} is not in the table"


if __name__ == "__main__":
    DOCS.write_text(written())
