"""One `%%ciuic_train` cell: check everything, then session, variables, run, variables."""

from __future__ import annotations

import ast
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ciuic_jupyter.core import flops
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import CiuicError, NotPicklable, UnknownName, UsageError
from ciuic_jupyter.kernels import variables
from ciuic_jupyter.notebook.card import megabytes
from ciuic_jupyter.notebook.state import names_of, seconds_of

View = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """A checked cell: nothing of it can be refused any more for what the user typed."""

    session: str
    run: str
    code: str
    instance: str | None
    budget_nano: int | None
    run_budget_nano: int | None
    payload: Sequence[Any]
    sent: tuple[str, ...]
    fetch: tuple[str, ...]
    detach: bool
    meter: bool
    checkpoint_every: float | None = None
    grace: float | None = None
    trace: tuple[str, ...] = ()
    flops: bool = False


def plan(options: Any, cell: str, *, session: str, shell: Any) -> Plan:
    """Check the options, the code and the variables of a cell; UsageError says what to change."""
    check_name(session)
    check_written(cell)
    if options.detach and options.fetch:
        raise UsageError("--out needs the cell's end and --detach does not wait for it; fetch later with %ciuic_pull")
    budget, run_budget = budget_of(options.budget, "--budget"), budget_of(options.run_budget, "--run-budget")
    every = None if options.checkpoint_every is None else float(seconds_of(options.checkpoint_every))
    grace = None if options.grace is None else _grace(options.grace)
    check_syntax(cell, shell)
    sent = names_of(options.push, "--in")
    return Plan(
        session=session,
        run=uuid.uuid4().hex,
        code=cell,
        instance=options.instance,
        budget_nano=budget,
        run_budget_nano=run_budget,
        payload=packed(sent, shell.user_ns),
        sent=tuple(sent),
        fetch=tuple(names_of(options.fetch, "--out")),
        detach=bool(options.detach),
        meter=not options.no_meter,
        checkpoint_every=every,
        grace=grace,
        trace=_modules(options.trace_modules),
        flops=bool(options.flops),
    )


def budget_of(text: str | None, option: str) -> int | None:
    """Return an amount of money above 0 in nano-units; None if it is left out."""
    budget = None if text is None else parse_usd(text)
    if budget == 0:
        raise UsageError(f"a budget of 0 starts nothing; leave {option} away or name an amount, like {option} 5")
    return budget


def _grace(text: str) -> float:
    """Return `--grace` in seconds: plain seconds, or 2m; 0 asks at once."""
    return float(text) if text.strip().isdecimal() else float(seconds_of(text))


def _modules(text: str | None) -> tuple[str, ...]:
    """Return the names in `--trace-modules a,b.c`; UsageError for what can't be a module's."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"--trace-modules: {name!r} can't be a module's name; write it as after `import`")
    return tuple(names)


def check_written(cell: str) -> None:
    """Refuse a cell with nothing in it."""
    if not cell.strip():
        raise UsageError("the cell is empty; write the code to run below the %%ciuic_train line")


def check_syntax(cell: str, shell: Any) -> None:
    """Refuse a cell that no Python would run before it costs anything."""
    try:
        ast.parse(shell.transform_cell(cell))
    except SyntaxError as error:
        where = f" (line {error.lineno} of the cell: {(error.text or '').strip()!r})" if error.lineno else ""
        raise UsageError(f"{type(error).__name__}: {error.msg}{where}; nothing was started") from None


def packed(names: Sequence[str], user_ns: Mapping[str, Any]) -> Sequence[Any]:
    """Return the named variables as bytes-like parts; UnknownName or NotPicklable names the culprit."""
    if not names:
        return ()
    missing = [name for name in names if name not in user_ns]
    if missing:
        raise UnknownName(f"no variable named {', '.join(missing)} in this notebook; nothing was started")
    try:
        parts: Sequence[Any] = variables.dump({name: user_ns[name] for name in names})
    except NotPicklable as error:
        raise NotPicklable(f"{error}; nothing was started") from None
    return parts


def fetch(client: Any, session: str, names: Sequence[str], user_ns: dict[str, Any]) -> list[str]:
    """Bring variables into the notebook, all or none; UnknownName lists those that do not exist."""
    known = client.names(session)
    missing = [name for name in names if name not in known]
    if missing:
        raise UnknownName(f"session {session} has no variable named {', '.join(missing)}; nothing was fetched")
    values = variables.load(client.pull(session, list(names)))
    user_ns.update({name: values[name] for name in names})
    return list(names)


def fetch_or_say(client: Any, done: Plan, user_ns: dict[str, Any], say: Callable[[str], None]) -> None:
    """Fetch --out after a run; a failure is one line, for the run's result is already there."""
    if not done.fetch:
        return
    try:
        fetch(client, done.session, done.fetch, user_ns)
    except CiuicError as error:
        say(f"--out: {error}; %ciuic_pull {' '.join(done.fetch)} fetches it later")


def counted(client: Any, done: Plan) -> str:
    """Return the line that tells a run's FLOPs, what they cost, and how far the GPU was used."""
    figure = next((run.get("flops") for run in client.runs(done.session) if run["run"] == done.run), None)
    return f"FLOPs: {flops.line(figure)}"


def resuming(view: View) -> str:
    """Return the line that tells from what a paused session comes back."""
    saved = view.get("checkpoint") or {}
    at = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(saved["at"])))
        if saved.get("at")
        else "at an unknown time"
    )
    return f"resuming session {view['name']}: saved {at}, {megabytes(saved.get('bytes'))}"


def ensure(client: Any, wanted: Plan, say: Callable[[str], None]) -> View:
    """Create the session if there is none, and say so in one line where a paused one will be resumed."""
    created: View = client.create(
        wanted.session, instance=wanted.instance, budget_nano=wanted.budget_nano, cwd=os.getcwd()
    )
    if created.get("resumed"):
        say(resuming(created))
    return created


@contextlib.contextmanager
def one_line() -> Any:
    """Turn this package's errors into what IPython prints as one line, without a traceback."""
    from IPython.core.error import UsageError as Told  # noqa: PLC0415  (only inside a shell)

    try:
        yield
    except UsageError as error:
        raise Told(str(error)) from None
    except CiuicError as error:
        if not hasattr(error, "_render_traceback_"):
            text = f"{type(error).__name__}: {error}"
            error._render_traceback_ = lambda: [text]  # type: ignore[attr-defined]
        raise
