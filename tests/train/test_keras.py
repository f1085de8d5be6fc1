"""Keras on torch, real, on a tiny model: a pause at the begin of any epoch loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.player import Player, playing
from tests.train.every import check, skipped

HEAD = """
import keras, torch, numpy as np
from torch.utils.data import DataLoader, TensorDataset
import ciuic_jupyter.train
keras.utils.set_random_seed(1)
x = np.random.randn(12, 4).astype("float32")
y = x.sum(1, keepdims=True)
loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=4, shuffle=True)
class Seen(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.events = []
    def on_train_begin(self, logs=None): self.events.append("train")
    def on_epoch_begin(self, epoch, logs=None): self.events.append(epoch)
    def on_train_batch_end(self, batch, logs=None): self.events.append((batch, logs["loss"]))
    def on_train_end(self, logs=None): self.events.append(logs)
layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
model = keras.Sequential([keras.layers.Input((4,)), *layers])
model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse", metrics=["mae"])
seen = Seen()
early = keras.callbacks.EarlyStopping(patience=3, monitor="loss")
slower = keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=0.5, monitor="loss")
callbacks = [ciuic_jupyter.train.keras_callback(), seen, early, slower]
"""
AFTER = """
log, epochs, same = history.history, history.epoch, history is model.history
weights = model.get_weights()
moments = [keras.ops.convert_to_numpy(value) for value in model.optimizer.variables]
events, waited = seen.events, (early.wait, early.best, slower.wait, slower.best)
draws = torch.rand(2), np.random.rand(2)
print(log)
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        with playing("torch", "torch._dynamo", "keras", "ciuic_jupyter.train.keras") as started:
            yield started


@pytest.mark.parametrize("data", ["x, y, batch_size=4, validation_split=0.25", "loader, validation_data=(x, y)"])
def test_every_epoch(player: Player, tmp_path: Path, data: str) -> None:
    fit = f"history = model.fit({data}, epochs=2, verbose=0, callbacks=callbacks)"
    where = check(player, [HEAD, fit + AFTER], tmp_path)
    assert where == [f"model.fit(), before epoch {epoch}" for epoch in (1, 2)]


@pytest.mark.parametrize(
    ("fit", "why"),
    [
        ("model.fit(x, y, steps_per_epoch=2, epochs=2, callbacks=callbacks)", "goes on from epoch to epoch"),
        ("model.fit(((x, y) for _ in range(4)), epochs=1, callbacks=callbacks)", "GeneratorDataAdapter"),
    ],
)
def test_what_could_not_be_gone_back_to_exactly_is_skipped_with_its_reason(player: Player, fit: str, why: str) -> None:
    assert why in skipped(player, [HEAD, fit])


def test_its_epochs_are_told_for_the_forecast(player: Player) -> None:
    looks = """
from ciuic_jupyter.resume.progress import told_by_libraries
def look(): print([(told["name"], told["taken"], told["left"]) for told in told_by_libraries()])
class Look(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None): look()
model.fit(x, y, epochs=2, verbose=0, callbacks=[ciuic_jupyter.train.keras_callback(), Look()])
look()
"""
    epochs = [f"[('epochs of model.fit()', {epoch}, {2 - epoch})]" for epoch in (1, 2)]
    assert player.play("whole", [HEAD, looks])["printed"].splitlines() == [*epochs, "[]"]
