"""Mistakes that someone could make in plane, ledger, session and money; `scripts/mutants` shows that each is found."""

from __future__ import annotations

from dataclasses import dataclass

SESSION, MONEY = "ciuic_jupyter/core/session.py", "ciuic_jupyter/core/money.py"
LEDGER, BOOKS = "ciuic_jupyter/control/ledger.py", "ciuic_jupyter/control/projections.py"
ROWS, RUNNER = "ciuic_jupyter/control/rows.py", "ciuic_jupyter/control/runner.py"
HAND, PLANE = "ciuic_jupyter/control/machine.py", "ciuic_jupyter/control/plane.py"
RECONCILE = "ciuic_jupyter/control/reconcile.py"

CORE = ("tests/core/test_session.py", "tests/core/test_money.py")
FAULTS = ("tests/faults/test_histories.py",)
FILE = ("tests/control/test_ledger.py", "tests/control/test_power_loss.py")
ENDS = ("tests/control/test_reconcile.py",)
LIVES = ("tests/control/test_plane.py", "tests/control/test_plane_edges.py")


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which stands there once) becomes `new`; `tests` are run first, then all others here."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_DO = "            for command in taken.commands:\n                self._do(command)\n"
_WRITE = """            if written:
                for entry in await self.context.ledger.append_all(written):
                    self.context.books.apply(entry)
"""

MUTANTS = (
    Mutant("acknowledged, not committed", LEDGER, "            connection.commit()\n", "", FILE),
    Mutant("commits that a power cut undoes", LEDGER, '"synchronous": 2', '"synchronous": 1', FILE),
    Mutant("a key that counts for nothing", LEDGER, "if row.idem is None:", "if True:", FILE),
    Mutant(
        "a key with other content", LEDGER, "if entry is not None and (entry.kind", "if False and (entry.kind", FILE
    ),
    Mutant("a chain that spares the body", LEDGER, '"idem", "body", "prev")', '"idem", "prev")', FILE),
    Mutant(
        "goes on after a failed write",
        LEDGER,
        "if self._broken is not None:\n                r",
        "if False:\n                r",
        FILE,
    ),
    Mutant(
        "each price rounded down",
        MONEY,
        "-(-rate_nano_per_hour * billed // HOUR_MS)",
        "rate_nano_per_hour * billed // HOUR_MS",
        CORE,
    ),
    Mutant("no minimum", MONEY, "max(minimum_ms, -(", "max(0, -(", CORE),
    Mutant(
        "units rounded down", MONEY, "-(-milliseconds // unit_ms) * unit_ms", "milliseconds // unit_ms * unit_ms", CORE
    ),
    Mutant(
        "intent behind the start, in the table",
        SESSION,
        "(c.RECORD_INTENT, c.START_MACHINE)",
        "(c.START_MACHINE, c.RECORD_INTENT)",
        CORE,
    ),
    Mutant("stopped without a save", SESSION, "Step(s.SAVING, (c.SAVE,))", "Step(s.STOPPING, (c.STOP_MACHINE,))", CORE),
    Mutant(
        "a refused stop ends it",
        SESSION,
        "(s.STOPPING, e.STOP_FAILED): stop_and_tell",
        "(s.STOPPING, e.STOP_FAILED): gone",
        CORE,
    ),
    Mutant(
        "a lost machine billed for ever",
        SESSION,
        "gone = Step(s.FAILED, (c.CLOSE_SEGMENT, c.TELL))",
        "gone = Step(s.FAILED, (c.TELL,))",
        CORE,
    ),
    Mutant(
        "a stop is free",
        SESSION,
        "State.SAVING, State.STOPPING)\n\n\ndef is_live",
        "State.SAVING)\n\n\ndef is_live",
        CORE,
    ),
    Mutant("done before it is written", RUNNER, _WRITE, _DO + _WRITE, FAULTS),
    Mutant(
        "opened when it is heard of",
        ROWS,
        '"at_ms": round(created_at * 1000)',
        '"at_ms": runner.context.now_ms()',
        FAULTS,
    ),
    Mutant("closed when it is heard of", HAND, "round(stopped * 1000) if stopped is not None else", "", LIVES),
    Mutant(
        "opened twice",
        BOOKS,
        "if any(segment.machine == entry.machine for segment in book.segments):",
        "if False:",
        ENDS,
    ),
    Mutant(
        "a price that is not the row's",
        BOOKS,
        '                body["rate"],',
        "                book.rate + 1,",
        FAULTS,
    ),
    Mutant(
        "a stop believed unproven",
        HAND,
        "if unknown == 2 or (found is not None and found.state is MachineState.STOPPED):",
        "if True:",
        ENDS,
    ),
    Mutant("unknown once is gone", HAND, "if unknown == 2 or", "if unknown == 1 or", ENDS),
    Mutant(
        "no second try of a stop",
        HAND,
        'it is still billed: {error}"\n',
        'it is still billed: {error}"\n                    break\n',
        ENDS,
    ),
    Mutant(
        "no answer is gone",
        HAND,
        "                await asyncio.sleep(wait)\n                wait = min(2 * wait, _LAST_RETRY)\n",
        "                return None\n",
        LIVES,
    ),
    Mutant("a start that failed made nothing", HAND, "looked = await self._look(machine)", "looked = None", LIVES),
    Mutant("a stop forgotten by a crash", PLANE, "runner.spawn(runner.hand.stop())", "pass", FAULTS),
    Mutant("a start forgotten by a crash", PLANE, "runner.spawn(runner.hand.start())", "pass", FAULTS),
    Mutant("a save forgotten by a crash", PLANE, "runner.spawn(runner.hand.save())", "pass", FAULTS),
    Mutant("machines of others", RECONCILE, "machine.tag == context.owner and not", "not", ENDS),
    Mutant(
        "orphans billed from now",
        RECONCILE,
        '"at_ms": round(machine.created_at * 1000)',
        '"at_ms": context.now_ms()',
        FAULTS,
    ),
    Mutant("an old intent is wanted", RECONCILE, ' and book.intent["id"] == machine', "", ENDS),
    Mutant("an end told once", RECONCILE, "    await _confirm(context)\n", "", ENDS),
    Mutant(
        "an end never compared",
        RECONCILE,
        "if end is None or (end, False) != (segment.closed_ms, segment.estimated):",
        "if end is None:",
        ENDS,
    ),
    Mutant("a failed start never looked for", RECONCILE, "    await _find(context)\n", "", ENDS),
    Mutant(
        "a machine that lives stays closed",
        BOOKS,
        "if at_ms is not None else None\n",
        "if at_ms is not None else segment.closed_ms\n",
        ENDS,
    ),
    Mutant("$0/h while one lives", BOOKS, "return sum(open_now.values()) + (", "return (", ENDS),
    Mutant("two rounds at once", PLANE, "async with self._reconciling:", "if True:", ENDS),
)
