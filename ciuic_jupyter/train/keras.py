"""Keras 3 on torch: a training by `model.fit` can be paused at the begin of any epoch.

The way back is `fit(initial_epoch=...)` with the arguments it had: model and optimizer are in the checkpoint, as the
objects they are. Inside an epoch Keras can't go on: it would begin the epoch's data anew.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

import keras
from keras.callbacks import Callback, History, ProgbarLogger

from ciuic_jupyter.resume import randomness
from ciuic_jupyter.resume.iterators import NotResumable
from ciuic_jupyter.resume.progress import forget, tell
from ciuic_jupyter.resume.runtime import Library, Site, offer
from ciuic_jupyter.train.hush import Hush, is_of

_FIT = inspect.unwrap(keras.Model.fit)
_DATA = ("ArrayDataAdapter", "TorchDataLoaderAdapter")
_EPOCHS = "epochs of model.fit()"
_CONNECTING = ("TensorBoard", "RemoteMonitor", "CSVLogger", "BackupAndRestore")


class KerasCallback(Callback):  # type: ignore[misc]  # no types without the library
    """Offers the begin of each epoch for a pause."""

    def __init__(self) -> None:
        """Add it to one call: `model.fit(..., callbacks=[...])`."""
        super().__init__()
        self._back: _Back | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        Site.library = True

    def on_train_end(self, logs: Any = None) -> None:
        forget(_EPOCHS)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        tell(_EPOCHS, epoch + 1, (self.params or {}).get("epochs"))
        if self._back is not None:
            back, self._back = self._back, None
            back.arrive(_fit_frame())
        if Site.calm:
            return
        model = self.model
        compiled, model.train_function = (
            model.train_function,
            None,
        )  # made anew from the model; holds what can't be saved
        try:
            offer(Library(f"model.fit(), before epoch {epoch + 1}", lambda called: _Back(self, called, epoch)))
        finally:
            model.train_function = compiled

    def come_back(self, back: _Back) -> None:
        """Expect the loop to come by again, for `back`."""
        self._back = back


class _Back:
    """Goes on with a model's fit: saved as it is made, called in another process."""

    def __init__(self, callback: KerasCallback, called: FrameType, epoch: int) -> None:
        fit = _fit_frame()
        if called is not fit and called is not fit.f_back:  # the wrapper that shortens tracebacks
            raise NotResumable(f"{called.f_code.co_qualname} is under way, around the model's fit()")
        names = fit.f_locals
        self._callback = callback
        self._model = names["self"]
        self._arguments = _arguments(called, names)
        self._epoch = epoch
        self._random = randomness.take()
        self._callbacks = [one for one in names["callbacks"].callbacks if not isinstance(one, ProgbarLogger)]
        self._hush: Hush | None = None
        _check(names)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hush": None}

    def __call__(self) -> Any:
        """Train on; return what `fit` returns."""
        heard = list(self._callbacks)
        self._hush = Hush(heard, Callback, self._hears)
        self._callback.come_back(self)
        try:
            return self._model.fit(**{**self._arguments, "callbacks": heard, "initial_epoch": self._epoch})
        finally:
            self._hush = None

    def _hears(self, callback: Any) -> bool:
        return callback is self._callback or (is_of(callback, "keras") and type(callback).__name__ in _CONNECTING)

    def arrive(self, fit: FrameType) -> None:
        """Be where the pause was, in the loop whose frame is `fit`."""
        now = fit.f_locals["callbacks"]
        made = [one for one in now.callbacks if isinstance(one, ProgbarLogger)]
        now.callbacks[:] = [*self._callbacks, *made]  # in their places: the loop over them goes on with the next
        now._history = next(one for one in self._callbacks if isinstance(one, History))
        self._model.history = now._history
        now._configure_async_dispatch(now.callbacks)
        self._callbacks = []
        randomness.put(self._random)


def _arguments(called: FrameType, names: dict[str, Any]) -> dict[str, Any]:
    """Return what fit was called with, as it was before it split its data."""
    signature = inspect.signature(_FIT)
    if "kwargs" in called.f_locals:  # of the wrapper
        bound = signature.bind(*called.f_locals["args"], **called.f_locals["kwargs"])
        return {name: value for name, value in bound.arguments.items() if name != "self"}
    found = {name: names[name] for name in signature.parameters if name not in ("self", "callbacks")}
    return {**found, "validation_split": 0.0}


def _check(names: dict[str, Any]) -> None:
    """Raise NotResumable if the loop can't be gone back to exactly."""
    adapter = type(names["epoch_iterator"].data_adapter).__name__
    hindrances = {
        f"its data comes by a {adapter}, whose place can't be saved": adapter not in _DATA,
        "its data goes on from epoch to epoch (steps_per_epoch)": names["steps_per_epoch"] is not None,
        "its callbacks were made outside of fit()": not any(
            isinstance(one, History) for one in names["callbacks"].callbacks
        ),
    }
    for why, hinders in hindrances.items():
        if hinders:
            raise NotResumable(why)


def _fit_frame() -> FrameType:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _FIT.__code__:
        frame = frame.f_back
    if frame is None:
        raise NotResumable("the model's loop is not known in this version of Keras")
    return frame
