"""What may be the name of a stage, and that nothing happens where nobody hears of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ciuic_jupyter.resume.runtime import Site
from ciuic_jupyter.train import stage


@pytest.fixture
def heard() -> Iterator[list[str]]:
    before, names = Site.staged, list[str]()
    Site.staged = names.append
    yield names
    Site.staged = before


class Loud(str):
    """Text of a class that lies about itself."""

    def __str__(self) -> str:
        return "a\nb"

    def strip(self, *_: object) -> str:  # type: ignore[override]
        return "x" * 10_000_000

    def isprintable(self) -> bool:
        return True


def test_names_are_one_short_line_of_plain_text(heard: list[str]) -> None:
    for name in (" pretrained ", "x" * 100, "阶段 1", "étape <b>2</b>", Loud("loud")):
        stage(name)
    assert heard == ["pretrained", "x" * 100, "阶段 1", "étape <b>2</b>", "loud"]
    assert all(type(name) is str for name in heard)


@pytest.mark.parametrize("name", [None, 3, b"a", ["a"], object()])
def test_what_is_no_text_is_a_type_error(heard: list[str], name: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(name).__name__}; nothing was marked"):
        stage(name)  # type: ignore[arg-type]
    assert not heard


@pytest.mark.parametrize(
    "name",
    ["", "  ", "\n", "a\nb", "a\rb", "a\x1b[2Jb", "a\0", "\ud800", "a\u202eb", "a\u2028b", "x" * 101, "x" * 10_000_000],
)
def test_what_is_not_one_short_line_is_a_value_error(heard: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=r"the name of a stage .* nothing was marked") as raised:
        stage(name)
    assert len(str(raised.value)) < 200
    assert not heard


def test_a_local_kernel_or_a_script_marks_nothing_and_still_refuses_bad_names() -> None:
    assert Site.staged is None
    stage("a")
    with pytest.raises(ValueError, match="100 characters"):
        stage("")
