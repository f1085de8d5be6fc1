"""A cell saved at any of its boundaries and gone on with in another process leaves and prints what it would have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.resume.player import Player, check, playing

CELL = """
import random; random.seed(1)
total = 0
for i in range(4):
    k = 0
    while k < 3:
        total += random.random()
        k += 1
    if i % 2:
        for x, y in zip([1, 2, 3], "abc"):
            print(i, x, y)
    else:
        for n, z in enumerate({"a": 1, "b": 2}.items()):
            print(n, z)
    print("end", i, total)
else:
    print("done")
"""

EARLIER = """
import functools, random
random.seed(1)
def step(x, *, scale=2):
    out = []
    for j in range(3):
        out.append(x * scale + j + random.random())
    return sum(out)
class Model:
    def __init__(self):
        self.w = 0.0
        self.__hidden = 3
    def fit(self, data):
        history = []
        def note(v):
            nonlocal best
            best = max(best, v)
            history.append(v)
        best = -1
        for x in data:
            loss = step(x)
            self.w += loss
            note(loss)
            t = 0
            while (t := t + 1) < self.__hidden:
                try:
                    for q in range(2):
                        self.w += q
                except ValueError:
                    print("never")
                else:
                    self.w -= 1
                finally:
                    self.w += .5
            print("x", x, best, len(history))
        return best
class Sub(Model):
    def fit(self, data):
        return super().fit(data)
def rec(n):
    acc = [n]
    for k in range(2):
        if n > 0:
            acc.append(rec(n - 1))
    return acc
def deco(f):
    @functools.wraps(f)
    def inner(*a, **k):
        r = f(*a, **k)
        print("called", f.__name__)
        return r
    return inner
@deco
def work(n):
    s = 0
    for i in range(n):
        s += i
    return s
"""

LATER = """
m = Sub()
best = [m.fit([1, 2])]
best.append(m.fit([3]))
tree = rec(2)
match len(tree):
    case 1:
        print("one")
    case n if n > 1:
        for i in range(2):
            print("many", i, n)
w = work(3) if best else 0
with open("/etc/hostname") as f:
    for line in f:
        pass
    for i in range(2):
        print(f.closed)
print(f"{w} {work(2)}")
squares = [a * a for a in range(3)]
d = {k: v for k, v in zip("ab", squares)}
"""

TORCH = """
import torch, random, numpy as np
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
torch.manual_seed(0); random.seed(0); np.random.seed(0)
class Noisy(Dataset):
    def __init__(self, n):
        self.x = torch.randn(n, 4)
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return self.x[i] + 0.01 * torch.randn(4), self.x[i].sum().unsqueeze(0)
class Stream(IterableDataset):
    def __iter__(self):
        for i in range(4):
            yield torch.full((4,), float(i)) + torch.randn(4), torch.tensor([float(i)])
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1)])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
model = Net()
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
history = []
@torch.no_grad()
def evaluate(loader):
    model.eval()
    total = 0.0
    for x, y in loader:
        total += nn.functional.mse_loss(model(x), y).item()
    model.train()
    return total
