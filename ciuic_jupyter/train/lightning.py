"""Lightning: a training by `trainer.fit` can be paused at the begin of any epoch.

The way back is `trainer.fit` with the arguments it had and the progress it has made: module, optimizers and schedulers
are in the checkpoint, as the objects they are. Inside an epoch Lightning can't go on exactly: its own checkpoints hold
neither the place in the data nor random numbers, and it begins the epoch's data anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from ciuic_jupyter.resume import randomness
from ciuic_jupyter.resume.iterators import NotResumable
from ciuic_jupyter.resume.progress import forget, tell
from ciuic_jupyter.resume.runtime import Library, Site, offer
from ciuic_jupyter.train.hush import Hush, Overrides, nothing

_ARGUMENTS = ("model", "train_dataloaders", "val_dataloaders", "datamodule")
_HOOKS = ("prepare_data", "setup", "configure_model", "configure_callbacks", "on_fit_start", "on_train_start")
_LOOPS = _EPOCHS, _TRAIN, _VALIDATION = "epochs of trainer.fit()", "train batches", "validation batches"
_METRICS = ("_progress_bar_metrics", "_logged_metrics", "_callback_metrics")


class LightningCallback(Callback):  # type: ignore[misc]  # no types without the library
    """Offers the begin of each epoch for a pause."""

    def __init__(self) -> None:
        """Add it to one trainer: `Trainer(..., callbacks=[...])`."""
        self._back: _Back | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        Site.library = Site.library or stage == "fit"

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        forget(*_LOOPS)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        forget(_VALIDATION)
        tell(_TRAIN, batch_idx + 1, trainer.num_training_batches)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            forget(_TRAIN)
            tell(_VALIDATION, batch_idx + 1, trainer.num_val_batches[dataloader_idx])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        forget(_TRAIN, _VALIDATION)
        tell(_EPOCHS, trainer.current_epoch + 1, trainer.max_epochs)
        if self._back is not None:
            back, self._back = self._back, None
            back.arrive()
        if not Site.calm:
            where = f"trainer.fit(), before epoch {trainer.current_epoch + 1}"
            with _without_iterators(trainer.fit_loop):
                offer(Library(where, lambda called: _Back(self, trainer, called)))

    def come_back(self, back: _Back) -> None:
        """Expect the loop to come by again, for `back`."""
        self._back = back


class _Back:
    """Goes on with a trainer's loop: saved as it is made, called in another process."""

    def __init__(self, callback: LightningCallback, trainer: Any, called: FrameType) -> None:
        _check(trainer, called)
        self._callback = callback
        self._trainer = trainer
        self._arguments = {name: called.f_locals[name] for name in _ARGUMENTS}
        self._random = randomness.take()
        self._metrics: dict[str, Any] = {}
        self._hush: Hush | None = None
        self._overrides = Overrides()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hush": None, "_overrides": None}

    def __call__(self) -> Any:
        """Train on; return what `fit` returns."""
        trainer, strategy = self._trainer, self._trainer.strategy
        connector = trainer._logger_connector
        self._metrics = {name: getattr(connector, name) for name in _METRICS}
        progress = trainer.fit_loop.epoch_progress  # of this epoch, which is begun once more
        for count in (progress.current, progress.total):
            count.ready -= 1
        self._overrides = Overrides()
        kept = strategy.optimizers, strategy.lr_scheduler_configs
        self._overrides.put(strategy, "setup_optimizers", lambda _: _set(strategy, *kept))
        self._overrides.put(trainer, "num_sanity_val_steps", 0)
        for owner in (trainer.lightning_module, trainer.datamodule):
            for name in _HOOKS if owner is not None else ():
                self._overrides.put(owner, name, nothing)
        self._hush = Hush(trainer.callbacks, Callback, self._hears)
        self._callback.come_back(self)
        try:
            return trainer.fit(**self._arguments)
        finally:
            self._end()

    def _hears(self, callback: Any) -> bool:
        return callback is self._callback or isinstance(callback, ProgressBar)

    def arrive(self) -> None:
        """Be where the pause was."""
        vars(self._trainer._logger_connector).update(self._metrics)
        self._metrics = {}
        self._end()
        randomness.put(self._random)

    def _end(self) -> None:
        self._overrides.end()
        if self._hush is not None:
            self._hush.end()
            self._hush = None


def _set(strategy: Any, optimizers: list[Any], schedulers: list[Any]) -> None:
    """Be what a strategy does to make optimizers, with those there are."""
    strategy.optimizers, strategy.lr_scheduler_configs = optimizers, schedulers


def _check(trainer: Any, called: FrameType) -> None:
    """Raise NotResumable if the loop can't be gone back to exactly."""
    if called.f_code is not Trainer.fit.__code__ or not isinstance(called.f_locals.get("model"), LightningModule):
        raise NotResumable(f"{called.f_code.co_qualname} is under way, around the trainer's fit()")
    loop = trainer.fit_loop
    hindrances = {
        "it trains on several devices or processes": trainer.world_size > 1,
        "its model is sharded or compiled by the strategy": trainer.strategy.model is not trainer.lightning_module,
        "its first step was in an epoch that began before": loop.restarting,
    }
    for why, hinders in hindrances.items():
        if hinders:
            raise NotResumable(why)


@contextmanager
def _without_iterators(loop: Any) -> Iterator[None]:
    """Let `loop` hold no iterators over data, which can't be saved and are made anew for each epoch."""
    held = loop._data_fetcher, loop._combined_loader
    loop._data_fetcher = loop._combined_loader = None
    try:
        yield
    finally:
        loop._data_fetcher, loop._combined_loader = held
