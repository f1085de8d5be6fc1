"""How long a run will take: from where its counted loops stand and stood, with an interval.

A turn of a loop is made of the loops inside it and of the rest: an epoch of its steps, a validation, a checkpoint. What
is left is a count of each, times its recent mean. A beginning that is slower (compiling, caches) counts as spent and
predicts nothing; after a change of pace that is no noise, only what came since predicts; a steady drift goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import Any

from ciuic_jupyter.core.money import NANO, format_money
from ciuic_jupyter.core.words import plain

_Blocks = list[tuple[float, float]]  # turns, and the seconds they took together
_BLOCKS = 240  # are kept of one loop; of more, two become one
_SIGNIFICANT = 4.5  # standard errors between two paces that are two: the largest of many
_DRIFTING = 3.5  # standard errors of a drift: one alone
_BLOCK_SECONDS = 5.0  # at least, as a look a second comes up to a second late...
_BLOCK_TURNS = 10  # ...which is little beside so many turns
_SMALLEST = 0.03  # share of the pace that a change is worth a look
_SIDE = 5  # blocks at least on each side of a change
_WARM = 1.25  # a beginning that is slower than the middle by so much is warming up
_FADING = 1.04  # behind it, what is slower by so much still fades
_SHORT = 4.0  # looks that a loop inside a turn must last to be told apart
_LEAST_SECONDS = 3.0
_MOST_SECONDS = 10 * 365 * 86400.0
_PLACES = 500  # loops of one run that are remembered; with more it begins anew
# From the calibration runs of benchmarks/forecast.py; its test runs are others
_Z = 1.9  # standard deviations to each side
_CHANGE = 0.3  # of what is left, at the beginning: paces change in ways that no past shows
_FIRST_LOW, _FIRST_HIGH = 0.62, 1.35  # times what is left, while the first turn with loops inside is not over


@dataclass(frozen=True)
class Loop:
    """One loop under way, as seen from outside; `left` is None where its length is not known."""

    place: str
    name: str
    taken: int | None
    left: int | None
    kind: str = ""
    endless: int | None = None  # the line of a `while` around it
    follow: int = 0  # loops that come after it
    rough: bool = False  # its count may be behind

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Loop:
        """Return the loop of a kernel's look; what is no count counts as unknown."""
        taken, left, endless = (_count(told.get(name)) for name in ("taken", "left", "endless"))
        texts = [plain(str(told.get(name) or "")[:100]) for name in ("place", "name", "kind")]
        follow, rough = _count(told.get("follow")) or 0, told.get("rough") is True
        return cls(texts[0], texts[1], taken, left, texts[2], endless, follow, rough)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 10**15 else None


@dataclass(frozen=True)
class Forecast:
    """Seconds left of a run, and about 90 % bounds; `ran` when that was said. Turns are the outermost loop's."""

    ran: float
    left: float
    low: float
    high: float
    name: str
    done: int
    total: int
    seconds_per_turn: float
    follow: int = 0  # loops that come after it and are not in it
    sd: float = 0.0  # of `left`, by its past

    @property
    def fraction(self) -> float:
        """The share of the predicted time that is over."""
        return self.ran / (self.ran + self.left) if self.ran + self.left > 0 else 0.0


@dataclass(frozen=True)
class NoForecast:
    """There is none, and why."""

    why: str