def train_step(x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
loader = DataLoader(Noisy(9), batch_size=3, shuffle=True, num_workers=WORKERS)
streamed = DataLoader(Stream(), batch_size=2)
"""

TRAINING = """
for epoch in range(2):
    for step, (x, y) in enumerate(loader):
        history.append(train_step(x, y))
        print(epoch, step, history[-1])
    for x, y in streamed:
        history.append(train_step(x, y))
    scheduler.step()
    val = evaluate(loader)
    print("val", val, scheduler.get_last_lr())
state = [v for s in optimizer.state.values() for v in s.values()]
"""


CONSTRUCTORS = """
import functools
class Base:
    def __init__(self, n):
        self.n = n
        for i in range(2):
            self.n += i
    def __call__(self, x):
        for i in range(2):
            x += self.n
        return x
class Child(Base):
    def __init__(self, n):
        super().__init__(n)
        while self.n < 9:
            self.n += 3
a = Child(4)
b = [a(1), Child(2).n]
c = functools.partial(a.__call__, 3)()
print(a.n, b, c)
"""


BARS = """
from tqdm import tqdm, trange
import random; random.seed(2)
s = []
bar = tqdm(range(3), desc="a", mininterval=0)
for x in bar:
    s.append(random.random())
    bar.set_postfix(v=x)
for i, y in enumerate(tqdm([4, 5, 6])):
    s.append(random.random())
n = bar.n
for z in trange(2):
    s.append(z)
"""

CELLS = """
def outer():
    best = 0
    seen = []
    def run(k):
        nonlocal best
        for i in range(2):
            best += i + k
            seen.append(best)
        return best
    x = 1
    for j in range(2):
        x += run(j)
    return x, best, seen
r = outer()
def param(p):
    def inc():
        nonlocal p
        for i in range(2):
            p += 1
        return 1
    p += inc()
    return p
q = param(3)
def glob():
    global G
    G = 0
    for i in range(3):
        G += i
        for k in range(1):
            G += 1
    del i
    return G
g = glob()
"""


VIEWS = """
d = {"a": 1, "b": 2, "c": 3}
for k, v in d.items():
    print(k, v)
    d["c"] += v
for n, v in enumerate(d.values()):
    print(n, v)
    d["b"] = 7 + n
for k, v in reversed(d.items()):
    print(k, v)
    d["a"] = 50
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with playing() as started:
        yield started


@pytest.fixture(scope="module")
def torch_player() -> Iterator[Player]:
    pytest.importorskip("torch")
    with playing("torch", "torch._dynamo") as started:  # which an optimizer imports, each time anew
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_every_boundary_of_a_cell_with_nested_loops(player: Player, folder: Path) -> None:
    assert check(player, [CELL], folder) == 35


def test_every_boundary_inside_functions_methods_closures_and_blocks(player: Player, folder: Path) -> None:
    assert check(player, [EARLIER, LATER], folder) == 80


@pytest.mark.parametrize("workers", [0, 2])
def test_every_boundary_of_two_epochs_of_a_training(torch_player: Player, folder: Path, workers: int) -> None:
    assert check(torch_player, [TORCH.replace("WORKERS", str(workers)), TRAINING], folder) == 25


WORKERS = """
import random, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
torch.manual_seed(0); random.seed(0)
class Shards(IterableDataset):
    def __iter__(self):
        for i in range(get_worker_info().id, 4, 2):
            yield torch.randn(2) + i + random.random()
class Rows(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.randn(1) + i
seen = []
"""
STREAMS = """
for epoch in range(2):
    for x in DataLoader(Shards(), batch_size=1, num_workers=2):
        seen.append(x + torch.randn(1))
"""
PERSISTENT = """
loader = DataLoader(Rows(), batch_size=2, shuffle=True, num_workers=1, persistent_workers=True)
for x in loader:
    seen.append(x)
for x in loader:
    seen.append(x)
    break
"""


def test_every_boundary_over_a_stream_that_workers_share(torch_player: Player, folder: Path) -> None:
    assert check(torch_player, [WORKERS, STREAMS], folder) == 13


def test_persistent_workers_are_gone_on_with_in_their_first_pass_and_skipped_later(
    torch_player: Player, folder: Path
) -> None:
    assert check(torch_player, [WORKERS, PERSISTENT], folder) == 3
    skipped = torch_player.play("whole", [WORKERS, PERSISTENT])["skipped"]
    assert skipped == ["its workers are persistent and have lived through earlier passes"]


def test_every_boundary_inside_a_constructor_and_a_callable_object(player: Player, folder: Path) -> None:
    assert check(player, [CONSTRUCTORS], folder) == 9


@pytest.mark.filterwarnings("ignore")
def test_every_boundary_under_progress_bars(player: Player, folder: Path) -> None:
    assert check(player, [BARS], folder) == 11


def test_every_boundary_over_a_dict_whose_later_values_change(player: Player, folder: Path) -> None:
    assert check(player, [VIEWS], folder) == 12


def test_every_boundary_where_functions_share_variables(player: Player, folder: Path) -> None:
    assert check(player, [CELLS], folder) == 19


def test_ten_pauses_one_after_the_other(player: Player, folder: Path) -> None:
    cells = [EARLIER, LATER]
    base = player.play("whole", cells)
    answer = player.play("until", cells, folder, 3)
    printed = answer["printed"]
    for _ in range(9):
        answer = player.play("onward", cells, folder, answer["body"], 3)
        assert "where" in answer
        printed += answer["printed"]
    last = player.play("onward", cells, folder, answer["body"])
    assert printed + last["printed"] == base["printed"]
    assert last["names"] == base["names"]


@pytest.mark.parametrize(
    ("cell", "error"),
    [
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os; os._exit(7)", "exit status 7"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_play_that_dies_says_how(player: Player, cell: str, error: str) -> None:
    with pytest.raises(AssertionError, match=error):
        player.play("whole", [cell])
    assert player.play("whole", ["x = 1"])["names"] == {"x": "1"}


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    for i in range(2): pass", "an except block"),
        ("try:\n    pass\nfinally:\n    for i in range(2): pass", "a finally block"),
        ("for x in (a * a for a in range(3)): pass", "generator"),
        ("def f():\n    for i in range(2): pass\n    return 1\nd = {}\nd['x'] = 1\nd['x'] += f()", "was read already"),
        ("def f(k):\n    for i in range(2): pass\nx = list(map(f, [1]))", "through something else"),
        ("def f(k):\n    for i in range(2): pass\n    return k\nx = sorted([2, 1], key=f)", "through something else"),
        (
            "import functools\n@functools.lru_cache\ndef f(k):\n    for i in range(2): pass\nx = f(1)",
            "through something",
        ),
        ("class A:\n    def __add__(self, o):\n        for i in range(2): pass\nx = 1 and A() + int(1)", "an operator"),
        ("class A:\n    @property\n    def p(self):\n        for i in range(2): pass\nx = A().p", "a property"),
        ("def g():\n    for i in range(2): pass\n    yield 1\nx = next(g())", ""),
        ("def h():\n    for i in range(2): pass\ndef g():\n    h()\n    yield 1\nx = next(g())", "generator"),
        ("fs = [lambda: h()]\ndef h():\n    for i in range(2): pass\nfs[0]()", "lambda"),
        (
            "import itertools\nd = {1: 2}\nfor k, v in itertools.chain(d.items()):\n    pass",
            "later values would not be seen",
        ),
        ("import contextlib\nwith contextlib.ExitStack():\n    for i in range(2): pass", "is not known"),
        ("import decimal\nwith decimal.localcontext():\n    for i in range(2): pass", "is not known"),
        (
            "def f(p):\n    g = lambda: p\n    n = len(locals())\n    for i in range(2): pass\n    return n\nx = f(1)",
            "can't be reached",
        ),
        ("def h():\n    for i in range(2): pass\nfs = [h]\nfs[0]()", "through something else"),
    ],
)
def test_a_boundary_that_could_not_be_resumed_is_skipped_with_its_reason(player: Player, cell: str, why: str) -> None:
    answer = player.play("whole", [cell])
    assert not answer["offered"]
    if why:
        assert why in " ".join(answer["skipped"])


# programs made by chance

_HEAD = """
import random
random.seed(5)
seen = []
total = 1
def small(n):
    got = 0
    for q in range(n % 3):
        got += q + random.random()
    return got
class Box:
    def __init__(self): self.v = 0
    def fill(self, n):
        add = lambda: self.v + n
        while self.v < n % 4:
            self.v += 1
        return add()
box = Box()
def rec(n):
    got = [n]
    for q in range(n):
        got.append(rec(n - 1 - q))
    return got
def counter():
    count = 0
    def bump(n):
        nonlocal count
        while count < n % 3:
            count += 1
        return count + n
    return bump
bump = counter()
"""
_SIMPLE = st.sampled_from(
    [
        "total = total * 3 % 97 + 1",
        "seen.append(round(random.random(), 9))",
        "print(total, len(seen))",
        "got = small(total)",
        "seen.append(box.fill(total))",
        "box.v = total % 3",
        "print('small', small(2), total)",
        "seen.append(rec(total % 3))",
        "total = bump(total)",
        "total += sum(e for e in (1, 2))",
        "if (w := total % 5) > 2: print(w)",
        "evens = [e for e in range(total % 4)]",
    ]
)
_HEADS = st.sampled_from(
    [
        "for {v} in range(2):",
        "for {v} in [5, 6]:",
        "for {v}, _y in enumerate('ab'):",
        "for {v}, _y in zip((1, 2), 'xy'):",
        "for {v} in {{'k': 1, 'l': 2}}:",
        "for {v} in map(str, [1, 2]):",
        "for {v} in reversed([1, 2]):",
        "if total % 2:",
        "if total % 3 == 0 or small(total):",
        "with __import__('contextlib').suppress(ValueError):",
        "for {v} in sorted({{3, 1}}):",
    ]
)


@st.composite
def _block(draw: st.DrawFn, depth: int) -> list[str]:
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3 if depth else 2))):
        kind = draw(st.integers(0, 6)) if depth else 0
        if kind < 2:
            lines.append(draw(_SIMPLE))
            continue
        inner = ["    " + line for line in draw(_block(depth=depth - 1))]
        name = f"v{depth}"
        if kind == 2:
            lines += [f"c{depth} = 0", f"while c{depth} < 2:", f"    c{depth} += 1", *inner]
        elif kind == 6:
            inner = ["    " + line for line in inner]
            lines += ["match total % 3:", "    case 0 | 1:", *inner, "    case other:", "        print(other)"]
        elif kind == 3:
            lines += [
                "try:",
                *inner,
                "except KeyError:",
                "    print('no')",
                "else:",
                *inner,
                "finally:",
                "    total += 1",
            ]
        else:
            lines += [draw(_HEADS).format(v=name), *inner]
            if kind == 5:
                lines += ["else:", *inner]
    return lines


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_block(depth=2), wrapped=st.booleans())
def test_every_boundary_of_programs_made_by_chance(
    player: Player, folder: Path, body: list[str], wrapped: bool
) -> None:
    body = [line for line in body if line != "    "]
    text = "\n".join(_without_else_after_with(body))
    if wrapped:
        inside = text.replace("\n", "\n    ")
        text = f"def run(total):\n    w = got = 0\n    {inside}\n    return total\ntotal = run(total)"
    check(player, [_HEAD, text], folder)


def _without_else_after_with(lines: list[str]) -> list[str]:
    """Drop an `else:` that belongs to a `with`, which has none."""
    kept: list[str] = []
    opened: dict[int, str] = {}
    dropped: int | None = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if dropped is not None and depth > dropped:
            continue
        dropped = None
        if line.strip() == "else:" and opened.get(depth, "").startswith("with"):
            dropped = depth
            continue
        if line.strip() != "else:":
            opened[depth] = line.strip()
        kept.append(line)
    return kept
