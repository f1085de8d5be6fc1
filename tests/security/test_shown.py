"""What strangers wrote is only shown: in HTML, in a terminal, in logs; and settings say no more than settings."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import ciuic_jupyter
from ciuic_jupyter.control import cli, say
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger, Row
from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import LedgerError, UsageError
from ciuic_jupyter.kernels.logs import Plain
from ciuic_jupyter.notebook import card, report
from ciuic_jupyter.notebook.meter import Meter
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.settings import Settings
from tests.security.conftest import Site
from tests.security.table import Room

ROOM = Room("What is shown, logged and configured")

PAYLOADS = {
    "a script": "<script>alert(1)</script>",
    "an image with a handler": "<img src=x onerror=alert(1)>",
    "the end of an attribute": '" onmouseover="alert(1)" x="',
    "the end of an attribute, single quotes": "' onmouseover='alert(1)' x='",
    "the end of a style and a link": "</style></div><a href=javascript:alert(1)>x</a>",
    "a formula for MathJax": "$\\href{javascript:alert(1)}{x}$",
}


class Seen(HTMLParser):
    """What a browser would make of it: tags, attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, tuple(sorted(name for name, _ in attrs))))

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    parser.close()
    return parser


def tags(found: Seen) -> set[tuple[str, tuple[str, ...]]]:
    """Return its kinds of tags, with their attributes, but for the spans around each `$`."""
    return set(found.shape) - {("span", ())}


BUDGET = {"budget_nano": 10**9, "spent_nano": 1, "rate_nano_per_hour": 1, "percent": 0, "mark": 50}


def view(text: str, state: str = "running") -> dict[str, Any]:
    """Return a session's view with `text` wherever the plane passes on what others wrote."""
    return {
        "name": text,
        "state": state,
        "instance": text,
        "currency": "USD",
        "rate_nano_per_hour": 900_000_000,
        "spent_nano": 5,
        "unspent_nano": 5,
        "budgets": [{**BUDGET, "key": text, "scope": text}],
        "run": text,
        "step": text,
        "message": text,
        "text": text,
        "as_of": 0.0,
        "checkpoint": {"bytes": 1, "names": [text], "placeholders": [{"name": text, "path": text, "reason": text}]},
        "idle": {"verdict": "busy", "text": text, "witnesses": {text: text}},
        "choices": {"why": text, "wait": text},
    }


@pytest.mark.parametrize(
    "text",
    ROOM.cases(
        {f"{what} in every text of a session's meter": ("shown as text", text) for what, text in PAYLOADS.items()}
    ),
)
def test_the_meter(text: str) -> None:
    for state in ("running", "starting", "paused", "failed", "closed"):
        for live in (True, False):
            harmless = seen(card.card(view("x", state), live=live, now=1.0, notice="x"))
            shown = seen(card.card(view(text, state), live=live, now=1.0, notice=text))
            assert tags(shown) == tags(harmless)
            assert text in shown.text
    meter = Meter(text, lambda _: None)
    meter.update(view(text))
    kept = seen(meter.static()["text/html"])
    assert not {tag for tag, _ in kept.shape} & {"script", "img", "a", "iframe"}
    assert not [name for _, names in kept.shape for name in names if name.startswith("on")]
    meter.close()


@pytest.mark.parametrize(
    "text",
    ROOM.cases(
        {f"{what} in a receipt and in `%ciuic_status`": ("shown as text", text) for what, text in PAYLOADS.items()}
    ),
)
def test_reports(text: str) -> None:
    for made, harmless in zip(reports(text), reports("x"), strict=True):
        assert tags(seen(made)) == tags(seen(harmless))
        assert text in seen(made).text


def reports(text: str) -> tuple[str, str]:
    body = {"currency": "USD", "reason": text, "at": 1.0, "checkpoint": view(text)["checkpoint"]}
    return report.receipt(text, body).html(), report.status(view(text)).html()


@ROOM.attack("HTML in anything that the panel shows", "its source sets no inner HTML, evaluates nothing")
def test_the_panel() -> None:
    sources = sorted((Path(__file__).parents[2] / "labextension" / "src").glob("*.ts*"))
    assert len(sources) > 10
    for path in sources:
        for word in (
            "dangerouslySetInnerHTML",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ):
            assert word not in path.read_text(), (path, word)


ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01 00:00:00,000 INFO root all is well\u202e\x9b31m"


@ROOM.attack("escape sequences and line ends in a message that is logged", "one line, written out")
def test_log_lines() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "the machine says %s", (ESCAPES,), None)
    line = Plain("%(levelname)s %(message)s").format(record)
    assert line.isprintable()
    assert "\\x1b[2J" in line
    try:
        raise ValueError(ESCAPES)
    except ValueError:
        record.exc_info = sys.exc_info()
    first, *rest = Plain("%(levelname)s %(message)s").format(record).split("\n")
    assert first == line
    assert all(each.startswith("  ") and each.isprintable() for each in rest)


