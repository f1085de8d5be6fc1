"""How far off a run's predicted total is, beside tqdm's rule and the mean rate, by kind of run.

    python benchmarks/forecast.py [--runs 60] [--calibrate]
    python benchmarks/forecast.py --real 6          # real torch trainings in cells with hooks, about 40 s each

Runs are made up (seeded), looked at once a second as a kernel's loops are; the figures are exact, nothing is timed.
tqdm is the real one under a turned clock, over all train steps of the run in one bar: its best case. The calibration's
runs have other seeds than the test's. Error: |predicted - true| / true total, at 10 and 50 % of the true time.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from tqdm import tqdm

from ciuic_jupyter.core.forecast import Forecast, Loop, Progress
from ciuic_jupyter.resume.engine import Engine

AT = (0.1, 0.5)
TEST, CALIBRATION = 1_000_000, 2_000_000  # seeds begin there
Stack = tuple[tuple[str, int, int], ...]  # place, items taken, items left


@dataclass
class Shape:
    """What a made-up run is like."""

    epochs: int
    steps: int
    step: float  # seconds
    noise: float  # of ln(step)
    lasting: float  # correlation of the noise from step to step
    compile: float = 0.0  # seconds of the first step more
    slow_steps: int = 0  # at the beginning
    slow: float = 1.0  # times as long, falling to 1
    validation: int = 0  # steps at the end of each epoch
    validation_step: float = 0.0
    checkpoint: float = 0.0  # seconds at the end of each epoch
    every: int = 0  # steps between evaluations inside the one loop
    evaluation: float = 0.0  # seconds of one
    drift: float = 0.0  # share the pace changes by over the run
    throttled_at: float = 2.0  # share of the steps
    throttled: float = 1.0  # times as long from then on
    cold: float = 1.0  # times as long in the first epoch
    stalls: float = 0.0  # chance of a step to stall


def shape(rng: random.Random, *, nested: bool | None = None, epochs: tuple[int, int] = (10, 40)) -> Shape:
    step = math.exp(rng.uniform(math.log(0.03), math.log(1.5)))
    seconds = rng.uniform(400, 2400)
    nested = rng.random() < 0.5 if nested is None else nested
    count = rng.randint(*epochs) if nested else 1
    steps = max(8, round(seconds / step / count))
    return Shape(count, steps, step, rng.uniform(0.03, 0.25), rng.choice((0.0, 0.5, 0.9)))


def _plain(rng: random.Random) -> Shape:
    return shape(rng)


def _warm_up(rng: random.Random) -> Shape:
    made = shape(rng)
    made.compile, made.slow_steps, made.slow = rng.uniform(10, 30), rng.randint(5, 60), rng.uniform(1.5, 4)
    made.slow_steps = min(made.slow_steps, made.epochs * made.steps // 25)
    return made


def _validation(rng: random.Random, epochs: tuple[int, int] = (10, 40)) -> Shape:
    made = shape(rng, nested=True, epochs=epochs)
    made.validation = max(4, round(made.steps * rng.uniform(0.1, 0.4)))
    made.validation_step = made.step * rng.uniform(0.3, 0.6)
    made.checkpoint = rng.choice((0.0, rng.uniform(0.5, 6)))
    return made


def _few_epochs(rng: random.Random) -> Shape:
    return _validation(rng, (3, 7))


def _evaluation(rng: random.Random) -> Shape:
    made = shape(rng, nested=False)
    made.every = max(2, made.steps // rng.randint(20, 60))
    made.evaluation = made.every * made.step * rng.uniform(0.1, 0.4)
    return made


def _stalls(rng: random.Random) -> Shape:
    made = shape(rng)
    made.stalls = 0.01
    return made


def _drift(rng: random.Random) -> Shape:
    made = shape(rng)
    made.drift = rng.choice((-1, 1)) * rng.uniform(0.1, 0.4)
    return made


def _throttled(rng: random.Random) -> Shape:
    made = shape(rng)
    made.throttled_at, made.throttled = rng.uniform(0.15, 0.8), rng.uniform(1.15, 1.6)
    return made


def _cold(rng: random.Random) -> Shape:
    made = shape(rng, nested=True)
    made.cold = rng.uniform(1.2, 1.6)
    return made


def _all(rng: random.Random) -> Shape:
    made, warm, late, cold = _validation(rng), _warm_up(rng), _throttled(rng), _cold(rng)
    made.compile, made.slow_steps, made.slow = warm.compile, min(30, made.steps), warm.slow
    made.throttled_at, made.throttled, made.cold, made.stalls = late.throttled_at, late.throttled, cold.cold, 0.002
    return made


KINDS: dict[str, Callable[[random.Random], Shape]] = {
    "plain": _plain,
    "warm-up": _warm_up,
    "validation": _validation,
    "validation, 3-7 epochs": _few_epochs,
    "evaluation in the loop": _evaluation,
    "drift": _drift,
    "stalls": _stalls,
    "cold cache": _cold,
    "throttled later": _throttled,
    "all together": _all,
}


def parts(run: Shape, rng: random.Random) -> Iterator[tuple[float, Stack, bool]]:
    """Yield a run as it goes: seconds, the loops under way, whether it is a train step that ends then."""
    whole, number, noise = run.epochs * run.steps, 0, 0.0
    keep = math.sqrt(1 - run.lasting**2)
    for epoch in range(run.epochs):
        outer: Stack = (("epochs", epoch + 1, run.epochs - epoch - 1),) if run.epochs > 1 else ()
        for step in range(run.steps):
            noise = run.lasting * noise + keep * rng.gauss(0, run.noise)
            seconds = run.step * math.exp(noise - run.noise**2 / 2) * (1 + run.drift * number / whole)
            seconds *= run.throttled if number >= run.throttled_at * whole else 1.0
            seconds *= run.cold if epoch == 0 else 1.0
            if number < run.slow_steps:
                seconds *= 1 + (run.slow - 1) * (1 - number / run.slow_steps)
            seconds += run.compile if number == 0 else 0.0
            if rng.random() < run.stalls:
                seconds += run.step * 10 * min(50.0, rng.paretovariate(1.5))
            number += 1
            stack = (*outer, ("steps", step + 1, run.steps - step - 1))
            if run.every and number % run.every == 0:
                yield seconds, stack, False
                seconds = run.evaluation * rng.uniform(0.95, 1.05)
            yield seconds, stack, True
        for step in range(run.validation):
            seconds = run.validation_step * math.exp(rng.gauss(0, run.noise))
            yield seconds, (*outer, ("validation", step + 1, run.validation - step - 1)), False
        if run.checkpoint:
            yield run.checkpoint * rng.uniform(0.9, 1.3), outer, False


@dataclass
class Guess:
    """What was said at one moment, and the truth."""

    now: float
    truth: float
    ours: Forecast | None
    bar: float
    mean: float


def play(run: Shape, rng: random.Random) -> list[Guess]:
    """Return what each way says at each moment of AT."""
    told = list(parts(run, rng))
    whole, total = run.epochs * run.steps, sum(seconds for seconds, _, _ in told)
    now, done, wake, found = 0.0, 0, 1.0, list[Guess]()
    progress = Progress()
    bar = tqdm(total=whole, file=io.StringIO(), mininterval=0.1)
    bar._time = lambda: now
    bar.start_t = bar.last_print_t = 0.0
    at = [share * total for share in AT]
    for seconds, stack, trained in told:
        end = now + seconds
        while wake <= end or (at and at[0] <= end):
            moment = min(wake, at[0]) if at else wake
            progress.see(moment, [Loop(place, place, taken, left) for place, taken, left in stack])
            if at and moment == at[0]:
                at.pop(0)
                said = progress.forecast()
                ours = said if isinstance(said, Forecast) else None
                found.append(Guess(moment, total, ours, _bar_total(bar, moment), moment * whole / max(1, done)))
            if moment == wake:
                wake += 1 + rng.uniform(0, 0.05)
        now = end
        if trained:
            done += 1
            bar.update(1)
    bar.disable = True
    return found


def _bar_total(bar: tqdm[None], now: float) -> float:
    """What a bar of tqdm shows: elapsed, and what is left at the rate of its moving average."""
    shown = bar.format_dict
    rate = shown["rate"] or (bar.n / now if bar.n else 0.0)
    return now + (bar.total - bar.n) / rate if rate else math.inf


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))] if ordered else math.nan


def errors(guesses: list[Guess], total: Callable[[Guess], float]) -> tuple[float, float]:
    """Return median and 90th percentile."""
    found = [abs(total(one) - one.truth) / one.truth for one in guesses]
    return quantile(found, 0.5), quantile(found, 0.9)


def _ours(guess: Guess) -> float:
    return guess.now + guess.ours.left if guess.ours is not None else math.inf


def _inside(guess: Guess) -> bool:
    said = guess.ours
    return said is not None and said.low <= guess.truth - guess.now <= said.high


def _width(guess: Guess) -> float:
    said = guess.ours
    return (said.high - said.low) / 2 / guess.truth if said is not None else math.inf


def calibrate(runs: int) -> None:
    """Print, by kind, the quantiles that the constants of core.forecast are taken from."""
    print("true/predicted time left: 5 % and 95 % quantile; standard deviations that cover 90 %")
    for kind, make in KINDS.items():
        for at, share in enumerate(AT):
            played = [play(make(rng), rng)[at] for rng in _seeded(CALIBRATION, kind, runs)]
            known = [(one.truth - one.now, one.ours) for one in played if one.ours is not None]
            ratios = [left / said.left for left, said in known]
            scores = [abs(left - said.left) / max(1e-9, said.sd) for left, said in known]
            low, high = quantile(ratios, 0.05), quantile(ratios, 0.95)
            print(f"  {kind:24} {share:4.0%}  {low:5.2f} {high:5.2f}   {quantile(scores, 0.9):5.2f}")


REAL = {
    "steps": """
