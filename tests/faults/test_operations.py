"""docs/operations.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_failure_has_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = [line for line in text.split("## Failures")[1].split("## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for row in rows:
        found = re.search(r"`(\S+\.py)::(test_\w+)` \|$", row)
        assert found, f"no test checks: {row}"
        assert f"def {found[2]}(" in (ROOT / "tests" / found[1]).read_text(), row