@ROOM.attack("a run, a session, a path or a header with line ends, sent to the plane", "its log has no line of theirs")
def test_the_plane_log(site: Site) -> None:
    site.plane.ask("POST", "/v1/sessions", body={"name": ESCAPES, "instance": ESCAPES, "cwd": ESCAPES})
    site.plane.ask("POST", "/v1/sessions/s/import", body={"path": f"/{ESCAPES}"})
    site.plane.ask("POST", "/v1/sessions/s/runs", body={"run": ESCAPES, "code": ESCAPES})
    site.plane.send(f"GET /{ESCAPES} HTTP/1.1\r\nX: {ESCAPES}\r\n\r\n".encode())
    log = (site.settings.state_dir / "plane.log").read_bytes()
    assert b"all is well" not in b"\n".join(line for line in log.split(b"\n") if line.startswith(b"2026-01-01"))
    assert b"\x1b" not in log
    assert b"\x9b" not in log


@ROOM.attack("output of a cell with fake log lines and escape sequences", "it is in the cell's events alone")
def test_output(site: Site) -> None:
    site.run("noisy", f"import sys; print({ESCAPES!r}); print({ESCAPES!r}, file=sys.stderr)")
    for name in ("plane.log", "agent.log"):
        for path in site.settings.state_dir.rglob(name):
            assert b"all is well" not in path.read_bytes(), path


@ROOM.attack("escape sequences in what `ciuic` prints of a session or an error", "written out, columns kept")
def test_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    say.table([["NAME", "NEWS"], ["s", ESCAPES]])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2
    with pytest.raises(say.typer.Exit), say.plainly():
        raise UsageError(ESCAPES)
    assert capsys.readouterr().err == f"ciuic: {plain(ESCAPES)}\n"


NAMES = ("../x", "--trust", "a b", "$(reboot)", "a;b", "\x1b[2J", "a\nb", "")


@ROOM.attack("names like `../x`, `--trust`, `$(reboot)` given to `ciuic import --name`", "refused in one line")
def test_cli_names(site: Site) -> None:
    from typer.testing import CliRunner

    for name in NAMES:
        done = CliRunner().invoke(
            cli.app, ["import", "--name", name, "/tmp"], env={**site.jupyter.env, "CIUIC_TOKEN": ""}
        )
        assert done.exit_code in (1, 2), (name, done.output)
        assert "\x1b[2J" not in done.output
    assert site.sessions() == {"s"}


# settings and files of settings


@pytest.mark.parametrize(
    ("name", "value"),
    ROOM.cases(
        {
            "`CIUIC_PRICE_PER_HOUR=NaN`": ("refused", "PRICE_PER_HOUR", "NaN"),
            "`CIUIC_PRICE_PER_HOUR=-1`": ("refused", "PRICE_PER_HOUR", "-1"),
            "`CIUIC_PRICE_PER_HOUR=1e400`": ("refused", "PRICE_PER_HOUR", "1e400"),
            "`CIUIC_LEASE_SECONDS=inf`": ("refused", "LEASE_SECONDS", "inf"),
            "`CIUIC_CURRENCY` with a line end": ("refused", "CURRENCY", "USD\n"),
            "`CIUIC_LAST_RESORT=rm -rf`": ("refused", "LAST_RESORT", "rm -rf"),
        }
    ),
)
def test_settings(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"CIUIC_{name}", value)
    with pytest.raises(UsageError, match=f"CIUIC_{name}=") as told:
        Settings()
    assert str(told.value).isprintable()


