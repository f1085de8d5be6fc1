"""The ledger rows that one step of a session means: written together with it, or not at all."""

from __future__ import annotations

import importlib.resources
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.advising import brief
from ciuic_jupyter.control.counted import on_machine
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.core.carbon import Region, emitted, grid
from ciuic_jupyter.core.flops import told
from ciuic_jupyter.core.session import Command, Event, State, Step

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

Facts = Mapping[str, Any]


def of_step(runner: Runner, event: Event, step: Step, goal: str | None, facts: Facts) -> list[Row]:
    """Return the rows of a step; none for one that changes nothing."""
    if event is Event.RUN:
        return []
    book = runner.book
    at_ms = runner.context.now_ms()
    body: dict[str, Any] = {"event": event.value, "to": step.state.value, "at_ms": at_ms}
    if goal is not None:
        body["goal"] = goal
    written = [Row("state", body, session=book.name)]
    for command in step.commands:
        if command is Command.RECORD_INTENT:
            intent = uuid.uuid4().hex
            saved = book.checkpoint["seq"] if book.checkpoint is not None else None
            written.append(Row("intent", {"checkpoint": saved, "at_ms": at_ms}, session=book.name, machine=intent))
        elif command is Command.OPEN_SEGMENT:
            written.append(segment_open(runner, facts["machine"], facts["created_at"]))
        elif command is Command.RECORD_CHECKPOINT and facts.get("checkpoint") is not None:
            written.append(checkpoint(runner, facts["checkpoint"], at_ms))
        elif command is Command.CLOSE_SEGMENT:
            written += _segment_end(runner, facts)
            held = facts.get("checkpoint") or book.checkpoint
            if step.state is State.PAUSED and held is not None:
                written += suspend(runner, held, at_ms)
        elif command is Command.RECEIPT:
            written.append(_receipt(runner, step, facts, at_ms))
    return written


def of_import(runner: Runner, born: Facts, step: Step, saved: Facts) -> list[Row]:
    """Return the rows of a session that begins paused, with a checkpoint from elsewhere and the run that it holds."""
    at_ms = int(born["at_ms"])
    written = of_step(runner, Event.IMPORT, step, "paused", {"checkpoint": saved})
    return [Row("session", born, session=runner.book.name), *written, *suspend(runner, saved, at_ms)]


def wish(runner: Runner, goal: str) -> Row:
    """The row of a pause, or of an end, that was asked for in the middle of something: it changes no state."""
    book = runner.book
    assert book.state is not None
    body = {"event": "pause", "to": book.state.value, "at_ms": runner.context.now_ms(), "goal": goal}
    return Row("state", body, session=book.name)


def segment_open(runner: Runner, machine: str, created_at: float) -> Row:
    """The row that opens a machine's billing segment, backdated to its creation."""
    offer = runner.book.offer
    body = {
        "at_ms": round(created_at * 1000),
        "rate": offer["price_nano_per_hour"],
        "currency": offer["currency"],
        "unit_ms": offer["unit_seconds"] * 1000,
        "minimum_ms": offer["minimum_seconds"] * 1000,
        "instance": offer["instance"],
    }
    return Row("segment_open", body, session=runner.book.name, machine=machine, idem=f"open:{machine}")


def _segment_end(runner: Runner, facts: Facts) -> list[Row]:
    book = runner.book
    machine = str(facts["machine"])
    if facts.get("created_at") is None and not any(segment.machine == machine for segment in book.segments):
        return []  # no machine ever came of the intent
    found = []
    if not any(segment.machine == machine for segment in book.segments):
        found.append(segment_open(runner, machine, facts["created_at"]))
    body = {"at_ms": facts["stopped_ms"], "reason": facts["reason"], "estimated": facts["estimated"]}
    return [*found, Row("segment_close", body, session=book.name, machine=machine, idem=f"close:{machine}")]


def checkpoint(runner: Runner, saved: Facts, at_ms: int) -> Row:
    """The row of a checkpoint; the code of a cell that it holds stands in the cell's own row."""
    report = dict(saved["report"])
    if report.get("run"):
        report["run"] = {key: value for key, value in report["run"].items() if key not in ("code", "flops")}
        report["run"] |= _counted(saved["report"]["run"])
    body = {"seq": saved["seq"], "report": report, "at_ms": at_ms, "storage_rate": runner.context.storage_rate}
    name = runner.book.name
    return Row("checkpoint", body, session=name, idem=f"checkpoint:{runner.book.life}:{saved['seq']}")


