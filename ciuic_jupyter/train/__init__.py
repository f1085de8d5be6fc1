"""Beside the GPU, imported by users' cells: callbacks that let a loop inside a library be paused.

    Trainer(..., callbacks=[ciuic_jupyter.train.transformers_callback()])     transformers
    Trainer(..., callbacks=[ciuic_jupyter.train.lightning_callback()])        Lightning
    model.fit(..., callbacks=[ciuic_jupyter.train.keras_callback()])          Keras 3 on torch
    fit(..., job)                                                             a loop of your own in a module: `Job`
    stage("pretrained")                                                       saved here, with no pause: `stage`

Nothing of these libraries is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.train.job import Job
from ciuic_jupyter.train.stages import stage

__all__ = ["Job", "keras_callback", "lightning_callback", "stage", "transformers_callback"]


def transformers_callback() -> Any:
    """Return a `TrainerCallback` for transformers: a pause at the begin of any step. UsageError without the library."""
    return _make("transformers", "huggingface", "TransformersCallback")


def lightning_callback() -> Any:
    """Return a `Callback` for Lightning: a pause at the begin of any epoch. UsageError without the library."""
    return _make("lightning", "lightning", "LightningCallback")


def keras_callback() -> Any:
    """Return a `Callback` for Keras 3 on torch: a pause at the begin of any epoch. UsageError without the library."""
    return _make("keras", "keras", "KerasCallback")


def _make(library: str, module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"ciuic_jupyter.train.{module}"), name)()
    except ImportError as error:
        raise UsageError(
            f"{library} can't be used here ({error}); install it with: pip install 'ciuic_jupyter[callbacks]'"
        ) from error
