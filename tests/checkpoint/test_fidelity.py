"""Each property of a notebook is as it was after a pause, or the receipt names it; docs/fidelity.md says which."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checkpoint import fidelity
from tests.checkpoint.fidelity import GROUPS, TABLE, Outcome, Property

PROPERTIES = [each for group in GROUPS for each in fidelity.properties(group)]
Outcomes = Callable[[str], dict[str, Outcome]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Return what became of the properties of a group; each group runs once."""
    done: dict[str, dict[str, Outcome]] = {}

    def get(group: str) -> dict[str, Outcome]:
        if group not in done:
            done[group] = fidelity.run(group, tmp_path_factory.mktemp(group))
        return done[group]

    return get


def test_properties_are_many_and_do_not_touch_each_other() -> None:
    assert len(PROPERTIES) >= 60
    assert len({each.name for each in PROPERTIES}) == len(PROPERTIES)
    for group in GROUPS:
        taken: set[str] = set()
        for each in (each for each in PROPERTIES if each.group == group):
            assert not taken & each.variables, f"{each.name} binds a variable of another property"
            taken |= each.variables


@pytest.mark.parametrize("each", PROPERTIES, ids=lambda each: each.name)
def test_kept_or_named(each: Property, outcomes: Outcomes) -> None:
    outcome = outcomes(each.group)[each.name]
    assert outcome.going_on == "", "the check asks for more than the process that was saved and went on has"
    assert not outcome.is_silent, outcome.failure


def test_the_table_is_up_to_date(outcomes: Outcomes) -> None:
    written = fidelity.table({group: outcomes(group) for group in GROUPS})
    assert TABLE.read_text() == written, "run scripts/fidelity and commit docs/fidelity.md"
