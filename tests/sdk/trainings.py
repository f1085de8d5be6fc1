"""A real training, as a script would have it in a module of its own."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import nn


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), 1e-2)


def epoch_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    total = 0.0
    for _ in range(4):
        x = torch.randn(16, 4)
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total


def train(epochs: int, gate: str, job: Any) -> list[float]:
    """Train; after the third epoch wait, at one boundary after the other, until the file `gate` is there."""
    stood = job.restored
    model, optimizer = stood.get("made") or make()
    history = stood.get("history", [])
    for epoch in range(stood.get("step", 0), epochs):
        history.append(epoch_of(model, optimizer))
        print(f"epoch {epoch + 1} loss {history[-1]:.6f}")  # noqa: T201
        job.checkpoint_callback(epoch + 1, history=history, made=(model, optimizer))
        if epoch == 2:
            open(f"{gate}-reached", "w").close()
        while epoch == 2 and not os.path.exists(gate):
            time.sleep(0.02)
            job.checkpoint_callback(epoch + 1, history=history, made=(model, optimizer))
    return history


def fails() -> None:
    print("about to fail")  # noqa: T201
    raise ValueError("no such layer")


class Never:
    """The job of a training that nobody pauses."""

    restored: dict[str, Any] = {}  # noqa: RUF012 - as it is read

    def checkpoint_callback(self, *_: Any, **__: Any) -> None:
        pass
