"""transformers: a training by `Trainer` can be paused at the begin of any step.

The way back is `trainer.train(resume_from_checkpoint=...)`, with a folder that holds only the trainer's state: model,
optimizer and scheduler are in the checkpoint, as the objects they are. What that way loses by itself is put back at
the step: random numbers, the loss since the last line of the log, the batches that had been read already.
"""

from __future__ import annotations

import copyreg
import sys
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import FrameType, GeneratorType
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.training_args import ParallelMode

from ciuic_jupyter.resume import randomness
from ciuic_jupyter.resume.iterators import NotResumable
from ciuic_jupyter.resume.progress import forget, tell
from ciuic_jupyter.resume.runtime import Library, Site, offer
from ciuic_jupyter.train.folders import pack, unpack
from ciuic_jupyter.train.hush import Hush, Overrides, is_of, nothing

_PROGRESS = (
    "state",
    "current_flos",
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
    "_initial_global_step",
    "_initial_num_input_tokens_seen",
)
_LIVE = ("_load_from_checkpoint", "_load_optimizer_and_scheduler", "_load_scaler", "_load_rng_state")
_BARS = ("ProgressCallback", "NotebookProgressCallback")
_RANDOM_SAMPLES = 3
_STEPS = "steps of trainer.train()"


class TransformersCallback(TrainerCallback):  # type: ignore[misc]  # no types without the library
    """Offers the begin of each step for a pause."""

    def __init__(self) -> None:
        """Add it to one trainer: `Trainer(..., callbacks=[...])`."""
        self._epoch_random: dict[str, Any] = {}
        self._back: _Back | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Site.library = True

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._back is not None:
            randomness.put(self._back.epoch_random)
        self._epoch_random = randomness.take()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        forget(_STEPS)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tell(_STEPS, state.global_step + 1, state.max_steps)
        if self._back is not None:
            back, self._back = self._back, None
            back.arrive(_epoch_frame())
        if not Site.calm:
            where = f"trainer.train(), after step {state.global_step} of {state.max_steps}"
            offer(Library(where, lambda called: _Back(self, _trainer(called), called)))

    def come_back(self, back: _Back) -> None:
        """Expect the loop to come by again, for `back`."""
        self._back = back

    @property
    def epoch_random(self) -> dict[str, Any]:
        """The states of random number generators at the begin of this epoch."""
        return self._epoch_random


class _Back:
    """Goes on with a trainer's loop: saved as it is made, called in another process."""

    def __init__(self, callback: TransformersCallback, trainer: Any, called: FrameType) -> None:
        self.epoch_random = callback.epoch_random
        self._callback = callback
        self._trainer = trainer
        self._ignored = called.f_locals.get("ignore_keys_for_eval")
        self._random = randomness.take()
        self._batches, self._items = _in_flight(_epoch_frame())
        self._best = pack(trainer.state.best_model_checkpoint)
        self._kept: dict[str, Any] = {}
        self._hush: Hush | None = None
        self._overrides = Overrides()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_overrides": None, "_hush": None}

    def __call__(self) -> Any:
        """Train on; return what `train` returns."""
        trainer = self._trainer
        unpack(trainer.state.best_model_checkpoint, self._best)
        self._kept = {name: getattr(trainer, name) for name in _PROGRESS}
        self._overrides = Overrides()
        for name in (*_LIVE, "_load_callback_state"):
            self._overrides.put(trainer, name, nothing)
        self._overrides.put(trainer, "model_init", None)
        self._overrides.put(trainer, "_created_lr_scheduler", False)  # or its scheduler would be made anew
        self._overrides.put(trainer.args, "eval_on_start", False)
        self._hush = Hush(trainer.callback_handler.callbacks, TrainerCallback, self._hears)
        self._callback.come_back(self)
        try:
            with tempfile.TemporaryDirectory(prefix="ciuic-trainer-") as folder:
                trainer.state.save_to_json(str(Path(folder, TRAINER_STATE_NAME)))
                return trainer.train(resume_from_checkpoint=folder, ignore_keys_for_eval=self._ignored)
        finally:
            self._end()

    def _hears(self, callback: Any) -> bool:
        ours_or_bar = callback is self._callback or type(callback).__name__ in _BARS
        return ours_or_bar or is_of(callback, "transformers.integrations")

    def arrive(self, epoch: FrameType) -> None:
        """Be where the pause was, in the loop whose frame is `epoch`."""
        batches, items = _in_flight(epoch)
        for now, then in zip(batches, self._batches, strict=True):
            _put_back(now, then)
        if isinstance(items, torch.Tensor) and isinstance(self._items, torch.Tensor):
            items.copy_(self._items)
        vars(self._trainer).update(self._kept)
        self._end()
        self._batches, self._kept = [], {}
        randomness.put(self._random)

    def _end(self) -> None:
        self._overrides.end()
        if self._hush is not None:
            self._hush.end()
            self._hush = None


