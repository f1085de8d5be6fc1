# ruff: noqa
import numpy as np
import torch

torch.manual_seed(4)
torch.set_default_dtype(torch.float64)
torch.set_default_dtype(torch.float32)
torch.use_deterministic_algorithms(True, warn_only=True)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 8)
        self.out = torch.nn.Linear(8, 10, bias=False)
        self.out.weight = self.embed.weight
        self.drop = torch.nn.Dropout(0.3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += 1
        return self.out(self.drop(self.embed(x).mean(1)))


net = Net()
calls = []
handle = net.register_forward_hook(lambda module, args, result: calls.append(1))
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
steps = []
optimizer.register_step_post_hook(lambda *a: steps.append(1))


def step():
    x = torch.randint(0, 10, (16, 5))
    y = torch.randint(0, 10, (16,))
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    scheduler.step()
    return loss.item()


history = [step() for _ in range(3)]
loss = torch.nn.functional.mse_loss(net.out.weight, torch.zeros(10, 8))
grad = net.embed.weight.grad
base = torch.arange(200_000.0).reshape(1000, 200)
window = base[5:7, ::2]
turned = base.t()
row = base[3]
leaf = torch.ones(3, requires_grad=True)
array = np.arange(300.0)
from_array = torch.from_numpy(array)
from_part = torch.from_numpy(array[10:20])
late_tensor = torch.from_numpy(np.arange(50.0))
late_array = late_tensor.numpy()
to_array = base.numpy()
half = torch.ones(4, dtype=torch.bfloat16)
boolean = torch.tensor([True, False])
complex_ = torch.tensor([1 + 2j]).conj()
sparse = torch.eye(3).to_sparse()
meta = torch.empty(3, device="meta")
nothing = torch.empty(0, 4)
generator = torch.Generator().manual_seed(9)
default = torch.default_generator
tagged = torch.zeros(2)
tagged.note = "mine"
storage = base.untyped_storage()
state_dict = net.state_dict()
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(base), batch_size=10)
params = list(net.parameters())
parameters = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])


def after_save():
    import json

    json.dump([step() for _ in range(5)], open("steps.json", "w"))
    torch.save({"net": net.state_dict(), "draw": torch.rand(3)}, "truth.pt")


def check_training_goes_on_bit_equal():
    import json, os

    folder = os.environ.get("WORLD", os.getcwd())
    truth = torch.load(folder + "/truth.pt")
    assert [step() for _ in range(5)] == json.load(open(folder + "/steps.json"))
    for name, value in net.state_dict().items():
        assert torch.equal(value, truth["net"][name]), name
    assert torch.equal(torch.rand(3), truth["draw"])


def check_tied_weights():
    assert net.out.weight is net.embed.weight and net.out.weight.is_leaf and params[0] is net.embed.weight
    assert type(net.out.weight) is torch.nn.Parameter


def check_optimizer_holds_the_model():
    assert optimizer.param_groups[0]["params"][0] is net.embed.weight
    before = net.embed.weight.detach().clone()
    net.embed.weight.grad = torch.ones_like(before)
    optimizer.step()
    assert not torch.equal(before, net.embed.weight)


def check_scheduler_is_attached():
    import warnings

    assert scheduler.optimizer is optimizer and steps
    count = len(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step()
    assert len(steps) == count + 1


def check_hooks():
    count = len(calls)
    net(torch.zeros(1, 1, dtype=torch.long))
    assert len(calls) == count + 1
    handle.remove()
    net(torch.zeros(1, 1, dtype=torch.long))
    assert len(calls) == count + 1


def check_state_dict_shares():
    assert state_dict["embed.weight"].data_ptr() == net.embed.weight.data_ptr()


def check_loss_is_named_and_detached():
    assert not loss.requires_grad and loss.item() > 0


def check_views_share():
    window[0, 0] = -5
    assert base[5, 0] == -5 and turned[0, 5] == -5 and base.untyped_storage().data_ptr() == storage.data_ptr()
    row[0] = -6
    assert base[3, 0] == -6 and window.stride() == (200, 2)


def check_numpy_and_torch_share():
    array[12] = -7
    assert from_array[12] == -7 and from_part[2] == -7
    late_tensor[3] = -8
    assert late_array[3] == -8
    base[0, 1] = -9
    assert to_array[0, 1] == -9


def check_leaf():
    assert leaf.requires_grad and leaf.is_leaf and leaf.grad is None
    (leaf * 2).sum().backward()
    assert leaf.grad.tolist() == [2, 2, 2]


def check_kinds():
    assert half.dtype == torch.bfloat16 and boolean.tolist() == [True, False] and nothing.shape == (0, 4)
    assert complex_.tolist() == [1 - 2j] and sparse.to_dense().trace() == 3 and meta.device.type == "meta"
    assert tagged.note == "mine" and len(parameters) == 2 and parameters[0].requires_grad


def check_generators():
    assert (
        torch.rand(2, generator=generator).tolist()
        == torch.rand(2, generator=torch.Generator().manual_seed(9)).tolist()
    )
    assert default is torch.default_generator


def check_options():
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


def check_storage_can_grow():
    own = torch.zeros(3)
    meta_free = tagged
    meta_free.resize_(5)
    assert meta_free.shape == (5,)


def check_dataloader():
    assert len(list(loader)) == 100 and next(iter(loader))[0].shape == (10, 200)
