"""The magics in a shell: their help, completion and refusals; nothing of this may start a control plane."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from ciuic_jupyter.notebook.magics import CiuicMagics

MAGICS = sorted({name for kind in CiuicMagics.magics.values() for name in kind})


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory in which no control plane runs."""
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return tmp_path / "state"


@pytest.fixture
def shell(state_dir: Path) -> Iterator[Any]:
    """An IPython shell with the extension loaded."""
    from traitlets.config import Config

    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "ciuic_jupyter")
    yield shell
    shell.run_line_magic("unload_ext", "ciuic_jupyter")
    InteractiveShell.clear_instance()


def output_of(shell: Any, code: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    result = shell.run_cell(code)
    said = capsys.readouterr()
    assert not result.success
    return said.out + said.err


def tab(shell: Any, text: str) -> set[str]:
    """Return what a front end offers at the end of `text`, as ipykernel asks for it."""
    with provisionalcompleter():
        return {completion.text for completion in shell.Completer.completions(text, len(text))}


@pytest.mark.parametrize("name", MAGICS)
def test_each_magic_has_help_with_an_example(name: str) -> None:
    method = getattr(CiuicMagics, name)
    assert "Example:" in method.__doc__
    assert f"%{name}" in method.__doc__
    for action in method.parser._actions:
        assert action.help, f"{name} {action.dest} has no help"


def test_question_mark_shows_the_help(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%%ciuic_train?")
    text = capsys.readouterr().out
    assert "--budget USD" in text
    assert "model = train(data, epochs=20)" in text


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("%%ciuic_train --bugdet 5\n1", "unrecognized arguments: --bugdet 5"),
        ("%%ciuic_train --budget\n1", "expected one argument"),
        ("%%ciuic_train --budget 1e3\n1", "'1e3' is not an amount of money"),
        ("%%ciuic_train --session ../etc\n1", "../etc"),
        ("%%ciuic_train --in nowhere\n1", "no variable named nowhere in this notebook; nothing was started"),
        ("%%ciuic_train --in 'a\n1", "can't be read"),
        ("%%ciuic_train\nx = = 1", "SyntaxError"),
        ("%%ciuic_train\n\n", "the cell is empty"),
        ("%ciuic_keep", "the following arguments are required: time"),
        ("%ciuic_keep soon", "'soon' is not a time"),
        ("%ciuic_pause a b", "unrecognized arguments: b"),
        ("%ciuic_pause A!", "A!"),
        ("%ciuic_push", "name the variables"),
        ("%ciuic_push nowhere", "no variable named nowhere"),
        ("%ciuic_pull 1x", "'1x' is not a variable name"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(
    shell: Any, state_dir: Path, capsys: pytest.CaptureFixture[str], code: str, says: str
) -> None:
    text = output_of(shell, code, capsys)
    assert says in text
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1
    assert not state_dir.exists(), "something was started"


def test_unpicklable_variable_is_named_and_starts_nothing(
    shell: Any, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("import threading\nlock = threading.Lock()\nfine = 1")
    text = output_of(shell, "%%ciuic_train --in fine,lock\n1", capsys)
    assert "lock can't be sent to another process" in text
    assert "Traceback" not in text
    assert not state_dir.exists()


@pytest.mark.parametrize("text", ["%%ciuic_train --bud", "%%ciuic_train --session no", "%ciuic_pause no", "%ciuic_pu"])
def test_tab_starts_no_plane(shell: Any, state_dir: Path, text: str) -> None:
    matches = tab(shell, text)
    assert not state_dir.exists()
    if text.endswith("--bud"):
        assert "--budget" in matches
    if text == "%ciuic_pu":
        assert {"%ciuic_push", "%ciuic_pull"} <= set(matches)


def test_tab_completes_variables(shell: Any) -> None:
    shell.run_cell("digits_data = 1")
    matches = tab(shell, "%ciuic_push digits_")
    assert "digits_data" in matches


def test_unload_takes_all_away_and_load_brings_it_back(shell: Any) -> None:
    shell.run_line_magic("unload_ext", "ciuic_jupyter")
    assert not [name for kind in shell.magics_manager.magics.values() for name in kind if name.startswith("ciuic")]
    matches = tab(shell, "%%ciuic_train --bud")
    assert "--budget" not in matches
    shell.run_line_magic("load_ext", "ciuic_jupyter")
    assert "ciuic_train" in shell.magics_manager.magics["cell"]


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("%%ciuic_train --in data,mod", "%%ciuic_train --in data,model"),
        ("%%ciuic_train --in mod", "%%ciuic_train --in model"),
        ("%ciuic_push data mod", "%ciuic_push data model"),
        ("%%ciuic_train --bud", "%%ciuic_train --budget"),
    ],
)
def test_a_completion_put_in_its_place_gives_the_whole_line(shell: Any, text: str, completed: str) -> None:
    shell.user_ns.update(data=1, model=2)
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    lines = [text[: c.start] + c.text + text[c.end :] for c in found]
    assert completed in lines
    assert not [line for line in lines if "data,data" in line]
