"""FLOPs of cells in a real kernel: by hand, through errors, threads and imports, and a pause in their middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kernels.agent_client import Plane, machine

B = 32
MODEL = f"""
import torch
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
x, y = torch.randn({B}, 16), torch.randint(0, 4, ({B},))
"""
FORWARD = 2 * B * (16 * 8 + 8 * 4)
STEP = FORWARD + FORWARD + 2 * B * 8 * 4  # both weights' gradients, and the second layer's input's
STEPS = """
import os, time
optimizer = torch.optim.Adam(model.parameters())
class Squares(torch.utils.data.Dataset):
    def __len__(self): return 40
    def __getitem__(self, index): return x[:2] @ x[:2].T + index, y[index % 32]
def train(epochs):
    for epoch in range(epochs):
        for square, label in torch.utils.data.DataLoader(Squares(), batch_size=4, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(square.reshape(-1, 4).repeat(1, 4)), label).backward()
            optimizer.step()
            print('step', flush=True)
            time.sleep(PAUSE)
train(4)
print(sum(float(one.double().sum()) for one in model.parameters()))
"""


def counted(plane: Plane, code: str, run: str | None = None, status: str = "ok") -> Any:
    end = plane.run(code, run, flops=True)
    assert end["status"] == status, end
    return end["flops"]


def test_what_is_counted_is_what_a_hand_counts(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        none = counted(plane, "import sys\nsum(range(9))\nassert 'torch' not in sys.modules")
        assert (none["by"], none["whys"]) == ({}, []) and none["seconds"] >= 0
        late = counted(plane, "def f():\n    import torch\n    return torch.ones(3, 3) @ torch.ones(3, 3)\nf()")
        assert late["by"] == {} and "imported within a statement" in late["whys"][0]
        assert counted(plane, MODEL)["by"] == {}
        forward = counted(plane, "with torch.no_grad(): out = model(x)")
        assert (forward["by"], forward["whys"]) == ({"cpu float32": FORWARD}, [])
        step = "torch.nn.functional.cross_entropy(model(x), y).backward()"
        assert counted(plane, f"for _ in range(3):\n    {step}")["by"] == {"cpu float32": 3 * STEP}
        assert counted(plane, f"%time {step}\n{step}")["by"] == {"cpu float32": 2 * STEP}
        half = counted(plane, "model.bfloat16()(x.bfloat16()).sum()\nmodel.float(); model(x).sum()")
        assert half["by"] == {"cpu bfloat16": FORWARD, "cpu float32": FORWARD}
        wrong = counted(plane, f"{step}\n1 / 0\n{step}", status="error")
        assert wrong["by"] == {"cpu float32": STEP}
        elsewhere = (
            "import threading\none = threading.Thread(target=lambda: model(x))\none.start()\none.join()\nmodel(x)"
        )
        assert counted(plane, elsewhere)["by"] == {"cpu float32": FORWARD}, "another thread's are not, as is said"
        inner = counted(plane, "model(x)\nget_ipython().run_cell('model(x)')\nmodel(x)")
        assert inner["by"] == {"cpu float32": 3 * FORWARD}, "a cell in the cell, once"
        captured = counted(plane, f"%%capture\n{step}")
        assert (captured["by"], captured["whys"]) == ({"cpu float32": STEP}, [])
        rnn = counted(plane, "torch.nn.LSTM(4, 4)(torch.zeros(2, 2, 4))\nmodel(x)")
        assert rnn["whys"] == ["torch has no formula for aten::mkldnn_rnn_layer"], "said, where a product has none"
        plane.run("fast = torch.compile(model, backend='eager')\nfast(x).sum().backward()")
        assert counted(plane, "fast(x)")["by"] == {"cpu float32": FORWARD}, "as it is written"
        stop = counted(plane, f"{step}\nimport signal\nsignal.raise_signal(signal.SIGINT)\n{step}", status="error")
        assert stop["by"] == {"cpu float32": STEP}
        assert "flops" not in plane.run(step), "only on request"
        assert plane.run(
            "from torch.utils.flop_counter import FlopCounterMode as F\nwith F(display=False) as f: model(x)"
        )
        mine = counted(plane, "with F(display=False) as f: model(x)\nprint('mine', f.get_total_flops())")
        assert mine["by"] == {"cpu float32": FORWARD} and f"mine {FORWARD}\n" in plane.text(), (
            "the user's own counts, too"
        )


def test_a_first_import_in_the_cell_itself_is_counted_from_there(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        first = counted(plane, f"{MODEL}\nwith torch.no_grad(): model(x)")
        assert (first["by"], first["whys"]) == ({"cpu float32": FORWARD}, [])


def test_a_cell_paused_in_its_middle_counts_as_one_that_never_was(tmp_path: Path) -> None:
    shared = {"store": str(tmp_path / "store"), "cwd": str(tmp_path)}
    for name in "abc":
        (tmp_path / name).mkdir()
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        whole = counted(plane, MODEL + STEPS.replace("PAUSE", "0"), "whole")
        assert sum(whole["by"].values()) > 0
        bare = plane.run(MODEL + STEPS.replace("PAUSE", "0"), "bare")
        assert bare["status"] == "ok" and plane.text("bare") == plane.text("whole"), "counting changes no bit"
        cell = MODEL + STEPS.replace("PAUSE", "0 if epoch < 1 or os.path.exists('over') else 0.5")
        plane.call("run", run="long", code=cell, flops=True)
        plane.until(lambda e: e["kind"] == "output" and plane.text("long").count("step") >= 12)
        assert plane.call("checkpoint")["report"]["run"]["flops"]["by"].keys() == {"cpu float32"}
        plane.until(lambda e: plane.text("long").count("step") >= 15)
        assert plane.call("hold")["held"]
        saved = plane.call("save")["report"]["run"]
        before, last, text = saved["flops"], plane.last, plane.text("long")
        assert 0 < before["by"]["cpu float32"] < whole["by"]["cpu float32"]
        (tmp_path / "over").touch()  # what had to be slow enough to be met
    with machine(tmp_path / "b", **shared, checkpoint=2, first_seq=last + 1) as made:
        again = made.connect(after=last)
        again.until(lambda e: e["kind"] == "kernel")
        again.call("resume", run="long", shown=[])
        end = again.until(lambda e: e["kind"] == "run_ended")
        assert end["status"] == "ok" and text + again.text("long") == plane.text("whole")
        assert (end["flops"]["by"], end["flops"]["whys"]) == (whole["by"], [])
        assert end["flops"]["seconds"] > before["seconds"]
        assert "flops" not in again.run("model(x).sum()"), "the next cell is its own"
