"""Training loops as a library has them: none of it is the notebook's code."""

from __future__ import annotations

from typing import Any

import torch

from ciuic_jupyter.train import Job


def by_epoch(model: Any, optimizer: Any, loader: Any, epochs: int, job: Job) -> list[float]:
    stood = job.restored
    history: list[float] = stood.get("history", [])
    for epoch in range(stood.get("step", 0), epochs):
        for x, y in loader:
            history.append(step(model, optimizer, x, y))
        job.checkpoint_callback(epoch + 1, history=history)
    return history


def by_step(model: Any, optimizer: Any, loader: Any, *, epochs: int, job: Job, **more: Any) -> list[float]:
    stood = job.restored
    history: list[float] = stood.get("history", [])
    batches = stood.get("batches")
    for epoch in range(stood.get("epoch", 0), epochs):
        batches = iter(loader) if batches is None else batches
        for x, y in batches:
            history.append(step(model, optimizer, x, y))
            job.checkpoint_callback(epoch=epoch, batches=batches, history=history)
        batches = None
    return [*history, more["last"]]


def forgetful(epochs: int, job: Job) -> None:
    for epoch in range(epochs):
        job.checkpoint_callback(epoch)


def changing(epochs: int, job: Job) -> None:
    epochs = epochs + len(job.restored)
    for epoch in range(epochs):
        job.checkpoint_callback(epoch)


def step(model: Any, optimizer: Any, x: Any, y: Any) -> float:
    loss = torch.nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