@ROOM.attack(
    "a `.env`, `pyproject.toml`, `random.py` beside a notebook",
    "not read, not imported: settings come from the environment",
)
def test_a_hostile_folder(tmp_path: Path, site: Site) -> None:
    mark = tmp_path / "it-ran"
    (tmp_path / ".env").write_text("CIUIC_URL=http://evil.example\nCIUIC_TOKEN=x\nCIUIC_PRICE_PER_HOUR=0\n")
    (tmp_path / "pyproject.toml").write_text('[tool.ciuic]\nurl = "http://evil.example"\n')
    for name in ("random", "secrets", "sitecustomize", "uvicorn"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\n")
    state = {"CIUIC_STATE_DIR": str(tmp_path / "state"), "CIUIC_RUNTIME_DIR": str(tmp_path / "r")}
    code = (
        "import sys; from ciuic_jupyter.settings import Settings; assert Settings().url is None;"
        "from ciuic_jupyter.control.client import PlaneClient; PlaneClient.ensure().shutdown()"
    )
    env = {**site.jupyter.env, **state}
    subprocess.run([sys.executable, "-P", "-c", code], env=env, cwd=tmp_path, check=True, timeout=120)
    assert not mark.exists()


MACHINE = {"name": "gpu1", "target": "user@host", "stop": "true", "status": "false"}


@pytest.mark.parametrize(
    "change",
    ROOM.cases(
        {
            "a machine's stop command of two lines": ("UsageError", {"stop": "true\nreboot"}),
            "a machine's stop command with escape sequences": ("UsageError", {"stop": "\x1b[2J"}),
            "a machine's stop command of 5,000 characters": ("UsageError", {"stop": "x" * 5000}),
            "a machine's stop command without one that proves it": ("UsageError", {"status": None}),
            "a machine's target that is an option (`-oProxyCommand=...`)": (
                "UsageError",
                {"target": "-oProxyCommand=reboot"},
            ),
            "a machine's target with a shell's characters": ("UsageError", {"target": "user@$(reboot)"}),
            "a machine's python that is a command line": ("UsageError", {"python": "python3 -c reboot"}),
            "a machine named `../x`": ("UsageError", {"name": "../x"}),
            "a machine with a price below zero": ("UsageError", {"price_nano_per_hour": -1}),
            "a machine with a price of `true`": ("UsageError", {"price_nano_per_hour": True}),
            "a machine with a field that is none": ("UsageError", {"__class__": "x"}),
        }
    ),
)
def test_machines(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "machines.json"
    path.write_text(json.dumps({"machines": [{**MACHINE, **change}]}))
    path.chmod(0o600)
    with pytest.raises(UsageError, match="line 1 of"):
        ssh_machines.load(path)


@ROOM.attack(
    "a file of machines that others can write, that is a link, or that says a key twice",
    "UsageError: its commands would run as you",
)
def test_the_file_of_machines(tmp_path: Path) -> None:
    path = tmp_path / "machines.json"
    path.write_text(json.dumps({"machines": [MACHINE]}))
    path.chmod(0o600)
    assert [machine.name for machine in ssh_machines.load(path)] == ["gpu1"]
    path.chmod(0o666)
    with pytest.raises(UsageError, match="others can write"):
        ssh_machines.load(path)
    path.chmod(0o600)
    (tmp_path / "link.json").symlink_to(path)
    with pytest.raises(UsageError, match="can't be read"):
        ssh_machines.load(tmp_path / "link.json")
    path.write_text('{"machines": [], "machines": []}')
    with pytest.raises(UsageError, match="twice"):
        ssh_machines.load(path)


# the ledger


@ROOM.attack("a row of the ledger changed, removed, or put in by hand", "the plane does not start, and names the row")
async def test_ledger_by_hand(tmp_path: Path) -> None:
    import sqlite3

    for statement in (
        "update entries set body = '{}' where id = 2",
        "delete from entries where id = 2",
        "update entries set id = 9 where id = 3",
        "insert into entries select 4, kind, at, boot_id, boot, session, machine, 'new', body, prev, hash from entries "
        "where id = 3",
    ):
        path = tmp_path / f"{abs(hash(statement))}.db"
        ledger = Ledger(path, Clock())
        for number in range(3):
            await ledger.append(Row("note", {"n": number}))
        ledger.close()
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(LedgerError, match=r"entry [2349] of the ledger"):
            Ledger(path, Clock())


@ROOM.attack("SQL in every text of a ledger's row", "kept as text")
async def test_sql(tmp_path: Path) -> None:
    text = "x'); drop table entries; --"
    ledger = Ledger(tmp_path / "ledger.db", Clock())
    await ledger.append(Row(text, {text: text}, session=text, machine=text, idem=text))
    ledger.close()
    again = Ledger(tmp_path / "ledger.db", Clock())
    (entry,) = again.replay()
    again.close()
    assert (entry.kind, entry.session, entry.machine, entry.idem, entry.body) == (text, text, text, text, {text: text})


@ROOM.attack(
    "the time that a wrong token takes to be refused",
    "not measured; by reading: `hmac.compare_digest` alone compares them",
)
def test_comparisons() -> None:
    """By reading: no `==` or `in` has a token, a proof or a signature on a side, and the doors call compare_digest."""
    room = Path(ciuic_jupyter.__file__).parent
    for path in ("control/app.py", "control/daemon.py", "kernels/plane_socket.py", "checkpoint/store.py"):
        tree = ast.parse((room / path).read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "compare_digest"]
        assert calls, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node)
                assert not any(word in text for word in ("authorization", "self._token", "proof(")), (
                    path,
                    text,
                )


@ROOM.attack("settings or a machine's config in a traceback or a log", "secrets are no part of any `repr`")
def test_reprs(site: Site) -> None:
    from ciuic_jupyter.kernels.agent_config import AgentConfig

    config = json.loads((site.machine / "agent.json").read_text())
    made = AgentConfig.from_dict(config)
    for secret in (config["token"], config["key_hex"], str(bytes.fromhex(config["key_hex"]))):
        assert secret not in repr(made) + repr(made.secrets)
    settings = Settings(state_dir=Path("x"), token="hunter2", url="http://x")  # type: ignore[arg-type]
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