for x, y in loader(500):
    step(x, y)
    bar.update(1)
""",
    "epochs with validation": """
for epoch in range(12):
    for x, y in loader(40):
        step(x, y)
        bar.update(1)
    with torch.no_grad():
        for x, y in loader(40): model(x)
""",
    "slow first steps": """
for number, (x, y) in enumerate(loader(500)):
    for _ in range(3 if number < 20 else 1): step(x, y)
    bar.update(1)
""",
}
_PREPARED = """
import torch
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 512))
optimizer = torch.optim.AdamW(model.parameters())
data = TensorDataset(torch.randn(1 << 16, 512), torch.randn(1 << 16, 512))
def loader(count):
    part = torch.utils.data.Subset(data, range(128 * count))
    return DataLoader(part, batch_size=128, shuffle=True)
def step(x, y):
    for _ in range(3):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def real(name: str, shell: Any, engine: Engine) -> list[Guess]:
    """Run one training in this process, looked at from another thread; return what was said at each moment of AT."""
    code, count = REAL[name], 480 if "epoch" in REAL[name] else 500
    shell.user_ns["bar"] = bar = tqdm(total=count, file=io.StringIO())
    over, begun = threading.Event(), time.monotonic()
    said: list[tuple[float, Forecast | None, float, float]] = []

    def look() -> None:
        progress = Progress()
        while not over.wait(1.0):
            told = engine.looker.look()
            now = told["at"] - begun
            progress.see(now, [Loop.of(one) for one in told["loops"]])
            ours = progress.forecast()
            mean = now * count / max(1, bar.n)
            said.append((now, ours if isinstance(ours, Forecast) else None, _bar_total(bar, now), mean))

    watcher = threading.Thread(target=look)
    watcher.start()
    shell.run_cell(code, store_history=False).raise_error()
    truth = time.monotonic() - begun
    over.set()
    watcher.join()
    bar.disable = True
    at = [min(said, key=lambda one: abs(one[0] - share * truth)) for share in AT]
    return [Guess(now, truth, ours, by_bar, mean) for now, ours, by_bar, mean in at]


