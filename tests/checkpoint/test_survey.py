"""A look at the modules sees every change since the last, though it looks again only where something changed."""

from __future__ import annotations

import abc
import contextvars
import json
import sys
import types
from collections.abc import Iterator
from concurrent import futures
from typing import Any
from unittest import mock

import pytest

from ciuic_jupyter.checkpoint import survey


def own() -> Any:
    """Make a function as a cell makes it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("def patch(*_): return 'patched'", names)
    return names["patch"]


@pytest.fixture(autouse=True)
def looked() -> Iterator[None]:
    """Begin with a look, so that what follows compares; end with nothing of the test's left."""
    survey.look()
    yield
    assert not survey.patches(survey.look())


def test_a_second_look_compares_only() -> None:
    before = {found.name: found for found in survey.look()}
    again = {found.name: found for found in survey.look()}
    same = [name for name, found in again.items() if found is before[name]]
    assert "json" in same and "concurrent.futures._base" in same and len(same) > len(again) * 0.9


def test_a_look_ahead_is_done_in_slices_and_spares_the_next_look() -> None:
    with mock.patch.object(json, "added", own, create=True):
        assert not survey.is_known("json")
        assert len(list(survey.ahead((), 0))) > 100 and survey.is_known("json")
    assert not survey.is_known("json")


@pytest.mark.parametrize("holder", [json, futures.Future, json.JSONDecoder], ids=lambda holder: holder.__name__)
@pytest.mark.parametrize("wrap", [lambda f: f, classmethod, staticmethod, property], ids=["", "class", "static", "get"])
def test_a_patch_is_seen_where_it_is_new_and_no_longer_when_it_is_gone(holder: Any, wrap: Any) -> None:
    patch = wrap(own())
    with mock.patch.object(holder, "added", patch, create=True):
        assert list(survey.patches(survey.look()).values()) == [patch]
        assert list(survey.patches(survey.look()).values()) == [patch]
    assert not survey.patches(survey.look())


def test_a_patch_in_the_place_of_a_librarys_own_function_is_seen() -> None:
    for _ in range(3):
        with mock.patch.object(json.JSONEncoder, "encode", own()), mock.patch.object(json, "loads", own()):
            assert {path for _, path in survey.patches(survey.look())} >= {"JSONEncoder.encode", "loads"}
        assert not survey.patches(survey.look())


def test_a_mock_and_a_context_variable_are_seen() -> None:
    with mock.patch("colorsys.rgb_to_hsv") as fake:
        assert survey.patches(survey.look()) == {("colorsys", "rgb_to_hsv"): fake}
    variable = contextvars.ContextVar("mine")
    with mock.patch.object(json, "variable", variable, create=True):
        assert any(each is variable for found in survey.look() for each in found.variables)


def test_an_abstract_class_that_comes_later_is_seen() -> None:
    late = abc.ABCMeta("Late", (), {"__module__": "json"})
    with mock.patch.object(json, "Late", late, create=True):
        assert any(each is late for found in survey.look() for each in found.abstract)


def test_classes_are_looked_into_where_the_words_name_their_library() -> None:
    with mock.patch.object(json.JSONDecoder, "added", own(), create=True):
        assert not survey.patches(survey.look({"concurrent"}))
        assert survey.patches(survey.look({"json"}))
        assert not survey.patches(survey.look({"concurrent"}))


def test_a_module_put_in_the_place_of_another_is_looked_at() -> None:
    twin = types.ModuleType("json")
    vars(twin).update(vars(json), patch=own())
    with mock.patch.dict(sys.modules, json=twin):
        assert [path for _, path in survey.patches(survey.look())] == ["patch"]