def _trainer(called: FrameType) -> Any:
    """Return the trainer whose `train` runs in `called`; NotResumable if its loop can't be gone back to exactly."""
    trainer = called.f_locals.get("self")
    if called.f_code is not Trainer.train.__code__ or not isinstance(trainer, Trainer):
        raise NotResumable(f"{called.f_code.co_qualname} is under way, around the trainer's train()")
    args = trainer.args
    hindrances = {
        "it trains on several devices or processes": args.parallel_mode
        not in (ParallelMode.NOT_PARALLEL, ParallelMode.NOT_DISTRIBUTED),
        "it trains with DeepSpeed or FSDP": trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled,
        "it searches for hyperparameters": called.f_locals.get("trial") is not None,
        "NEFTune's noise can't be attached again": trainer.neftune_noise_alpha is not None,
        "it skips no data when it goes on (ignore_data_skip)": args.ignore_data_skip,
        "its data is a stream (IterableDataset)": isinstance(trainer.train_dataset, IterableDataset),
    }
    for why, hinders in hindrances.items():
        if hinders:
            raise NotResumable(why)
    if args.dataloader_num_workers and _draws(trainer):
        raise NotResumable("its data draws random numbers in workers, whose places can't be saved")
    return trainer


def _draws(trainer: Any) -> bool:
    """Tell whether making a batch draws random numbers: some samples are made here and thrown away."""
    before = randomness.take()
    data = trainer.train_dataset
    samples = [data[index] for index in range(min(_RANDOM_SAMPLES, len(data)))]
    trainer.data_collator(samples)
    after = randomness.take()
    randomness.put(before)
    return repr(before) != repr(after) or not torch.equal(before["torch"], after["torch"])


def _epoch_frame() -> FrameType:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not Trainer._run_epoch.__code__:
        frame = frame.f_back
    if frame is None:
        raise NotResumable("the trainer's loop is not known in this version of transformers")
    return frame


def _in_flight(epoch: FrameType) -> tuple[list[Any], Any]:
    """Return the batches that were read already, and how many items they hold."""
    names = epoch.f_locals
    iterator = names["epoch_iterator"]
    batches: list[Any] = list(names["batch_samples"])
    ahead = iterator.gi_frame.f_locals if isinstance(iterator, GeneratorType) and iterator.gi_frame is not None else {}
    if "next_batch" in ahead and not ahead["self"].end_of_dataloader:  # at the end nothing was read ahead
        batches.append(ahead["next_batch"])
    if not all(isinstance(leaf, torch.Tensor) for batch in batches for leaf in _leaves(batch)):
        raise NotResumable("its batches are not dicts of tensors")
    return batches, names["num_items_in_batch"]


def _leaves(batch: Any) -> Iterator[Any]:
    yield from batch.values() if isinstance(batch, MutableMapping) else [batch]


def _put_back(now: Any, then: Any) -> None:
    """Let a batch that was read again be the one that was read then: the loop holds it already."""
    if isinstance(now, MutableMapping):
        now.clear()
        now.update(then)
    else:
        now.copy_(then)


def _shared(kind: Any, state: dict[str, Any]) -> Any:
    """Return an object of a class all of whose objects are one; a process that has one keeps what it has."""
    if not kind._shared_state:
        kind._shared_state.update(state)
    made = object.__new__(kind)
    made.__dict__ = kind._shared_state
    return made


for _kind in (PartialState, AcceleratorState, GradientState):
    copyreg.pickle(_kind, lambda one: (_shared, (type(one), dict(vars(one)))))
