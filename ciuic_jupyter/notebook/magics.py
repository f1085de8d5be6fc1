"""The magics: `%%ciuic_train` and its companions. Their docstrings are the help a user reads."""

# IPython's decorators have no types
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from ciuic_jupyter.core.choice import choice
from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import CiuicError, UsageError
from ciuic_jupyter.notebook import card, chart, completion, quote, report, training, why
from ciuic_jupyter.notebook.desk import Desk
from ciuic_jupyter.notebook.follow import attach, follow, follow_detached
from ciuic_jupyter.notebook.state import names_of, seconds_of
from ciuic_jupyter.notebook.training import one_line

View = Mapping[str, Any]
_session = argument("session", nargs="?", help="the session's name; without it, the one this notebook used last")


def say(text: str) -> None:
    """Print one line where the cell's output goes."""
    sys.stdout.write(f"{text}\n")


def _say_choice(view: Mapping[str, Any]) -> None:
    """Print what a pause past its grace waits for, and what stopping now would lose."""
    say(choice(view["pause"], str(view["currency"]), f"interrupt this cell, then `%ciuic_pause {view['name']} --now`"))


@magics_class
class CiuicMagics(Magics):  # type: ignore[misc]  # IPython has no types
    """Cells on a remote, metered kernel that can be paused."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self.desk = Desk(shell)

    def _read(self, magic: Any, line: str) -> Any:
        try:
            return magic.parser.parse_argstring(line)
        except ValueError as error:  # an unbalanced quote
            raise UsageError(f"the line can't be read: {error}") from None

    def _named(self, given: str | None) -> str:
        return check_name(given) if given else self.desk.session

    def _known(self, given: str | None) -> tuple[str, View]:
        """Return a session's name and view, and make it the current one; UnknownSession leaves the current one."""
        name = self._named(given)
        view = self.desk.open().session(name)
        self.desk.use(name)
        return name, view

    @magic_arguments()
    @argument("--session", metavar="NAME", help="session to run in; default: named after this notebook")
    @argument("--instance", metavar="TYPE", help="machine type for a session that has to be started")
    @argument(
        "--budget", metavar="USD", help="most this session may cost; it is saved and stopped before it costs more"
    )
    @argument("--run-budget", metavar="USD", help="most this cell may cost; it is paused before it costs more")
    @argument("--in", dest="push", metavar="a,b", help="variables of this notebook to send before the cell runs")
    @argument("--out", dest="fetch", metavar="c,d", help="variables to bring back when the cell has ended")
    @argument("--checkpoint-every", metavar="30m", help="save so often in the middle of the cell, at a loop boundary")
    @argument(
        "--grace", metavar="60", help="seconds a pause waits for a loop boundary before it asks what to do instead"
    )
    @argument("--trace-modules", metavar="pkg,mod", help="your own modules: pause inside their loops, too")
    @argument("--flops", action="store_true", help="count them with torch's counter: $ a PFLOP, use of the GPU's peak")
    @argument("--detach", action="store_true", help="don't wait; %%ciuic_attach shows the outputs at any time")
    @argument("--no-meter", action="store_true", help="show no meter")
    @argument("--quote", action="store_true", help="run nothing: say what the cell would cost on each machine type")
    @cell_magic
    def ciuic_train(self, line: str, cell: str) -> report.Report | None:
        """Run the cell on a remote, metered kernel: started or resumed on demand, billed until it is paused.

        Example:

            %%ciuic_train --budget 5 --in data --out model
            model = train(data, epochs=20)

        Variables stay on the remote kernel from cell to cell, and through a pause. Ctrl-C (or the stop button)
        interrupts the remote cell; the third one stops watching and leaves it running.

        A pause stops the cell at the top of a loop's next turn. Its outputs go on here after a resume.

        With --quote nothing runs and no machine is started: the cell's own earlier runs say what it would cost.
        """
        with one_line():
            options = self._read(self.ciuic_train, line)
            name = check_name(options.session) if options.session else self.desk.session
            if options.quote:
                return self._quote(name, cell)
            plan = training.plan(options, cell, session=name, shell=self.shell)
            self.desk.use(name)
            view = self.desk.first(lambda client: training.ensure(client, plan, say))
            client = self.desk.client
            with self.desk.meter(view, show=plan.meter and not plan.detach):
                if plan.payload:
                    client.push(name, plan.payload)
                self._follow(plan, after=int(view.get("last_seq") or 0))
                training.fetch_or_say(client, plan, self.shell.user_ns, say)
                if plan.flops and not plan.detach:
                    say(training.counted(client, plan))
            return None

    def _quote(self, name: str, cell: str) -> report.Report:
        training.check_written(cell)
        return quote.quote(self.desk.open().quote(cell, cell_id=self.desk.cell_id(), session=name))

    def _follow(self, plan: training.Plan, after: int) -> None:
        client = self.desk.client

        def submit() -> None:
            more = {"checkpoint_every": plan.checkpoint_every, "grace": plan.grace, "trace": plan.trace or None}
            more |= {"budget_nano": plan.run_budget_nano, "flops": plan.flops or None}
            asked = {name: value for name, value in more.items() if value is not None}
            client.run(plan.session, plan.run, plan.code, cell_id=self.desk.cell_id(), detach=plan.detach, **asked)

        if plan.detach:
            follow_detached(client, plan.session, plan.run, after=after, shell=self.shell, submit=submit)
            say(f"runs detached in session {plan.session}; `%ciuic_attach {plan.session}` shows everything")
        else:
            follow(client, plan.session, plan.run, after=after, shell=self.shell, submit=submit)

    @magic_arguments()
    @_session
    @argument("--now", action="store_true", help="don't wait for a loop boundary: go back to the cell's last one")
    @line_magic
    def ciuic_pause(self, line: str) -> report.Report | None:
        """Save the session, let its machine go, stop the billing, and show the receipt.

        A running cell is saved at its next loop boundary, or at its end if it has none, and goes on after a resume.
        Returns when the machine is gone; nothing is billed for compute from then on.

        Example: %ciuic_pause
        """
        with one_line():
            options = self._read(self.ciuic_pause, line)
            name, view = self._known(options.session)
            if view.get("run") and not options.now:
                say("a cell is running; it is saved at its next loop boundary, or at its end, and billed until then")
            self.desk.client.pause(name, wait=True, now=options.now, past_grace=_say_choice)
            return self._ended(name, view)

    @magic_arguments()
    @_session
    @argument("--instance", metavar="TYPE", help="on another machine than it was on")
    @argument("--drop-cell", action="store_true", help="leave the cell that was paused where it stood; keep variables")
    @argument("--run-budget", metavar="USD", help="most the cell that goes on may cost, from its begin")
    @line_magic
    def ciuic_resume(self, line: str) -> None:
        """Start a machine again and restore every variable; from then on it is billed.

        A cell that was paused in its middle goes on; its output comes where the cell stands.

        Example: %ciuic_resume
        """
        with one_line():
            options = self._read(self.ciuic_resume, line)
            name, view = self._known(options.session)
            if view["state"] == "running":
                say(f"session {name} is running already")
                return
            if view["state"] == "paused":
                say(training.resuming(view))
            suspended = view.get("suspended")
            budget = training.budget_of(options.run_budget, "--run-budget")
            wishes = {"drop_cell": options.drop_cell, "instance": options.instance, "run_budget_nano": budget}
            self.desk.client.resume(name, **{wish: value for wish, value in wishes.items() if value})
            view = self.desk.wait(name, ("running",))
            say(f"session {name} runs on {view.get('instance')}: {card.price(view)}")
            if suspended and not options.drop_cell:
                where = suspended.get("where") or "where it was paused"
                say(f"the cell goes on from {where}; %ciuic_attach shows it here")

    @magic_arguments()
    @_session
    @line_magic
    def ciuic_status(self, line: str) -> report.Report:
        """Show a session's state, price, idle countdown and why; all sessions where this notebook has none.

        Example: %ciuic_status
        """
        with one_line():
            given = self._read(self.ciuic_status, line).session
            client = self.desk.open()
            if given:
                return report.status(client.session(check_name(given)))
            views = client.sessions()
            mine = [view for view in views if view["name"] == self.desk.session]
            return report.status(mine[0]) if mine else report.sessions(views)

    @magic_arguments()
    @_session
    @line_magic
    def ciuic_why(self, line: str) -> report.Report:
        """Show why a session's machine is kept or will be let go: witnesses, the rule with its numbers, the time.

        Example: %ciuic_why
        """
        with one_line():
            return why.why(self._known(self._read(self.ciuic_why, line).session)[1], time.time())

    @magic_arguments()
    @_session
    @argument("--by", choices=("day", "session", "run", "machine"), help="one line each, beside the same always on")
    @argument(
        "--cell",
        nargs="?",
        const="",
        metavar="RUN",
        help="compare the runs of the cell that RUN, or the last one, is of",
    )
    @line_magic
    def ciuic_cost(self, line: str) -> report.Report:
        """Show seconds and money billed and not billed, for one session or for all; by day with a chart.

        Example: %ciuic_cost --by day
        """
        with one_line():
            options = self._read(self.ciuic_cost, line)
            given, client = options.session, self.desk.open()
            if options.cell is not None:
                return report.same_cell(client.same_cell(self.desk.run(options.cell or given)))
            if options.by:
                body = client.report(options.by, check_name(given) if given else None)
                return report.spent(body, chart.charts(body["rows"]) if options.by == "day" else ())
            return report.cost(client.cost(check_name(given) if given else None), given)

    @magic_arguments()
    @_session
    @line_magic
    def ciuic_advice(self, line: str) -> report.Report:
        """Show what could cost less, each with its evidence and amount, for one session or for all; or nothing.

        Example: %ciuic_advice
        """
        with one_line():
            given = self._read(self.ciuic_advice, line).session
            return report.advice(self.desk.open().advice(check_name(given) if given else None))

    @magic_arguments()
    @argument(
        "session", nargs="?", metavar="session|run", help="a session's name or a run's id; without it, the last run"
    )
    @line_magic
    def ciuic_attach(self, line: str) -> None:
        """Show all outputs of a session's last run in this cell, from its first line, and follow it to its end.

        Works from any notebook, also after the kernel that started the run has died.

        Example: %ciuic_attach
        """
        with one_line():
            given = self._read(self.ciuic_attach, line).session
            self.desk.open()
            name, run = self.desk.session_or_run(given)
            self.desk.use(name)
            with self.desk.meter(self.desk.client.session(name), show=True):
                attach(self.desk.client, name, run, shell=self.shell)

    @magic_arguments()
    @_session
    @argument("--discard", action="store_true", help="don't save: everything since the last checkpoint is lost")
    @line_magic
    def ciuic_release(self, line: str) -> report.Report | None:
        """Give the machine back now: interrupt a running cell, save, stop the billing, and show the receipt.

        Example: %ciuic_release
        """
        with one_line():
            options = self._read(self.ciuic_release, line)
            name, view = self._known(options.session)
            self.desk.client.release(name, discard=options.discard)
            return self._ended(name, view)

    @magic_arguments()
    @_session
    @line_magic
    def ciuic_close(self, line: str) -> report.Report | None:
        """Save, let the machine go and end the session; its checkpoint is kept. Shows the receipt.

        Example: %ciuic_close
        """
        with one_line():
            name, view = self._known(self._read(self.ciuic_close, line).session)
            self.desk.client.close_session(name)
            ended = self._ended(name, view, wanted=("closed", "failed"))
            self.desk.shelf.drop(name)
            return ended

    def _ended(
        self, name: str, before: View, wanted: tuple[str, ...] = ("paused", "closed", "failed")
    ) -> report.Report | None:
        """Wait until billing has stopped and return the newest receipt, if this stop made one."""
        view = self.desk.wait(name, wanted)
        if view["state"] == "failed":
            say(f"session {name} failed: {view.get('message') or view.get('text')}")
        receipts = self.desk.client.receipts(name)
        self.desk.shelf.keep(name)
        if before["state"] in ("paused", "closed") or not receipts:
            say(f"session {name} is {view['state']}; no machine was running, so there is nothing to bill")
            return report.status(view)
        return report.receipt(name, receipts[-1])

    @magic_arguments()
    @argument("names", nargs="*", help="variables of this notebook")
    @argument("--session", metavar="NAME", help="session to send them to")
    @line_magic
    def ciuic_push(self, line: str) -> None:
        """Send variables to the session's remote kernel.

        Example: %ciuic_push data labels
        """
        with one_line():
            options = self._read(self.ciuic_push, line)
            names = names_of(",".join(options.names), "%ciuic_push") if options.names else []
            if not names:
                raise UsageError("name the variables to send: %ciuic_push a b")
            parts = training.packed(names, self.shell.user_ns)
            name = self._named(options.session)
            self.desk.open().push(name, parts)
            say(f"sent {', '.join(names)} to session {name}")

    @magic_arguments()
    @argument("names", nargs="*", help="variables of the remote kernel")
    @argument("--session", metavar="NAME", help="session to fetch them from")
    @line_magic
    def ciuic_pull(self, line: str) -> None:
        """Bring variables of the session's remote kernel into this notebook: all of them or, on any error, none.

        Example: %ciuic_pull model history
        """
        with one_line():
            options = self._read(self.ciuic_pull, line)
            names = names_of(",".join(options.names), "%ciuic_pull") if options.names else []
            if not names:
                raise UsageError("name the variables to fetch: %ciuic_pull a b")
            name = self._named(options.session)
            training.fetch(self.desk.open(), name, names, self.shell.user_ns)
            say(f"fetched {', '.join(names)} from session {name}")

    @magic_arguments()
    @argument("time", help="how long: 30m, 2h, 1h30m")
    @_session
    @line_magic
    def ciuic_keep(self, line: str) -> None:
        """Keep the machine for so long, even if it is idle; it is billed meanwhile.

        Example: %ciuic_keep 30m
        """
        with one_line():
            options = self._read(self.ciuic_keep, line)
            seconds = seconds_of(options.time)
            name = self._named(options.session)
            view = self.desk.open().keep(name, seconds)
            say(f"session {name} is {card.describe_kept(view)}; {card.price(view)} meanwhile")


