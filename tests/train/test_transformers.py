"""transformers' Trainer, real, on a tiny model: a pause at the begin of any step loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.player import Player, playing
from tests.train.every import check, skipped

HEAD = """
import random, shutil, torch, warnings
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
import ciuic_jupyter.train
torch.manual_seed(0); random.seed(0)
class Data(Dataset):
    def __init__(self, n, noise=0.0):
        self.x, self.noise = torch.randn(n, 4), noise
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        x = self.x[i] + self.noise * torch.randn(4) if self.noise else self.x[i]
        return {"x": x, "labels": self.x[i].sum().unsqueeze(0)}
class Stream(IterableDataset):
    def __iter__(self): yield from ({"x": torch.ones(4), "labels": torch.ones(1)} for _ in range(4))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    def forward(self, x, labels=None):
        out = self.net(x)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}
class Seen(TrainerCallback):
    def __init__(self): self.events = []
    def on_train_begin(self, args, state, control, **k): self.events.append("train")
    def on_epoch_begin(self, args, state, control, **k): self.events.append(("epoch", state.epoch))
    def on_step_begin(self, args, state, control, **k): self.events.append(("step", state.global_step))
    def on_evaluate(self, args, state, control, metrics=None, **k): self.events.append(("eval", metrics["eval_loss"]))
    def on_train_end(self, args, state, control, **k): self.events.append("end")
def trainer_of(data, **more):
    args = TrainingArguments(**{
        "output_dir": OUT, "num_train_epochs": 2, "per_device_train_batch_size": 2, "logging_steps": 2, "seed": 3,
        "eval_strategy": "epoch", "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True,
        "learning_rate": 1e-2, **more})
    callbacks = [ciuic_jupyter.train.transformers_callback(), seen]
    if args.metric_for_best_model:
        callbacks.append(EarlyStoppingCallback(5))
    trainer = Trainer(model=model, args=args, train_dataset=data, eval_dataset=Data(4), callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer
seen, model = Seen(), Net()
"""
TRAIN = """
result = trainer.train()
steps, loss, result = result.global_step, result.training_loss, None
log = [{k: v for k, v in one.items() if not k.endswith(("runtime", "_second"))} for one in trainer.state.log_history]
moments = [v for s in trainer.optimizer.state.values() for v in s.values()]
rates = trainer.lr_scheduler.get_last_lr()
draw = torch.rand(2)
print(log)
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with playing("torch", "torch._dynamo", "transformers.trainer", "ciuic_jupyter.train.huggingface") as started:
        yield started


def head(folder: Path, made: str) -> str:
    return HEAD.replace("OUT", repr(str(folder / "out"))) + f"trainer = {made}\n"


def test_every_step_with_dropout_noise_in_the_data_and_a_log_every_two(player: Player, tmp_path: Path) -> None:
    where = check(player, [head(tmp_path, "trainer_of(Data(5, noise=0.1))"), TRAIN], tmp_path)
    assert where == [f"trainer.train(), after step {step} of 6" for step in range(6)]


def test_every_step_with_accumulation_workers_and_the_best_model_on_a_disk_that_is_gone(
    player: Player, tmp_path: Path
) -> None:
    made = (
        "trainer_of(Data(7), gradient_accumulation_steps=2, dataloader_num_workers=1, save_strategy='epoch',"
        " load_best_model_at_end=True, metric_for_best_model='loss', save_total_limit=1)"
    )
    lose = f"shutil.rmtree({str(tmp_path / 'out')!r}, ignore_errors=True)\n"
    cells = [head(tmp_path, made), TRAIN + lose]  # each training finds the folder gone that the one before it wrote
    assert len(check(player, cells, tmp_path)) == 4


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("trainer_of(Data(4, noise=0.1), dataloader_num_workers=1)", "draws random numbers in workers"),
        ("trainer_of(Stream(), max_steps=2)", "its data is a stream"),
        ("trainer_of(Data(4), ignore_data_skip=True)", "it skips no data"),
    ],
)
def test_what_could_not_be_gone_back_to_exactly_is_skipped_with_its_reason(
    player: Player, tmp_path: Path, made: str, why: str
) -> None:
    assert why in skipped(player, [head(tmp_path, made), TRAIN])


def test_its_steps_are_told_for_the_forecast(player: Player, tmp_path: Path) -> None:
    looks = """
from ciuic_jupyter.resume.progress import told_by_libraries
class Look(TrainerCallback):
    def on_step_begin(self, args, state, control, **k):
        print([(told["name"], told["taken"], told["left"]) for told in told_by_libraries()])
trainer.add_callback(Look())
trainer.train()
print([*told_by_libraries()])
"""
    printed = player.play(
        "whole", [head(tmp_path, "trainer_of(Data(4), eval_strategy='no', logging_strategy='no')"), looks]
    )["printed"]
    steps = [f"[('steps of trainer.train()', {step}, {4 - step})]" for step in range(1, 5)]
    assert printed.splitlines()[:4] == steps and printed.splitlines()[-1] == "[]"
