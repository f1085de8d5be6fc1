"""Every mutant of `scripts/mutants` is still one change of the code as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mutants import CORE, ENDS, FAULTS, FILE, LIVES, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_can_be_made_and_still_compiles(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert changed != text
    compile(changed, mutant.file, "exec")


def test_there_are_enough_of_them_and_the_tests_they_name_exist() -> None:
    assert len(MUTANTS) >= 20
    assert all((ROOT / path).exists() for tests in (CORE, ENDS, FAULTS, FILE, LIVES) for path in tests)
