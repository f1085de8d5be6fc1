"""What counting FLOPs costs a training step on a CPU: plain, counted as `--flops` does, and by torch's own counter.

python -m benchmarks.flops [ROUNDS]: in turns, best of ROUNDS (9).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ciuic_jupyter.resume import flops

BATCH = 64
WIDTHS = ((32, 100), (256, 60), (1024, 15), (2048, 5))  # of the layers, and steps of a round


def trainer(width: int, steps: int) -> Callable[[], float]:
    """Return what trains an MLP of two layers with Adam for so many steps and says the seconds of one."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 10)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(BATCH, width), torch.randint(0, 10, (BATCH,))

    def train() -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return (time.perf_counter() - begun) / steps

    return train


def counted(train: Callable[[], float]) -> float:
    """Train as a cell with `--flops` does."""
    flops.begin()
    with flops.statement(None):
        seconds = train()
    found = flops.end()
    assert found is not None and found["by"]
    return seconds


def main(rounds: int) -> None:
    """Print a row a width."""
    print("| layers of | plain | `--flops` | torch's FlopCounterMode | `--flops` adds |\n|---|---|---|---|---|")
    ways: list[tuple[Callable[[], Any], bool]] = [
        (nullcontext, False),
        (nullcontext, True),
        (lambda: FlopCounterMode(display=False), False),
    ]
    for width, steps in WIDTHS:
        train, best = trainer(width, steps), [float("inf")] * len(ways)
        for _ in range(rounds):
            for number, (around, ours) in enumerate(ways):
                with around():
                    best[number] = min(best[number], counted(train) if ours else train())
        plain, ours_, torchs = best
        cells = f"{plain * 1e6:.0f} us | {ours_ * 1e6:.0f} us | {torchs * 1e6:.0f} us"
        print(f"| {width} | {cells} | {(ours_ - plain) * 1e6:.0f} us, {ours_ / plain:.2f}x |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