def measure_real(runs: int) -> None:
    """Print the errors of real runs, one line a run and moment."""
    shell = InteractiveShell.instance()
    engine = Engine()
    engine.install(shell)
    shell.run_cell(_PREPARED, store_history=False).raise_error()
    print(f"  {'':30}  at   true s   ours   tqdm   mean rate   inside")
    for number in range(runs):
        name = list(REAL)[number % len(REAL)]
        for share, one in zip(AT, real(name, shell, engine), strict=True):
            wrong = [abs(total - one.truth) / one.truth for total in (_ours(one), one.bar, one.mean)]
            text = "  ".join(f"{error:6.3f}" for error in wrong)
            print(f"  {name:30} {share:4.0%}  {one.truth:6.1f}  {text}   {_inside(one)}", flush=True)


def _seeded(begin: int, kind: str, runs: int) -> Iterator[random.Random]:
    offset = list(KINDS).index(kind) * 10_000
    return (random.Random(begin + offset + number) for number in range(runs))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=60, help="of each kind")
    arguments.add_argument("--calibrate", action="store_true")
    arguments.add_argument("--real", type=int, default=0, help="so many real trainings instead")
    chosen = arguments.parse_args()
    if chosen.real:
        measure_real(chosen.real)
        return
    if chosen.calibrate:
        calibrate(chosen.runs)
        return
    lost = []
    print(f"{chosen.runs} runs a kind. Error of the total: median (p90). In the bounds; half their width / the total.")
    print(f"  {'':24}   at   ours           tqdm           mean rate      inside  width")
    for kind, make in KINDS.items():
        played = [play(make(rng), rng) for rng in _seeded(TEST, kind, chosen.runs)]
        for at, share in enumerate(AT):
            mine = [guesses[at] for guesses in played]
            ours, bar, mean = errors(mine, _ours), errors(mine, lambda one: one.bar), errors(mine, lambda one: one.mean)
            inside = sum(_inside(one) for one in mine) / len(mine)
            width = quantile([_width(one) for one in mine], 0.5)
            text = "  ".join(f"{middle:5.3f} ({far:5.3f})" for middle, far in (ours, bar, mean))
            print(f"  {kind:24} {share:4.0%}   {text}   {inside:4.2f}   {width:5.3f}")
            if ours[1] > bar[1]:
                lost.append(f"{kind} at {share:.0%}")
    print(f"tqdm's p90 is lower in: {', '.join(lost) or 'none'}")
    sys.exit(0)


if __name__ == "__main__":
    main()
