"""A loop in a module, which says where it stands and asks where it stood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.player import Player, playing
from tests.train.every import check, skipped

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from ciuic_jupyter.train import Job
from tests.train import loops
torch.manual_seed(0)
class Data(Dataset):
    def __init__(self, n): self.x = torch.randn(n, 4)
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i] + 0.01 * torch.randn(4), self.x[i].sum().unsqueeze(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
loader = DataLoader(Data(5), batch_size=2, shuffle=True)
job = Job()
"""
AFTER = """
moments = [v for s in optimizer.state.values() for v in s.values()]
draw = torch.rand(2)
print(history)
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with playing("torch", "torch._dynamo", "tests.train.loops") as started:
        yield started


def test_every_epoch_of_a_loop_in_a_module(player: Player, tmp_path: Path) -> None:
    cell = "history = loops.by_epoch(model, optimizer, loader, 2, job)"
    assert len(check(player, [HEAD, cell + AFTER], tmp_path, begins=False)) == 2


def test_every_step_where_the_loop_hands_over_its_iterator(player: Player, tmp_path: Path) -> None:
    cell = "def go():\n    return loops.by_step(model, optimizer, loader, epochs=2, job=job, last=1)\nhistory = go()"
    assert len(check(player, [HEAD, cell + AFTER], tmp_path, begins=False)) == 6


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("loops.forgetful(2, job)", "forgetful did not read job.restored, so it would begin anew"),
        ("loops.changing(2, job)", "changing changed its parameter epochs, so it can't be called again"),
        ("list(map(lambda n: loops.by_epoch(model, optimizer, loader, n, job), [1]))", "<lambda>"),
    ],
)
def test_a_loop_that_would_not_go_on_where_it_stood_is_skipped_with_its_reason(
    player: Player, cell: str, why: str
) -> None:
    assert why in skipped(player, [HEAD, cell])


def test_its_turns_are_told_for_the_forecast(player: Player) -> None:
    looks = """
from ciuic_jupyter.resume.progress import told_by_libraries
class Told(Job):
    def checkpoint_callback(self, *step, **state):
        super().checkpoint_callback(*step, **state)
        print([(told["name"], told["taken"], told["left"]) for told in told_by_libraries()])
job = Told()
job.turns = 3
loops.by_epoch(model, optimizer, loader, 2, job)
job.checkpoint_callback("no number")
job.checkpoint_callback("more turns than there were to be")
"""
    printed = player.play("whole", [HEAD, looks])["printed"].splitlines()
    assert printed == [f"[('turns of the job', {at}, {3 - at})]" for at in (2, 3, 3, 3)]