class Series:
    """Seconds per turn of one kind, in blocks of turns that came one after the other."""

    def __init__(self, seconds: float = 0.0) -> None:
        """Keep blocks of `seconds` or ten turns at least."""
        self._seconds = seconds
        self._blocks: _Blocks = []
        self._size = 0.0  # turns that a block has at least
        self._open = (0.0, 0.0)

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, turns: float, seconds: float) -> None:
        """Take in some turns and how long they took together."""
        self._open = (self._open[0] + turns, self._open[1] + seconds)
        short = self._open[1] < self._seconds and self._open[0] < _BLOCK_TURNS
        if short or self._open[0] < self._size:
            return
        self._blocks.append(self._open)
        self._open = (0.0, 0.0)
        if len(self._blocks) > _BLOCKS:
            pairs = zip(self._blocks[::2], self._blocks[1::2], strict=False)
            odd = self._blocks[-1:] if len(self._blocks) % 2 else []
            self._blocks = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs] + odd
            self._size = sum(turns for turns, _ in self._blocks) / len(self._blocks)

    def pace(self, ahead: float = 0.0) -> Pace | None:
        """Return the mean for the next `ahead` turns; None before the first."""
        blocks = [*self._blocks, self._open] if self._open[0] and not self._blocks else self._blocks
        if not blocks:
            return None
        return _pace(*_settled(_warm(blocks)), ahead)


@dataclass(frozen=True)
class Pace:
    """Seconds per turn: mean, its standard error, and the variance that one turn adds to a sum."""

    mean: float
    error: float
    variance: float


