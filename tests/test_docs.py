"""README is true: every setting, magic, option and command stands in it, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from ciuic_jupyter.control.cli import app
from ciuic_jupyter.notebook.magics import CiuicMagics
from ciuic_jupyter.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_table_and_no_other() -> None:
    named = set(re.findall(r"^\| `CIUIC_(\w+)`", README, re.MULTILINE))
    assert named == {name.upper() for name in Settings.model_fields}


def test_every_magic_and_each_of_its_options_is_in_readme() -> None:
    magics = {name for kind in CiuicMagics.magics.values() for name in kind}
    named = set(re.findall(r"`%{1,2}(ciuic_\w+)", README))
    assert named == magics
    for name in magics:
        method = getattr(CiuicMagics, name)
        for action in method.parser._actions:
            for option in action.option_strings:
                if option.startswith("--"):
                    assert option in README, f"{name} {option} is not in README"


def test_every_command_of_the_shell_is_in_readme() -> None:
    line = re.search(r"`ciuic ([\w|]+)`", README)
    assert line is not None
    assert set(line[1].split("|")) == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_first_code_before_line_thirty_and_links_exist() -> None:
    assert README.splitlines().index("```python") < 30
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
