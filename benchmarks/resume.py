"""What loop hooks cost: the same loops with and without them, in turns in one run.

    python benchmarks/resume.py

Prints, for each loop, the time of one step without hooks, with hooks, and what the hook adds; and the time to find,
record and make code for a position. The limit is a loop without hooks; its noise is the spread of its own repetitions.
"""

from __future__ import annotations

import ast
import itertools
import statistics
import time
import timeit
from typing import Any

from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.resume.engine import Engine

REPEATS = 15
NUMBERS = itertools.count(1)
LOOPS = {
    "for, 100 us steps": ("for i in range(300):\n    work()", 300),
    "while, 100 us steps": ("n = 0\nwhile n < 300:\n    n += 1\n    work()", 300),
    "for over a list, 10 us steps": ("for i in items:\n    short()", 1000),
    "for, empty body": ("for i in range(200_000):\n    pass", 200_000),
    "while, count only": ("n = 0\nwhile n < 200_000:\n    n += 1", 200_000),
    "two nested, 1000 x 20, empty": ("for i in range(1000):\n    for j in range(20):\n        pass", 20_000),
}


def burn(seconds: float) -> Any:
    def work() -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return work


class Shell:
    def __init__(self, names: dict[str, Any]) -> None:
        self.user_ns, self.ast_transformers = names, []
        self.compile = Compiler()


class Compiler:
    def __call__(self, tree: ast.Module) -> Any:
        return compile(tree, f"<ipython-input-{next(NUMBERS)}-bench>", "exec")


def inside(text: str) -> str:
    """Return `text` in a function, where loops are fastest."""
    return "def run():\n" + "\n".join("    " + line for line in text.splitlines())


def main() -> None:
    names: dict[str, Any] = {"work": burn(100e-6), "short": burn(10e-6), "items": list(range(1000))}
    engine, shell = Engine(), Shell(names)
    engine.install(shell)
    print(f"{'loop':32} {'plain':>10} {'hooked':>10} {'adds':>10} {'ratio':>7} {'noise':>7}")
    for title, (text, steps) in LOOPS.items():
        exec(compile(inside(text), "<plain>", "exec"), names)
        plain = names["run"]
        exec(shell.compile(engine.transformer.visit(ast.parse(inside(text)))), names)
        hooked = names["run"]
        times: dict[str, list[float]] = {"plain": [], "hooked": []}
        for _ in range(REPEATS):
            for kind, function in (("plain", plain), ("hooked", hooked)):
                begun = time.perf_counter()
                function()
                times[kind].append((time.perf_counter() - begun) / steps)
        low, high = min(times["plain"]), min(times["hooked"])
        noise = statistics.median(times["plain"]) / low - 1
        print(
            f"{title:32} {low * 1e9:8.0f}ns {high * 1e9:8.0f}ns {(high - low) * 1e9:8.0f}ns"
            f" {high / low:7.3f} {noise:6.1%}"
        )
    boundary(engine, shell, names)
    callbacks()


def boundary(engine: Engine, shell: Shell, names: dict[str, Any]) -> None:
    """Time what happens at one boundary three functions deep."""
    text = "\n".join(f"def f{n}(x):\n    for i in range(3):\n        f{n - 1}(x)" for n in range(1, 4))
    text = "def f0(x): pass\n" + text + "\nfor k in range(50):\n    f3(k)"
    found: list[float] = []
    recorded: list[Any] = []

    def serve(stop: Any) -> None:
        begun = time.perf_counter()
        recorded.append(stop.record())
        found.append(time.perf_counter() - begun)

    engine.serve = serve
    engine.ask()
    begun = time.perf_counter()
    exec(shell.compile(engine.transformer.visit(ast.parse(text))), names)
    total = time.perf_counter() - begun
    engine.withdraw()
    count = len(found)
    begun = time.perf_counter()
    for position in recorded[:20]:
        engine.arm(position)
    made = (time.perf_counter() - begun) / len(recorded[:20])
    print(f"\na boundary, found and recorded  {total / count * 1e6:8.0f} us   ({count} of them)")
    print(f"its record alone                {statistics.median(found) * 1e6:8.0f} us")
    print(f"code to go on from it           {made * 1e6:8.0f} us")


def callbacks() -> None:
    """Time what the callbacks of libraries do while no pause is asked for; nothing for those that are not installed."""
    from ciuic_jupyter import train

    job, state = train.Job(), {"history": []}
    timed("job.checkpoint_callback", lambda: job.checkpoint_callback(1, **state))
    for library, hook, arguments in (
        ("transformers", "on_step_begin", (None, None, None)),
        ("transformers", "on_epoch_begin", (None, None, None)),
        ("keras", "on_epoch_begin", (1,)),
        ("lightning", "on_train_epoch_start", (None, None)),
    ):
        try:
            method = getattr(getattr(train, f"{library}_callback")(), hook)
        except CiuicError:
            continue
        timed(f"{library} {hook}", lambda method=method, arguments=arguments: method(*arguments))  # type: ignore[misc]


def timed(title: str, call: Any, calls: int = 1000) -> None:
    best = min(timeit.repeat(call, number=calls, repeat=REPEATS)) / calls
    print(f"{title:32}{best * 1e9:9.0f}ns")


if __name__ == "__main__":
    main()
