# ruff: noqa
# %% torch: model and optimizer hold the same parameters
import torch

torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(30, 20))
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
inputs = torch.randn(8, 20)
net(inputs).sum().backward()
optimizer.step()
weights_before = net[0].weight.detach().clone()
# -- after
assert optimizer.param_groups[0]["params"][0] is net[0].weight and torch.equal(net[0].weight, weights_before)
optimizer.step()
assert not torch.equal(net[0].weight, weights_before)
assert optimizer.state[net[0].weight]["step"].item() == 2

# %% torch: learning-rate schedulers stay attached
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
# -- after
scheduler.step()
assert scheduler.optimizer is optimizer and optimizer.param_groups[0]["lr"] == 0.005


# %% torch: tied weights
class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(10, 80)
        self.out = torch.nn.Linear(80, 10, bias=False)
        self.out.weight = self.embed.weight


tied = Tied()
# -- after
assert tied.out.weight is tied.embed.weight and len(list(tied.parameters())) == 1

# %% torch: views of parameters and tensors share storage
first_rows, transposed = net[0].weight.data[:3], net[0].weight.detach().t()
ramp = torch.arange(1000.0)
part, folded = ramp[10:20:3], ramp.view(10, 100)
# -- after
first_rows[0, 0] = 99
ramp[10] = -1
assert net[0].weight[0, 0] == 99 and transposed[0, 0] == 99 and part[0] == -1 and folded[0, 10] == -1
assert part.stride() == (3,)

# %% torch: requires_grad, grad, leaves and hooks of tensors
leaf = torch.ones(300, requires_grad=True)
(leaf * 3).sum().backward()
hook_calls = []
handle = leaf.register_hook(lambda grad: hook_calls.append(grad.sum().item()))
frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
# -- after
assert leaf.requires_grad and leaf.is_leaf and leaf.grad[0] == 3 and not frozen.requires_grad
(leaf * 2).sum().backward()
assert hook_calls == [600.0] and leaf.grad[0] == 5
handle.remove()
leaf.sum().backward()
assert hook_calls == [600.0]

# %% torch: the graph behind a result
result = (leaf * 2).sum()
# -- after
assert result.item() == 600
result.backward()

# %% torch: hooks of modules
module_calls = []
module_handle = net.register_forward_hook(lambda module, args, out: module_calls.append(1))
# -- after
net(inputs)
assert module_calls == [1]
module_handle.remove()
net(inputs)
assert module_calls == [1]

# %% torch: hooks after a gradient is accumulated
accumulated = []
watched = torch.nn.Parameter(torch.ones(3))
watched.register_post_accumulate_grad_hook(lambda parameter: accumulated.append(parameter.grad.sum().item()))
# -- after
(watched * 2).sum().backward()
assert accumulated == [6.0]

# %% torch: a new hook does not take the place of one that was there
steady_calls = []
net[1].register_forward_hook(lambda module, args, out: steady_calls.append("old"))
# -- after
for _ in range(12):
    net[1].register_forward_hook(lambda module, args, out: steady_calls.append("new"))
steady_calls.clear()
net[1](inputs)
assert steady_calls.count("old") == 1 and steady_calls.count("new") == 12

# %% torch: buffers, train and eval mode, state_dict shares
tied.register_buffer("seen", torch.zeros(200), persistent=False)
tied.eval()
state = tied.state_dict()
# -- after
assert not tied.training and "seen" in dict(tied.named_buffers()) and "seen" not in tied.state_dict()
state["embed.weight"][0, 0] = 5
assert tied.embed.weight[0, 0] == 5

# %% torch: numpy and torch share memory, both ways
import numpy as np

from_np, to_torch = (base_array := np.arange(500.0)), torch.from_numpy(base_array)
back = torch.ones(400).numpy()
# -- after
base_array[3] = -3
assert to_torch[3] == -3 and from_np is base_array and back.sum() == 400

# %% torch: generators of their own, with their position
generator = torch.Generator().manual_seed(5)
torch.rand(3, generator=generator, dtype=torch.float32)
twin = torch.Generator().manual_seed(5)
torch.rand(3, generator=twin)
drawn = torch.rand(3, generator=twin, dtype=torch.float32)
# -- after
assert torch.equal(torch.rand(3, generator=generator, dtype=torch.float32), drawn)

# %% torch: dtypes, sparse, complex, quantized-like views, meta, memory formats
kinds = [torch.ones(3, dtype=torch.bfloat16), torch.eye(3).to_sparse(), torch.tensor([1 + 2j]).conj()]
kinds += [torch.empty(2, device="meta"), torch.ones(1, 2, 3, 4).to(memory_format=torch.channels_last)]
kinds += [torch.empty(0, 4), torch.tensor(True), torch.eye(2).to_sparse_csr()]
# -- after
assert kinds[0].dtype == torch.bfloat16 and kinds[1].is_sparse and kinds[2].tolist() == [1 - 2j]
assert kinds[3].is_meta and kinds[4].is_contiguous(memory_format=torch.channels_last) and kinds[5].shape == (0, 4)
assert kinds[6].item() is True and kinds[7].to_dense().trace() == 2


# %% torch: subclasses and attributes of tensors
class Labelled(torch.Tensor):
    pass


labelled = torch.ones(300).as_subclass(Labelled)
labelled.label = "x"
plain_label = torch.ones(2)
plain_label.note = labelled
# -- after
assert type(labelled) is Labelled and labelled.label == "x" and plain_label.note is labelled and labelled.sum() == 300

# %% torch: data loaders, samplers with generators
loader_generator = torch.Generator().manual_seed(3)
dataset = torch.utils.data.TensorDataset(torch.arange(20))
loader = torch.utils.data.DataLoader(dataset, batch_size=5, shuffle=True, generator=loader_generator)
truth = torch.utils.data.DataLoader(dataset, batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3))
truth = torch.cat([batch for (batch,) in truth]).tolist()
# -- after
assert torch.cat([batch for (batch,) in loader]).tolist() == truth and loader.dataset is dataset

# %% torch: an iterator of a data loader in the middle
batches = iter(torch.utils.data.DataLoader(dataset, batch_size=5))
next(batches)
# -- after
assert next(batches)[0].tolist() == [5, 6, 7, 8, 9]

# %% torch: a GradScaler, ParameterList, ModuleDict, parametrized and compiled modules
lists = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2))])
named_modules = torch.nn.ModuleDict({"a": tied})
normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 4))
normed_out = normed(torch.ones(3, dtype=torch.float32)).tolist()
# -- after
assert (
    named_modules["a"] is tied
    and lists[0].requires_grad
    and normed(torch.ones(3, dtype=torch.float32)).tolist() == normed_out
)
assert normed.parametrizations.weight[0] is not None

# %% torch: options (default dtype, grad mode, threads, determinism, print options)
torch.set_default_dtype(torch.float64)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.set_num_threads(1)
torch.set_printoptions(precision=2)
# -- after
assert torch.get_default_dtype() is torch.float64 and torch.are_deterministic_algorithms_enabled()
assert torch.get_num_threads() == 1 and repr(torch.tensor([0.1234567])) == "tensor([0.12])"

# %% torch: the global generator
torch.manual_seed(77)
global_truth = torch.Generator().manual_seed(77)
global_next = torch.rand(3, generator=global_truth)
# -- after, at once
assert torch.equal(torch.rand(3, dtype=global_next.dtype), global_next)