def _warm(blocks: _Blocks) -> _Blocks:
    """Leave out a beginning that is slower than what follows; once there is one, down to where it fades out."""
    sure = True
    while len(blocks) > 1:
        half = len(blocks) // 2
        later = sorted(seconds / turns for turns, seconds in blocks[half:])
        middle = later[len(later) // 2]
        spread = sorted(abs(rate - middle) for rate in later)[len(later) // 2]
        slow = _WARM * middle + 4 * spread if sure else _FADING * middle + spread
        begin = next((at for at in range(half) if blocks[at][1] / blocks[at][0] <= slow), half)
        if not begin or (not sure and len(blocks) - begin < 4):
            break
        blocks, sure = blocks[begin:], False
    return blocks


@dataclass(frozen=True)
class _Fit:
    """What explains the blocks best: two paces, split at `at`, or one that drifts by `slope` a turn."""

    at: int
    score: float  # squared standard errors
    slope: float = 0.0
    slope_error: float = 0.0


def _settled(blocks: _Blocks) -> tuple[_Blocks, _Fit | None]:
    """Leave out what came before the last change of pace; return the drift there is in the rest, if any."""
    for _ in range(6):
        if len(blocks) < 2 * _SIDE:
            break
        split, line = _fits(blocks)
        if line.score >= max(split.score, _DRIFTING**2):
            return blocks, line
        if split.score < _SIGNIFICANT**2:
            break
        blocks = blocks[split.at :]
    return blocks, None


def _fits(blocks: _Blocks) -> tuple[_Fit, _Fit]:
    rates = [seconds / turns for turns, seconds in blocks]
    turns_all = sum(turns for turns, _ in blocks)
    seconds_all = sum(seconds for _, seconds in blocks)
    mean = seconds_all / turns_all
    whole = sum(turns * (rate - mean) ** 2 for (turns, _), rate in zip(blocks, rates, strict=True))
    best, at, left = 0.0, 0, (0.0, 0.0)
    for index in range(len(blocks) - _SIDE):
        left = (left[0] + blocks[index][0], left[1] + blocks[index][1])
        if index + 1 < _SIDE:
            continue
        right = turns_all - left[0], seconds_all - left[1]
        gap = left[1] / left[0] - right[1] / right[0]
        between = left[0] * right[0] / turns_all * gap * gap
        if between > best and abs(gap) > _SMALLEST * mean:
            best, at = between, index + 1
    split = _Fit(at, _score(best, whole, rates, [at]) if at else 0.0)
    return split, _line(blocks, rates, whole)


def _line(blocks: _Blocks, rates: list[float], whole: float) -> _Fit:
    """Fit a pace that changes by so much with each turn."""
    turns_all = sum(turns for turns, _ in blocks)
    mean = sum(seconds for _, seconds in blocks) / turns_all
    places, passed = [], 0.0
    for turns, _ in blocks:
        places.append(passed + turns / 2)
        passed += turns
    middle = sum(turns * place for (turns, _), place in zip(blocks, places, strict=True)) / turns_all
    spread = sum(turns * (place - middle) ** 2 for (turns, _), place in zip(blocks, places, strict=True))
    both = sum(
        turns * (place - middle) * (rate - mean) for (turns, _), place, rate in zip(blocks, places, rates, strict=True)
    )
    if spread <= 0 or len(blocks) < 4 * _SIDE or abs(both / spread) * turns_all < _SMALLEST * mean:
        return _Fit(0, 0.0)
    slope = both / spread
    straight = [rate - slope * (place - middle) for rate, place in zip(rates, places, strict=True)]
    score = _score(both * both / spread, whole, straight, [])
    return _Fit(0, score, slope, abs(slope) / math.sqrt(score) if score > 0 else 0.0)


def _score(explained: float, whole: float, rates: list[float], cuts: list[int]) -> float:
    """Return the squared standard errors of what is explained; noise that lasts over blocks counts for more."""
    rest = max(0.0, whole - explained)
    if rest <= 1e-12 * whole:
        return math.inf if explained > 0 else 0.0
    parts = [rates[a:b] for a, b in zip([0, *cuts], [*cuts, len(rates)], strict=True)]
    lasting = _lasting(parts)
    return explained / (rest / max(1, len(rates) - 2)) / lasting


def _lasting(parts: list[list[float]]) -> float:
    """Return by how much the variance of a mean is larger than for independent blocks."""
    products = squares = 0.0
    count = 0
    for part in parts:
        mean = sum(part) / len(part)
        products += sum((a - mean) * (b - mean) for a, b in pairwise(part))
        squares += sum((a - mean) ** 2 for a in part)
        count += len(part)
    share = products / squares + 1 / count if squares > 0 else 0.0
    share = min(0.9, max(-0.4, share))
    return (1 + share) / (1 - share)


def _pace(blocks: _Blocks, line: _Fit | None, ahead: float) -> Pace:
    turns_all = sum(turns for turns, _ in blocks)
    mean = sum(seconds for _, seconds in blocks) / turns_all
    rates = [seconds / turns for turns, seconds in blocks]
    slope = line.slope if line is not None else 0.0
    deviations = []
    passed = 0.0
    for (turns, _), rate in zip(blocks, rates, strict=True):
        deviations.append(rate - mean - slope * (passed + turns / 2 - turns_all / 2))
        passed += turns
    count = len(blocks)
    squares = sum(turns * one * one for (turns, _), one in zip(blocks, deviations, strict=True))
    prior = 0.15 * mean  # of a block, where there are too few to tell
    per_block = (squares / turns_all * count + 2 * prior * prior) / (count + 1)
    per_block *= _lasting([deviations]) if count > 2 else 1.0
    error = math.sqrt(per_block / count)
    if line is None:
        return Pace(mean, error, per_block * turns_all / count)
    reach = min(ahead, 3 * turns_all)  # a drift is not believed for ever
    change = slope * (turns_all / 2 + reach / 2 + max(0.0, ahead - reach) / 2)
    change = max(-0.4 * mean, min(0.6 * mean, change))
    drifted = line.slope_error * (turns_all + reach) / 2
    return Pace(mean + change, math.hypot(error, drifted), per_block * turns_all / count)


@dataclass
class _Level:
    """One place where a loop runs, on one path of loops around it."""

    pace: Series = field(default_factory=lambda: Series(_BLOCK_SECONDS))  # of whole turns
    rest: Series = field(default_factory=Series)  # of turns, without the main loop inside them
    after: dict[str, Series] = field(default_factory=dict)  # from the end of a loop inside to the end of the turn
    left: int | None = None
    total: int = 0
    seconds: float = 0.0  # of turns that were seen to end
    turns: int = 0  # that were seen to end, over all instances
    whole: int = 0  # of them, those with the main loop inside
    since: float = 0.0  # when the turn under way began
    inside: dict[str, float] = field(default_factory=dict)  # seconds in loops inside, in the turn under way
    ended: dict[str, float] = field(default_factory=dict)  # when each of them was seen last
    spent: dict[str, float] = field(default_factory=dict)  # the same over all turns
    instances: int = 0
    partly: bool = False  # the turn under way was seen from its middle

    @property
    def done(self) -> int:
        """Turns of this instance that are over."""
        return max(0, self.total - self.left - 1) if self.left is not None else 0

    @property
    def main(self) -> str | None:
        """The loop inside that takes the most time."""
        known = {**self.spent}
        for place, seconds in self.inside.items():
            known[place] = known.get(place, 0.0) + seconds
        return max(known, key=lambda place: known[place]) if known else None


class Progress:
    """Watches one run: `see` where its loops stand now and then, ask for the forecast at any time."""

    def __init__(self) -> None:
        self._levels: dict[tuple[str, ...], _Level] = {}
        self._stack: tuple[Loop, ...] = ()
        self._ran = 0.0
        self._between = 1.0  # seconds from look to look
        self._moved = False  # just now
        self._again: str | None = None  # the outermost loop ended once and began again

    @property
    def ran(self) -> float:
        """Seconds the run had run at the last look."""
        return self._ran

    def moved(self) -> None:
        """The run goes on elsewhere, maybe from an earlier place: what is seen next is no loop that began again."""
        self._stack, self._again, self._moved = (), None, True
        for level in self._levels.values():
            level.instances = 0

    def turns(self) -> tuple[int, int, float] | None:
        """Return turns over, all of them, and seconds each took: of the outermost counted loop, as last seen.

        Of several one after the other, the one that took the most time. None if no turn was seen to end.
        """
        outer = [level for path, level in self._levels.items() if len(path) == 1 and level.turns]
        if not outer:
            return None
        level = max(outer, key=lambda one: one.seconds)
        return level.done, level.total, level.seconds / level.turns

    def see(self, ran: float, loops: Sequence[Loop]) -> None:
        """Take a look: `ran` seconds of the run, without pauses, and its loops, outermost first.

        A time that is no number or goes backwards is left out.
        """
        if not math.isfinite(ran) or ran <= self._ran or ran > 1e10:
            return
        passed = ran - self._ran
        self._between += 0.1 * (min(passed, 60.0) - self._between)
        loops = self._carried(loops)
        if len(self._levels) > _PLACES:
            self._levels.clear()
        counted: list[Loop] = []
        for loop in loops:
            if loop.left is None:
                break
            counted.append(loop)
        self._follow(tuple(counted), ran, passed)
        self._stack, self._ran, self._moved = tuple(loops), ran, False

    def _carried(self, loops: Sequence[Loop]) -> list[Loop]:
        """Return the loops, one that can't be seen into just now where it was seen last."""
        found, same = [], True
        for loop, old in zip_longest(loops, self._stack[: len(loops)]):
            same = same and old is not None and old.place == loop.place
            if same and old.left is not None and (loop.left is None or (loop.rough and loop.left > old.left)):
                loop = replace(loop, taken=old.taken, left=old.left)
            same = same and loop.left == old.left
            found.append(loop)
        return found

    def _follow(self, counted: tuple[Loop, ...], ran: float, passed: float) -> None:
        old = {tuple(one.place for one in self._stack[: at + 1]): one for at, one in enumerate(self._stack)}
        same = True  # the loops around are in the instance and turn they were in
        for at, loop in enumerate(counted):
            path = tuple(one.place for one in counted[: at + 1])
            level = self._levels.setdefault(path, _Level())
            assert loop.left is not None
            before = level.left if same and path in old else None
            continues = before is not None and loop.left <= before
            if continues:
                assert before is not None
                self._turns(level, before - loop.left, ran)
                same = before == loop.left
            else:
                if at == 0 and level.instances:
                    self._again = loop.name
                level.partly = self._moved or loop.taken not in (None, 1)
                level.instances += 1
                level.since, level.inside, level.ended = ran, {}, {}
                level.total = loop.left + (loop.taken if loop.taken is not None else 1)
                same = False
            level.left = loop.left
            level.total = max(level.total, loop.left + 1)
            inner = counted[at + 1].place if at + 1 < len(counted) else None
            if inner is not None:
                was = (*path, inner) in old
                level.inside[inner] = level.inside.get(inner, 0.0) + (passed if same and was else passed / 2)
                level.ended[inner] = ran
            elif same:
                for place in [place for place in level.inside if (*path, place) in old]:
                    level.inside[place] += passed / 2
                    level.ended[place] = ran - passed / 2

    def _turns(self, level: _Level, turns: int, ran: float) -> None:
        """Some turns of a loop are over."""
        if not turns:
            return
        if level.partly:
            level.partly, level.since, level.inside, level.ended = False, ran, {}, {}
            return
        seconds, main = ran - level.since, level.main
        level.pace.add(turns, seconds)
        if turns == 1 and main is not None and main in level.inside:
            level.rest.add(1, max(0.0, seconds - level.inside[main]))
            level.whole += 1
        for place, ended in level.ended.items():
            if turns == 1:
                level.after.setdefault(place, Series()).add(1, max(0.0, ran - ended - self._between))
        for place, spent in level.inside.items():
            level.spent[place] = level.spent.get(place, 0.0) + spent
        level.turns += turns
        level.seconds += seconds
        level.since, level.inside, level.ended = ran, {}, {}

    def forecast(self) -> Forecast | NoForecast:
        """Say what is left of the run, or why that can't be said."""
        why = self._why_not()
        if why is not None:
            return NoForecast(why)
        paths = [tuple(one.place for one in self._stack[: at + 1]) for at in range(len(self._stack))]
        paths = [path for path in paths if path in self._levels and self._levels[path].left is not None]
        counted = 0
        while counted < len(self._stack) and self._stack[counted].left is not None:
            counted += 1
        paths = paths[:counted]
        depth = 0  # of the loops that are told apart
        while depth + 1 < len(paths) and self._apart(paths[depth], self._stack[depth + 1].place):
            depth += 1
        counts: list[tuple[Series, float]] = []
        first = False
        for at in range(depth + 1):
            level = self._levels[paths[at]]
            assert level.left is not None
            self._add(counts, paths[at], float(level.left))
            first = first or (at < depth and not level.whole and level.left > 0)
            counts += self._of_turn(paths, at, depth)
        sums = _sum(counts)
        if sums is None:
            return NoForecast("no turn of the loop is over yet")
        if sums[0] > _MOST_SECONDS:
            return NoForecast("at this pace it takes more than ten years")
        return self._told(*sums, first=first)

    def _told(self, left: float, variance: float, *, first: bool) -> Forecast:
        sd = math.sqrt(variance)
        change = _CHANGE * math.sqrt(left / (left + self._ran))
        wide = math.hypot(_Z * sd, change * left)
        low, high = left - wide, left + wide
        if first:
            low, high = min(low, _FIRST_LOW * left), max(high, _FIRST_HIGH * left)
        outer, loop = self._levels[(self._stack[0].place,)], self._stack[0]
        per_turn = (self._ran + left) / outer.total if outer.total else 0.0
        low, high = max(0.0, min(low, left)), max(min(high, _MOST_SECONDS), left)
        turns = outer.done, outer.total, per_turn
        return Forecast(self._ran, left, low, high, loop.name, *turns, loop.follow, sd)

    def _why_not(self) -> str | None:
        if not self._stack:
            return "no loop is under way"
        outer = self._stack[0]
        endless = next((one.endless for one in self._stack if one.endless is not None), None)
        if outer.left is None:
            return f"the loop of {outer.name} ({outer.kind or 'an iterator'}) has no known length"
        if endless is not None:
            return f"the `while` of line {endless} goes round, how often is not known"
        if self._again is not None:
            return f"the loop of {self._again} runs again, how often is not known"
        if self._ran < _LEAST_SECONDS:
            return f"it has run for less than {_LEAST_SECONDS:g} s"
        return None

    def _apart(self, path: tuple[str, ...], inner: str) -> bool:
        """Tell whether turns of a loop are made of the loop inside it: it is in each, and long enough to be seen."""
        level = self._levels[path]
        main = level.main
        if main is None:
            return False
        if level.turns == 0:
            return inner in level.inside and (*path, inner) in self._levels
        long = level.spent.get(main, 0.0) / level.turns >= _SHORT * self._between
        return long and level.whole >= 0.8 * level.turns and (*path, main) in self._levels

    def _add(self, counts: list[tuple[Series, float]], path: tuple[str, ...], turns: float) -> None:
        """Add whole turns of a loop, as what they are made of."""
        level = self._levels[path]
        main = level.main
        if main is not None and self._apart(path, main):
            inner = (*path, main)
            if len(self._levels[inner].pace):
                self._add(counts, inner, turns * self._levels[inner].total)
                if len(level.rest):
                    counts.append((level.rest, turns))
                return
        counts.append((level.pace, turns))

    def _of_turn(self, paths: list[tuple[str, ...]], at: int, depth: int) -> list[tuple[Series, float]]:
        """Return what is left of the turn under way at one level, without what its inner loops that run have left."""
        level = self._levels[paths[at]]
        if at < depth:
            after = level.after.get(self._stack[at + 1].place)
            return [(after, 1.0)] if after is not None else []
        elapsed = self._ran - level.since
        last = max(level.ended, key=lambda place: level.ended[place]) if level.ended else None
        if last is not None and last in level.after:
            pace = level.after[last].pace()
            since = self._ran - level.ended[last]
            if pace is not None and pace.mean > 0:
                return [(level.after[last], max(0.0, 1 - since / pace.mean))]
        counts: list[tuple[Series, float]] = []
        self._add(counts, paths[at], 1.0)
        whole = _sum(counts)
        if whole is None or whole[0] <= 0:
            return []
        share = max(0.0, 1 - elapsed / whole[0])
        return [(series, share * turns) for series, turns in counts]


def _sum(counts: list[tuple[Series, float]]) -> tuple[float, float] | None:
    """Return mean and variance of so many turns of each kind; None if one was never seen."""
    together: dict[int, tuple[Series, float]] = {}
    for series, turns in counts:
        together[id(series)] = (series, together.get(id(series), (series, 0.0))[1] + turns)
    mean = variance = 0.0
    for series, turns in together.values():
        if turns <= 0:
            continue
        pace = series.pace(turns)
        if pace is None:
            return None
        mean += turns * pace.mean
        variance += (turns * pace.error) ** 2 + turns * pace.variance
    return mean, variance


def words(view: Mapping[str, Any], currency: str, left_seconds: float) -> tuple[str, str]:
    """Return a forecast (JSON of the plane) in words, and its warning or nothing: `forecast $0.42 (0.40 to 0.47), ...`.

    `left_seconds` is what is left of it by now.
    """
    if view.get("why"):
        return f"no forecast: {view['why']}", ""
    nano = [int(view.get(name) or 0) for name in ("total_nano", "low_nano", "high_nano")]
    size = max(nano)
    places = 2 if size >= NANO // 10 else 4 if size >= NANO // 1000 else None
    sign = format_money(0, currency, 0)[:-1]
    total, low, high = (format_money(one, currency, places) for one in nano)
    text = f"forecast {total} ({low.removeprefix(sign)} to {high.removeprefix(sign)}), {about(left_seconds)} left"
    follow = int(view.get("follow") or 0)
    if follow:
        text += f", without the {'loop that follows' if follow == 1 else f'{follow} loops that follow'}"
    reached = view.get("budget_seconds")
    return text, f"will reach the budget in about {about(float(reached))}" if reached is not None else ""


def about(seconds: float) -> str:
    """Return a time no finer than a forecast is: `2 h 10 min`, `12 min`, `40 s`."""
    minutes = round(max(0.0, seconds) / 60)
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} s"
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
