"""When to release: idleness as a claim with three witnesses, and the priced break-even rule.

Source of the rule: ski rental (Albers, Energy-efficient algorithms, CACM 5/2010): waiting until the cost of waiting
equals the cost of a stop and a start never pays more than twice what a clairvoyant would have paid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist

from ciuic_jupyter.errors import UsageError

_STOP_SECONDS = 5.0  # from a save's end until the provider says that the machine is gone
_LONGEST_CAPPED_WAIT = 86400.0  # even a cap of 0 resumes releases a machine that nobody came back to for a day
_THINKING = NormalDist(3.81, 1.86)  # of ln(seconds) between two cells, 10,325 cells of public notebooks (decision 36)
_CAP_GAIN = 0.01  # each resume above the cap makes the wait so much longer, each one below so much shorter


@dataclass(frozen=True)
class Reading:
    """What a witness saw: quiet or not, and since when (seconds on the caller's clock)."""

    quiet: bool
    since: float
    detail: str = ""


@dataclass(frozen=True)
class Unknown:
    """A witness that could not look. Unknown is never idle."""

    why: str


Witness = Reading | Unknown


@dataclass(frozen=True)
class Idle:
    """All three witnesses are quiet, the last of them since `since`."""

    since: float


@dataclass(frozen=True)
class Busy:
    """A witness saw work."""

    witness: str
    detail: str


@dataclass(frozen=True)
class Uncertain:
    """A witness could not look, and no other saw work."""

    witness: str
    why: str


Verdict = Idle | Busy | Uncertain


def judge(kernel: Witness, processes: Witness, gpu: Witness, *, now: float) -> Verdict:
    """Weigh the three witnesses: any that saw work means busy, any that could not look means uncertain."""
    named = {"kernel": kernel, "processes": processes, "gpu": gpu}
    for name, said in named.items():
        if isinstance(said, Reading) and not said.quiet:
            return Busy(name, said.detail)
    for name, said in named.items():
        if isinstance(said, Unknown):
            return Uncertain(name, said.why)
    return Idle(min(now, max(said.since for said in named.values() if isinstance(said, Reading))))


@dataclass(frozen=True)
class Policy:
    """What the rule needs to know: prices in nano-units per hour, times in seconds."""

    price_nano_per_hour: int
    storage_nano_per_hour: int = 0
    wait_value_nano_per_hour: int = 0
    checkpoint_seconds: float = 3.0
    restore_seconds: float = 5.0
    unit_seconds: int = 1
    minimum_seconds: int = 0
    floor_seconds: float = 60.0
    deadline_seconds: float | None = None  # an uncertain kernel is released after this long, None: never
    max_resumes_per_100: int | None = None

    def __post_init__(self) -> None:
        numbers = (
            self.price_nano_per_hour,
            self.storage_nano_per_hour,
            self.wait_value_nano_per_hour,
            self.checkpoint_seconds,
            self.restore_seconds,
            self.minimum_seconds,
            self.floor_seconds,
            self.deadline_seconds or 0.0,
            self.max_resumes_per_100 or 0,
        )
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or self.unit_seconds < 1:
            raise UsageError(f"an idle policy needs finite numbers of 0 or more, and a unit of 1 s or more: {self}")

    @property
    def break_even_seconds(self) -> float | None:
        """How long waiting costs less than a stop and a start: B = (p(C+R) + vR) / (p-s); None if a stop never pays."""
        saved = self.price_nano_per_hour - self.storage_nano_per_hour
        if saved <= 0:
            return None
        cycle = self.price_nano_per_hour * (self.checkpoint_seconds + self.restore_seconds)
        return (cycle + self.wait_value_nano_per_hour * self.restore_seconds) / saved


@dataclass(frozen=True)
class Decision:
    """When saving starts and when the machine should be gone, on the caller's clock; None: not foreseen."""

    save_at: float | None
    release_at: float | None
    break_even_seconds: float | None
    reason: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What was seen so far; times on the caller's clock. `resumes` and `runs` are the user's, over all sessions."""

    segment_started: float
    kept_until: float | None = None
    resumes: int = 0
    runs: int = 0
    uncertain_since: float | None = None


def decide(policy: Policy, verdict: Verdict, facts: Facts) -> Decision:
    """Say when a session in this condition should be saved and released, and why."""
    even = policy.break_even_seconds
    if isinstance(verdict, Busy):
        return Decision(None, None, even, f"busy: {verdict.witness}: {verdict.detail}")
    if even is None:
        return Decision(None, None, None, "never: keeping the checkpoint costs as much as the machine")
    if isinstance(verdict, Uncertain):
        return _uncertain(policy, verdict, facts, even)
    plain = max(policy.floor_seconds, even)
    wait = max(plain, _capped_wait(policy, facts))
    reason = f"idle; a stop and a restore cost as much as {even:.0f} s of waiting"
    if wait > plain:
        limit = policy.max_resumes_per_100
        reason += f"; waits {wait:.0f} s: {facts.resumes} resumes in {facts.runs} cells, the cap is {limit} in 100"
    return _release(policy, facts, verdict.since + wait - policy.checkpoint_seconds, reason, verdict.since)


def _uncertain(policy: Policy, verdict: Uncertain, facts: Facts, even: float) -> Decision:
    reason = f"not known to be idle: {verdict.witness}: {verdict.why}"
    if policy.deadline_seconds is None or facts.uncertain_since is None:
        return Decision(None, None, even, reason)
    since = facts.uncertain_since
    return _release(policy, facts, since + policy.deadline_seconds, f"{reason}; its deadline counts", since)


def _release(policy: Policy, facts: Facts, earliest: float, reason: str, since: float) -> Decision:
    """Save at `earliest`, or later where the user or the paid unit says so."""
    if facts.kept_until is not None and facts.kept_until > earliest:
        earliest, reason = facts.kept_until, "kept on request"
    save_at = _end_of_paid_unit(policy, facts.segment_started, earliest)
    if save_at > earliest:
        reason += "; the time until then is paid anyway"
    even = policy.break_even_seconds
    numbers = {
        "checkpoint_seconds": policy.checkpoint_seconds,
        "restore_seconds": policy.restore_seconds,
        "break_even_seconds": even or 0.0,
        "floor_seconds": policy.floor_seconds,
        "idle_since": since,
    }
    return Decision(save_at, save_at + policy.checkpoint_seconds, even, reason, numbers)


def _capped_wait(policy: Policy, facts: Facts) -> float:
    """Return the wait that holds the cap on resumes: one that so many gaps are longer than, found by following them.

    Begins where gaps of other people say, then grows with each resume above the cap and shrinks with each one below:
    T = T0 exp(a (resumes - k runs)), so that resumes stay below k runs + ln(longest wait / T0) / a whatever the gaps
    are (quantile tracking, as in Gibbs and Candès, Adaptive conformal inference, 2021).
    """
    cap = policy.max_resumes_per_100
    if cap is None or cap >= 100:
        return 0.0
    if cap == 0:
        return _LONGEST_CAPPED_WAIT
    over = _CAP_GAIN * (facts.resumes - cap * facts.runs / 100)
    return math.exp(min(_usual_wait(cap) + over, math.log(_LONGEST_CAPPED_WAIT)))


@cache
def _usual_wait(cap: int) -> float:
    """Return ln(seconds) that `cap` % of gaps between cells are longer than."""
    return _THINKING.inv_cdf(1 - cap / 100)


def _end_of_paid_unit(policy: Policy, started: float, save_at: float) -> float:
    """Postpone to where the time that is paid anyway is used up, the save and the stop included."""
    unit, save = policy.unit_seconds, policy.checkpoint_seconds
    gone = save_at + save - started
    paid = max(policy.minimum_seconds, math.ceil(gone / unit - 1e-9) * unit)
    spare = min(save + _STOP_SECONDS, unit / 10) if unit > 1 else 0.0  # a second too late costs a whole unit
    worthwhile = unit > 1 or policy.minimum_seconds > gone
    return max(save_at, started + paid - spare - save) if worthwhile else save_at
