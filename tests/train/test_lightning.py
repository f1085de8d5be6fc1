"""Lightning, real, on a tiny model: a pause at the begin of any epoch loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.player import Player, playing
from tests.train.every import check

HEAD = """
import lightning, logging, torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset
import ciuic_jupyter.train
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
lightning.seed_everything(1, verbose=False)
class Data(Dataset):
    def __init__(self, n): self.x = torch.randn(n, 4)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i] + 0.01 * torch.randn(4), self.x[i].sum().unsqueeze(0)
class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.starts = 0
    def on_train_start(self): self.starts += 1
    def setup(self, stage): self.starts += 10
    def training_step(self, batch, i):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss
    def validation_step(self, batch, i):
        self.log("val", nn.functional.mse_loss(self.net(batch[0]), batch[1]))
    def configure_optimizers(self):
        made = torch.optim.Adam(self.parameters(), 1e-2)
        return {"optimizer": made, "lr_scheduler": torch.optim.lr_scheduler.StepLR(made, 1, 0.5)}
class Both(lightning.LightningDataModule):
    def setup(self, stage): self.train, self.val = Data(5), Data(4)
    def train_dataloader(self): return DataLoader(self.train, batch_size=2, shuffle=True)
    def val_dataloader(self): return DataLoader(self.val, batch_size=2)
def numbers(values): return {name: float(value) for name, value in values.items()}
class Seen(lightning.Callback):
    def __init__(self): self.events = []
    def on_train_start(self, t, m): self.events.append("train")
    def on_train_epoch_start(self, t, m): self.events.append(("epoch", t.current_epoch))
    def on_train_batch_end(self, t, m, out, b, i): self.events.append((i, t.global_step, float(out["loss"])))
    def on_validation_epoch_end(self, t, m): self.events.append(("val", numbers(t.callback_metrics)))
    def on_train_epoch_end(self, t, m): self.events.append((numbers(t.callback_metrics), numbers(t.logged_metrics)))
    def on_train_end(self, t, m): self.events.append("end")
class Lines(DummyLogger):
    def __init__(self):
        super().__init__()
        self.lines = []
    def log_metrics(self, metrics, step=None): self.lines.append((step, dict(metrics)))
seen, lines, model, data = Seen(), Lines(), Net(), Both()
def trainer_of(**more):
    return lightning.Trainer(**{
        "max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": lines, "log_every_n_steps": 1,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "callbacks": [ciuic_jupyter.train.lightning_callback(), seen, EarlyStopping("val", patience=5)], **more})
trainer = trainer_of()
"""
AFTER = """
optimizer = model.optimizers().optimizer
moments = [value for state in optimizer.state.values() for value in state.values()]
rate, starts = optimizer.param_groups[0]["lr"], model.starts
events, logged = seen.events, lines.lines
steps, draw = (trainer.global_step, trainer.current_epoch), torch.rand(2)
print(logged)
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with playing("torch", "torch._dynamo", "lightning", "ciuic_jupyter.train.lightning") as started:
        yield started


@pytest.mark.parametrize("data", ["DataLoader(Data(5), 2, shuffle=True), DataLoader(Data(4), 2)", "datamodule=data"])
def test_every_epoch(player: Player, tmp_path: Path, data: str) -> None:
    where = check(player, [HEAD, f"trainer.fit(model, {data})" + AFTER], tmp_path)
    assert where == [f"trainer.fit(), before epoch {epoch}" for epoch in (1, 2)]


def test_its_epochs_and_batches_are_told_for_the_forecast(player: Player) -> None:
    looks = """
from ciuic_jupyter.resume.progress import told_by_libraries
def look(): print([(t["name"].split()[0], t["taken"], t["left"]) for t in told_by_libraries()])
class Look(lightning.Callback):
    def on_train_batch_end(self, *_): look()
    def on_validation_batch_end(self, t, *_): None if t.sanity_checking else look()
trainer = trainer_of(callbacks=[ciuic_jupyter.train.lightning_callback(), Look()], logger=False)
trainer.fit(model, DataLoader(Data(4), 2), DataLoader(Data(2), 2))
look()
"""
    train = ["[('epochs', {0}, {1}), ('train', 1, 1)]", "[('epochs', {0}, {1}), ('train', 2, 0)]"]
    epoch = [*train, "[('epochs', {0}, {1}), ('validation', 1, 0)]"]
    lines = [line.format(at, 2 - at) for at in (1, 2) for line in epoch]
    assert player.play("whole", [HEAD, looks])["printed"].splitlines() == [*lines, "[]"]
