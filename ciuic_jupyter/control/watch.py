"""The idle rule at work on one session: witnesses from its samples, times from its own history."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.core.idle import (
    Busy,
    Decision,
    Facts,
    Idle,
    Policy,
    Reading,
    Uncertain,
    Unknown,
    Verdict,
    Witness,
    judge,
)
from ciuic_jupyter.core.idle import decide as decide_idle
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.settings import Settings

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_STALE_SECONDS = 10.0
_NAMES = ("kernel", "processes", "gpu")


class IdleWatch:
    """Keeps the newest word of each witness, on our own clock; times of other machines are carried over as ages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._said: dict[str, Witness] = {}
        self._heard: float | None = None
        self._uncertain_since: float | None = None
        self._retry_at = 0.0

    def reset(self) -> None:
        """Forget a machine that is gone."""
        self._said, self._heard, self._uncertain_since = {}, None, None

    def failed(self, until: float) -> None:
        """A save failed: don't try by yourself before `until` (boot clock)."""
        self._retry_at = until

    def take(self, sample: dict[str, Any], now: float) -> None:
        """Take the witnesses of one sample frame."""
        self._heard = now
        their_now = float(sample.get("now", 0.0))
        words = {"kernel": sample.get("kernel")} | {
            name: sample.get(f"{name}_witness") for name in ("processes", "gpu")
        }
        self._said = {name: _witness(said, now - their_now) for name, said in words.items()}

    def witnesses(self, now: float) -> dict[str, Witness]:
        """Return what each says now; who was not heard for 10 s is unknown."""
        if self._heard is None or now - self._heard > _STALE_SECONDS:
            return {name: Unknown("the machine was not heard lately") for name in _NAMES}
        return self._said

    def decide(self, runner: Runner, now: float) -> tuple[Verdict, Decision]:
        """Return what the witnesses say together, and what follows; times on the boot clock."""
        said = self.witnesses(now)
        verdict = judge(said["kernel"], said["processes"], said["gpu"], now=now)
        if runner.current is not None or runner.book.queued:
            verdict = Busy("kernel", "a cell runs or waits")
        if isinstance(verdict, Uncertain):
            self._uncertain_since = self._uncertain_since if self._uncertain_since is not None else now
        else:
            self._uncertain_since = None
        return verdict, decide_idle(self._policy(runner), verdict, self._facts(runner, now))

    def _facts(self, runner: Runner, now: float) -> Facts:
        clock, book = runner.context.clock, runner.book
        segment = book.open_segment
        wall_to_boot = now - clock.wall()
        return Facts(
            segment_started=segment.opened_ms / 1000 + wall_to_boot if segment is not None else now,
            kept_until=book.kept_until + wall_to_boot if book.kept_until is not None else None,
            resumes=sum(max(0, len(life.segments) - 1) for life in runner.context.books.lives),
            runs=sum(len(life.runs) for life in runner.context.books.lives),
            uncertain_since=self._uncertain_since,
        )

    def _policy(self, runner: Runner) -> Policy:
        settings, offer = self._settings, runner.book.offer
        save, restore = runner.context.timings(runner.book)
        return Policy(
            price_nano_per_hour=int(offer["price_nano_per_hour"]),
            storage_nano_per_hour=runner.context.storage_rate,
            wait_value_nano_per_hour=parse_usd(settings.wait_value_per_hour),
            checkpoint_seconds=save,
            restore_seconds=restore,
            unit_seconds=int(offer["unit_seconds"]),
            minimum_seconds=int(offer["minimum_seconds"]),
            floor_seconds=settings.idle_floor_seconds,
            deadline_seconds=settings.unknown_limit_seconds,
            max_resumes_per_100=settings.max_resumes_per_100,
        )

    def due(self, runner: Runner, now: float) -> bool:
        """Tell whether it is time to save and release."""
        if not self._settings.idle_release or now < self._retry_at:
            return False
        _, decision = self.decide(runner, now)
        return decision.save_at is not None and now >= decision.save_at

    def view(self, runner: Runner) -> dict[str, Any]:
        """Return verdict, witnesses and countdown as JSON; `release_at` and `since` in unix seconds."""
        clock = runner.context.clock
        now = clock.boot()
        boot_to_wall = clock.wall() - now
        verdict, decision = self.decide(runner, now)
        release_at = decision.release_at if self._settings.idle_release else None
        return {
            "verdict": _word(verdict),
            "witnesses": {name: _plain(said, boot_to_wall) for name, said in self.witnesses(now).items()},
            "release_at": release_at + boot_to_wall if release_at is not None else None,
            "reason": decision.reason if self._settings.idle_release else "idle release is switched off",
            "numbers": decision.numbers,
            "policy": self._numbers(runner, now),
        }

    def _numbers(self, runner: Runner, now: float) -> dict[str, Any]:
        policy, facts = self._policy(runner), self._facts(runner, now)
        numbers = {**asdict(policy), "break_even_seconds": policy.break_even_seconds}
        return {**numbers, "resumes": facts.resumes, "runs": facts.runs}


def _witness(said: Any, shift: float) -> Witness:
    if not isinstance(said, dict) or "quiet" not in said:
        return Unknown(str(said.get("why")) if isinstance(said, dict) else "not told")
    return Reading(bool(said["quiet"]), float(said["since"]) + shift, str(said.get("detail", "")))


def _plain(said: Witness, boot_to_wall: float) -> dict[str, Any]:
    if isinstance(said, Unknown):
        return {"unknown": said.why}
    return {"quiet": said.quiet, "since": said.since + boot_to_wall, "detail": said.detail}


def _word(verdict: Verdict) -> str:
    return "idle" if isinstance(verdict, Idle) else "busy" if isinstance(verdict, Busy) else "unknown"