def suspend(runner: Runner, saved: Facts, at_ms: int, *, ended: bool = False) -> list[Row]:
    """The rows that suspend the run a checkpoint holds; none for a run that has ended, unless `ended` will do."""
    book, held = runner.book, saved["report"].get("run")
    if not held:
        return []
    run, found = str(held["run"]), []
    known = book.runs.get(run)
    if known is None:  # the plane was killed before it had a row, and the machine saved and left by itself
        body = {"run": run, "code": held.get("code", ""), "cell_id": held.get("cell_id"), "at_ms": at_ms}
        found.append(Row("run", body, session=book.name, idem=f"run:{book.life}:{run}"))
    elif known.status not in ("queued", "running") and not (ended and known.status == "ok"):
        return []
    seen = runner.mirror.last_seq
    body = {"run": run, "checkpoint": saved["seq"], "after": min(int(held["seq"]), seen), "seen": seen}
    usage = runner.tally.view() if runner.current == run else known.usage if known is not None else None
    body |= {"where": str(held.get("where") or ""), "at_ms": at_ms, "usage": usage}
    return [*found, Row("run_suspend", body | _counted(held), session=book.name)]


def _counted(held: Facts) -> dict[str, Any]:
    """Return what a checkpoint says of the FLOPs of the run in its middle, where it can be meant."""
    counted = told(held.get("flops"))
    return {"flops": counted} if counted is not None else {}


def _receipt(runner: Runner, step: Step, facts: Facts, at_ms: int) -> Row:
    """What a pause cost and saved; totals at the moment the machine was gone."""
    book, end = runner.book, int(facts["stopped_ms"])
    checkpoint = facts.get("checkpoint") or book.checkpoint
    segment = book.open_segment
    energy = runner.energy.view()
    body = {
        "energy": energy,
        "flops": on_machine(book, (checkpoint or {}).get("report", {}).get("run"), end),
        "advice": brief(runner, end),
        "between": runner.tally.view() if runner.current is None else None,
        "carbon": emitted(energy, runner.context.settings.grid_region, regions()),
        "at": end / 1000,
        "reason": facts["reason"],
        "state": step.state.value,
        "currency": book.offer["currency"],
        "machine": facts["machine"],
        "segment_seconds": segment.billed_ms(end) / 1000 if segment is not None else 0.0,
        "segment_nano": segment.cost(end) if segment is not None else 0,
        "billed_seconds": book.billed_ms(end) / 1000,
        "spent_nano": book.compute_nano(end),
        "storage_nano": book.storage_nano(end),
        "unbilled_seconds": book.unbilled_ms(end) / 1000,
        "unspent_nano": book.unspent_nano(end),
        "storage_nano_per_hour": runner.context.storage_rate,
        "estimated": facts["estimated"],
        "checkpoint": checkpoint_view(checkpoint) if step.state is not State.FAILED else None,
    }
    return Row("receipt", body, session=book.name, machine=str(facts["machine"]), idem=f"receipt:{facts['machine']}")


def checkpoint_view(checkpoint: Facts | None) -> dict[str, Any] | None:
    """Return what people want to know of a checkpoint: sizes in bytes, `at` in unix seconds."""
    if checkpoint is None:
        return None
    report = checkpoint["report"]
    return {
        "seq": checkpoint["seq"],
        "at": checkpoint.get("at_ms", 0) / 1000 or None,
        "bytes": report.get("bytes_total", 0),
        "bytes_written": report.get("bytes_written", 0),
        "seconds": report.get("seconds", {}),
        "names": report.get("names", []),
        "placeholders": report.get("placeholders", []),
        "run": report["run"]["run"] if report.get("run") else None,
    }


@lru_cache
def regions() -> dict[str, Region]:
    """Return the grids whose intensity the package knows."""
    path = importlib.resources.files("ciuic_jupyter") / "data" / "grid.csv"
    return grid(path.read_text(encoding="utf-8"))