def _completer(magics: CiuicMagics) -> Callable[[Any, Any], list[str]]:
    names = completion.SessionNames(magics.desk.known_sessions)

    def complete(_shell: Any, event: Any) -> list[str]:
        magic = getattr(magics, str(event.command).lstrip("%"), None)
        actions = magic.parser._actions if magic is not None else ()  # noqa: SLF001  (argparse has no public list)
        options = [option for action in actions for option in action.option_strings]
        return completion.complete(event.text_until_cursor, options, names.get, magics.shell.user_ns)

    return complete


def load(shell: Any) -> None:
    """Register the magics and their completion in an IPython shell."""
    magics = CiuicMagics(shell)
    shell.register_magics(magics)
    completer = _completer(magics)
    for kind, mark in (("line", "%"), ("cell", "%%")):
        for name in magics.magics[kind]:
            shell.set_hook("complete_command", completer, str_key=f"{mark}{name}")


def unload(shell: Any) -> None:
    """Take magics, completion and meters away; sessions and runs go on."""
    for kind, mark in (("line", "%"), ("cell", "%%")):
        table = shell.magics_manager.magics[kind]
        for name in CiuicMagics.magics[kind]:
            found = table.pop(name, None)
            owner = getattr(found, "__self__", None)
            if isinstance(owner, CiuicMagics):
                owner.desk.close()
            shell.strdispatchers["complete_command"].strs.pop(f"{mark}{name}", None)


__all__ = ["CiuicError", "CiuicMagics", "load", "unload"]
