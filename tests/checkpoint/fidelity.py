"""What a pause does to each property of a notebook: set up in one kernel, saved, restored and checked in another.

`properties/*.py` hold them. A property begins with `# %% its name`; its set-up is a cell, `# -- after` begins its
check, which says what a process that never paused would show; `# -- after, at once` checks before all others.
`# about: words` names receipt lines that belong to it
though they do not begin with one of its variables.
"""

from __future__ import annotations

import json
import re
import shutil
import symtable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.forked_kernel import Client, ForkedKernel

FOLDER = Path(__file__).parent / "properties"
TABLE = Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
GROUPS = {
    "values": "Values and containers",
    "functions": "Functions and classes of the notebook",
    "arrays": "numpy and pandas",
    "tensors": "torch",
    "science": "matplotlib, scikit-learn, tqdm",
    "running": "Iterators, files, locks, and what runs",
    "session": "The session: IPython, modules, options",
}
HEAD = """# What a pause keeps

Each line is a property of a notebook. A kernel sets it up and is saved; a new process restores it from disk and
checks it as if nothing had happened; the first goes on and passes the same check. *kept*: it is as it was. *named*: it
is not, and the receipt says so; the variable is a placeholder that says the same when it is used, or it is there
without the part that is named. Nothing is lost without a word.

No properties here, as no two processes agree on them: numbers from `id()` and from `hash()` of a string, the order of
a set of strings, whether two equal strings or numbers are one object. After an error, `%debug` has nothing to look at.

`tests/checkpoint/properties/` holds the set-up and the check of each; `scripts/fidelity` writes this file.
"""


@dataclass(frozen=True)
class Property:
    """One property: its name, two cells, its variables, and other words the receipt may say about it."""

    group: str
    name: str
    setup: str
    check: str
    variables: frozenset[str]
    about: tuple[str, ...] = ()
    at_once: bool = False  # its check runs before the others


@dataclass
class Outcome:
    """How the check failed in the new process ("": it did not), what the receipt says, how it failed in the old one."""

    failure: str
    said: list[str]
    going_on: str

    @property
    def is_silent(self) -> bool:
        """Whether the property was lost and nobody said so."""
        return bool(self.failure) and not self.said


def properties(group: str) -> list[Property]:
    """Return the properties of `properties/<group>.py` in their order."""
    text = (FOLDER / f"{group}.py").read_text()
    found = []
    for part in re.split(r"^# %% ", text, flags=re.MULTILINE)[1:]:
        name, _, cells = part.partition("\n")
        setup, mark, check = re.split(r"^# -- after(, at once)?\n", cells, maxsplit=1, flags=re.MULTILINE)
        about = tuple(word for line in re.findall(r"^# about: (.+)$", setup, re.MULTILINE) for word in line.split(", "))
        names = _assigned(setup)
        found.append(Property(group, name.strip(), setup.strip(), check.strip(), names, about, bool(mark)))
    return found


def _assigned(source: str) -> frozenset[str]:
    """Return the names that a cell binds at its top level, but for what it imports."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return frozenset(each.get_name() for each in symbols if each.is_assigned() and not each.is_imported())


def run(group: str, folder: Path) -> dict[str, Outcome]:
    """Run all properties of a group: a kernel in `folder`/work is saved, another one restores; both check.

    The kernel that was saved goes on as if nothing had happened: what its checks show is what the other should. Its
    files are put back before the other starts.
    """
    found = properties(group)
    work, before, store = folder / "work", folder / "before", folder / "store"
    work.mkdir(parents=True)
    with ForkedKernel(folder / "a", cwd=str(work)) as kernel:
        for each in found:
            failure = _error(kernel.client, each.setup)
            assert not failure, f"{group}: {each.name}: the set-up failed: {failure}"
        saved = kernel.client.request("save", store=str(store), body_path=str(folder / "body"))
        assert saved["status"] == "ok", saved
        shutil.copytree(work, before)
        going_on = _check(kernel.client, found)
    shutil.rmtree(work)
    before.rename(work)
    body = json.loads((folder / "body").read_bytes())
    with ForkedKernel(folder / "b", cwd=str(folder)) as kernel:
        restored = kernel.client.request("restore", store=str(store), body_path=str(folder / "body"))
        assert restored["status"] == "ok", restored
        lines = [*body["placeholders"], *restored["placeholders"]]
        lines += [{"name": "", "path": "", "reason": warning} for warning in restored["warnings"]]
        failures = _check(kernel.client, found)
    return {each.name: Outcome(failures[each.name], _said(each, lines, folder), going_on[each.name]) for each in found}


def _check(client: Client, found: Sequence[Property]) -> dict[str, str]:
    return {each.name: _error(client, each.check) for each in sorted(found, key=lambda each: not each.at_once)}


def _error(client: Client, cell: str) -> str:
    """Run a cell; return how it failed, or "" if it did not."""
    for message in client.run(cell):
        if message["msg_type"] == "error":
            content = message["content"]
            lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"])).splitlines()
            where = [line for line in lines if line.lstrip().startswith("-")][-1:]
            return f"{content['ename']}: {content['evalue']} {' '.join(where)}".strip()
    return ""


def _said(each: Property, lines: Sequence[dict[str, str]], folder: Path) -> list[str]:
    found = []
    for line in lines:
        text = f"{line['path']}: {line['reason']}" if line["path"] else line["reason"]
        if line["name"] in each.variables or any(word in text for word in each.about):
            found.append(_steady(text, folder))
    return list(dict.fromkeys(found))


def _steady(text: str, folder: Path) -> str:
    """Leave out of `text` what is another at each run: folders, addresses, numbers of processes."""
    text = text.replace(str(folder / "work"), "/work").replace(str(folder), "")
    text = re.sub(r"(process |Task-)\d+", r"\g<1>123", text)
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text)


def table(outcomes: dict[str, dict[str, Outcome]]) -> str:
    """Return docs/fidelity.md."""
    kept = sum(not outcome.said for group in outcomes.values() for outcome in group.values())
    total = sum(map(len, outcomes.values()))
    lines = [HEAD, f"{total} properties: {kept} kept, {total - kept} named."]
    for group, found in outcomes.items():
        lines += ["", f"## {GROUPS[group]}", "", "| property | after a resume |", "|---|---|"]
        lines += [f"| {_cell(name)} | {_verdict(outcome)} |" for name, outcome in found.items()]
    return "\n".join(lines) + "\n"


def _verdict(outcome: Outcome) -> str:
    if outcome.is_silent:
        return f"**lost**: {_cell(outcome.failure)}"
    if not outcome.said:
        return "kept"
    return "named: " + "; ".join(f"“{_cell(text)}”" for text in outcome.said)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("_", "\\_").replace("*", "\\*").replace("<", "&lt;")


def write(folder: Path) -> dict[str, dict[str, Outcome]]:
    """Run everything below `folder` and write the table."""
    outcomes = {group: run(group, folder / group) for group in GROUPS}
    TABLE.write_text(table(outcomes))
    return outcomes
