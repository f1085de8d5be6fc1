"""A real plane, agent and kernel: a training by transformers is paused in its middle and goes on elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from tests.control.test_pause_real import Viewer, a_plane, until

SECONDS = 90  # a kernel imports transformers first
TRAINING = """
import os, random, time, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
import ciuic_jupyter.train
torch.manual_seed(0)
data = [{"x": torch.randn(4), "labels": torch.randn(1)} for _ in range(8)]
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
    def forward(self, x, labels):
        return {"loss": torch.nn.functional.mse_loss(self.net(x), labels)}
class Say(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        print("step", state.global_step, flush=True)
        time.sleep(PAUSE)
args = TrainingArguments(OUT, num_train_epochs=6, per_device_train_batch_size=2, logging_steps=3, report_to=[],
                         save_strategy="no", use_cpu=True, disable_tqdm=True, seed=3)
callbacks = [ciuic_jupyter.train.transformers_callback(), Say()]
trainer = Trainer(model=Net(), args=args, train_dataset=data, callbacks=callbacks)
trainer.remove_callback(PrinterCallback)
print("begin")
result = trainer.train()
print(result.training_loss, [line.get("loss") for line in trainer.state.log_history])
print([float(one.double().sum()) for one in trainer.model.parameters()], torch.rand(1).item())
print("end")
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneClient]:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-train-{os.getpid()}")
    yield from a_plane()


def lines(viewer: Viewer) -> list[list[str]]:
    """Return what each training printed, from its begin to its end."""
    return [text.splitlines() for text in viewer.text.split("begin\n")[1:]]


def ended(viewer: Viewer, times: int) -> bool:
    return len(lines(viewer)) == times and "end" in lines(viewer)[-1]


def test_a_training_by_transformers_is_paused_in_its_middle_and_ends_as_if_it_had_not_been(
    client: PlaneClient, tmp_path: Path
) -> None:
    cell = TRAINING.replace("OUT", repr(str(tmp_path / "out")))
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "paused", cell.replace("PAUSE", "0.2"))
    until(lambda: "step 3\n" in viewer.text, SECONDS)
    view = client.pause("s")
    assert (view["state"], view["rate_nano_per_hour"]) == ("paused", 0)
    assert view["suspended"]["where"].startswith("trainer.train(), after step ")
    client.resume("s", wait=True)
    until(lambda: ended(viewer, 1), SECONDS)
    client.run("s", "whole", cell.replace("PAUSE", "0"))
    until(lambda: ended(viewer, 2), SECONDS)
    paused, whole = lines(viewer)
    assert paused == whole
    client.close_session("s")
