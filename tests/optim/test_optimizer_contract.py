"""What torch promises of an optimizer: state, hooks, closures, copies, scalers, sparse gradients."""

import copy
import io
import pickle

import pytest
import safetensors.torch
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import ravine.optim
from ravine import registry

NAMES = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta")
every_class = pytest.mark.parametrize("name", [*NAMES, "NAdamW", "Adan", "Lion"])
every_class_of_torch = pytest.mark.parametrize("name", NAMES)


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))


def make(name, params, **options):
    if name == "SGD":
        options.setdefault("momentum", 0.9)
    return getattr(ravine.optim, name)(params, **options)


def descend(model, optimizer, steps=1):
    inputs = torch.linspace(-1, 1, 20).reshape(5, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs) ** 2).mean().backward()
        optimizer.step()


@every_class
def test_state_replaced_by_the_user_is_used(name):
    """Whatever is put into `state`, by reference or in place, counts from the next step on."""
    left, right = small_model(), small_model()
    one, two = make(name, left.parameters()), make(name, right.parameters())
    descend(left, one, 3)
    descend(right, two, 3)
    for (first, entry), (second, other) in zip(one.state.items(), two.state.items(), strict=True):
        key = next(key for key in entry if entry[key].dim())
        entry[key].mul_(0.5)
        other[key] = other[key] * 0.5
        if "step" in entry:
            entry["step"].fill_(7 if first.dim() == 1 else 9)
            other["step"] = torch.tensor(7.0 if second.dim() == 1 else 9.0)
    descend(left, one, 2)
    descend(right, two, 2)
    for first, second in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(first, second)
        if "step" in one.state[first]:
            assert one.state[first]["step"] == two.state[second]["step"] == (9 if first.dim() == 1 else 11)


@every_class_of_torch
def test_groups_added_and_options_changed_later(name):
    model, twin = small_model(), small_model()
    mine = make(name, model[0].parameters(), lr=0.01)
    other = getattr(torch.optim, name)(
        twin[0].parameters(), lr=0.01, **({"momentum": 0.9} if name == "SGD" else {})
    )
    for module, optimizer in ((model, mine), (twin, other)):
        descend(module, optimizer, 2)
        optimizer.add_param_group({"params": list(module[2].parameters()), "lr": 0.1, "weight_decay": 0.1})
        descend(module, optimizer, 2)
        optimizer.param_groups[0]["lr"] = 0.5
        if name == "SGD":
            optimizer.param_groups[1]["nesterov"] = True
        descend(module, optimizer, 2)
    for first, second in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(first, second)


@every_class
def test_state_keeps_its_precision_when_loaded(name):
    """A float32 state for bfloat16 parameters stays float32, and goes on so."""
    wide = torch.nn.Parameter(torch.ones(3))
    source = make(name, [wide])
    wide.grad = torch.full((3,), 1 / 3)
    source.step()
    narrow = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = make(name, [narrow])
    saved = copy.deepcopy(source.state_dict())
    optimizer.load_state_dict(saved)
    for _ in range(2):
        for key, value in optimizer.state[narrow].items():
            assert value.dtype == torch.float32, key
        narrow.grad = torch.full((3,), 1 / 3, dtype=torch.bfloat16)
        optimizer.step()
    assert narrow.dtype == torch.bfloat16
    for key, value in saved["state"][0].items():
        assert torch.equal(value, source.state[wide][key]), "the loaded dictionary was changed"


@every_class
def test_narrower_state_is_widened_to_its_parameter(name):
    narrow, wide = torch.nn.Parameter(torch.ones(2).bfloat16()), torch.nn.Parameter(torch.ones(2))
    source, optimizer = make(name, [narrow]), make(name, [wide])
    narrow.grad = torch.ones(2).bfloat16()
    source.step()
    saved = copy.deepcopy(source.state_dict())
    entry = saved["state"][0]
    entry.update({key: value.bfloat16() for key, value in entry.items() if value.dim()})
    optimizer.load_state_dict(saved)
    assert all(value.dtype == torch.float32 for value in optimizer.state[wide].values())


@every_class
@pytest.mark.parametrize("through", ["state_dict", "torch.save", "pickle", "deepcopy"])
def test_resumed_equals_uninterrupted_bit_for_bit(name, through):
    straight, stopped = small_model(), small_model()
    options = {"average": 0.9, "clip_norm": 0.1}
    descend(straight, make(name, straight.parameters(), **options), 12)
    optimizer = make(name, stopped.parameters(), **options)
    descend(stopped, optimizer, 5)
    if through == "deepcopy":
        resumed, other = copy.deepcopy((stopped, optimizer))
    elif through == "pickle":
        resumed, other = pickle.loads(pickle.dumps((stopped, optimizer)))
    else:
        saved = optimizer.state_dict()
        if through == "torch.save":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file)
        resumed = copy.deepcopy(stopped)
        other = make(name, resumed.parameters(), **options)
        other.load_state_dict(saved)
    descend(stopped, optimizer, 3)  # the one that was saved goes on, and disturbs the other not
    descend(resumed, other, 7)
    for one, expected in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(one, expected)
    assert (other.clip_norm, other.engine, other.rounding) == (0.1, "auto", "auto")
    assert other.gradient_norm > 0
    with other.averaged():
        pass


def test_loading_hooks_see_the_precision_and_older_checkpoints_load():
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = ravine.optim.Adam([parameter])
    saved = {
        "state": {0: {"step": 3, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.ones(3)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": [0]}],
    }
    seen = []
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[parameter]["exp_avg"].dtype))
    optimizer.load_state_dict(saved)
    parameter.grad = torch.ones(3).bfloat16()
    optimizer.step()
    assert seen == [torch.float32]
    assert optimizer.state[parameter]["step"] == torch.tensor(4.0)
    assert optimizer.param_groups[0]["amsgrad"] is False


def test_adamw_stays_decoupled_whatever_it_loads():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = ravine.optim.AdamW([parameter])
    optimizer.load_state_dict(torch.optim.Adam([parameter]).state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_state_of_another_model_is_refused():
    source, target = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(4, 3))
    one, two = ravine.optim.Adam([source]), ravine.optim.Adam([target])
    source.grad, target.grad = torch.ones(3), torch.ones(4, 3)
    one.step()
    two.load_state_dict(one.state_dict())
    with pytest.raises(RuntimeError, match=r"'exp_avg' has shape \(3,\) and its parameter \(4, 3\)"):
        two.step()


@every_class
def test_state_fits_safetensors_and_pickles_small(name):
    params = [torch.nn.Parameter(torch.ones(100)) for _ in range(50)]
    optimizer = make(name, params)
    for parameter in params:
        parameter.grad = torch.ones(100)
    optimizer.step()
    flat = {f"{n}.{k}": v for n, entry in optimizer.state_dict()["state"].items() for k, v in entry.items()}
    back = safetensors.torch.load(safetensors.torch.save(flat))
    assert all(torch.equal(back[key], value) for key, value in flat.items())
    assert len(pickle.dumps(optimizer)) < 50 * 100 * 4 * 20


@every_class
def test_closure_and_hooks(name):
    model = small_model()
    optimizer = make(name, model.parameters())
    calls = []

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        loss = (model(torch.ones(2, 4)) ** 2).sum()
        loss.backward()
        return loss

    expected = (model(torch.ones(2, 4)) ** 2).sum().item()
    assert optimizer.step(closure).item() == pytest.approx(expected)
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("before", len(args), kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("after", len(args), kwargs))),
    ]
    optimizer.step()
    optimizer.step(closure)
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert calls == [
        "closure",
        ("before", 1, {}),
        ("after", 1, {}),
        ("before", 2, {}),
        "closure",
        ("after", 2, {}),
    ]


def test_global_hooks_and_the_profiler_see_each_step():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = ravine.optim.SGD([parameter])
    seen = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [1]
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    assert "Optimizer.step#SGD.step" in {event.name for event in profile.function_events}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adagrad", {"lr_decay": 0.1}),
        ("Adagrad", {"maximize": True}),
    ],
)
# torch's own Adagrad makes unchecked sparse tensors and warns of it
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_sparse_gradients_as_in_torch(name, options):
    ours, theirs = (torch.nn.Embedding(6, 3, sparse=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = getattr(ravine.optim, name)(ours.parameters(), lr=0.1, **options)
    reference = getattr(torch.optim, name)(theirs.parameters(), lr=0.1, **options)
    for rows in ([0, 2, 2], [5], [2, 5]):
        for module, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            (module(torch.tensor(rows)) ** 2).sum().backward()
            if module is theirs and options.get("nesterov"):  # torch cannot add dense to sparse
                module.weight.grad = module.weight.grad.to_dense()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Adam", {}, "Adam does not support sparse gradients, please consider SparseAdam instead"),
        ("RMSprop", {}, "RMSprop does not support sparse gradients"),
        ("SGD", {"l1": 0.1}, "l1 option is not compatible with sparse gradients"),
        ("Adagrad", {"l1": 0.1, "proximal": True}, "l1 option is not compatible with sparse gradients"),
        ("SGD", {"weight_decay": 0.1}, "weight_decay option is not compatible with sparse gradients"),
        ("Adagrad", {"weight_decay": 0.1}, "weight_decay option is not compatible with sparse gradients"),
    ],
)
def test_sparse_gradients_refused(name, options, message):
    module = torch.nn.Embedding(6, 3, sparse=True)
    dense = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(ravine.optim, name)([dense, *module.parameters()], **options)
    (module(torch.tensor([1])) * dense).sum().backward()
    before = module.weight.detach().clone()
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(module.weight, before)
    assert torch.equal(dense, torch.ones(3)), "nothing moves where something is refused"


def test_gradients_may_turn_sparse_and_dense_again():
    left, right = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(4, 2))
    one, two = ravine.optim.Adagrad([left]), ravine.optim.Adagrad([right])
    gradient = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0], [3.0, 1.0]])
    for step in range(4):
        rows = torch.tensor([[1, 3]])
        sparse = torch.sparse_coo_tensor(rows, gradient[[1, 3]], (4, 2), check_invariants=True)
        left.grad = sparse if step % 2 else gradient.clone()
        right.grad = gradient.clone()
        one.step()
        two.step()
    assert torch.equal(left, right)


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
@pytest.mark.parametrize(
    "options",
    [
        {"average": 0.5},
        {"rounding": "compensated"},
        {"rounding": "stochastic"},
        {"lr": torch.tensor([0.1, 0.2, 0.3, 0.4]), "clip_norm": 1.0},
        {"clip_norm": 1.0, "clip_value": 0.5},
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sparse_gradients_do_as_dense_ones(name, options, dtype):
    """Also where the average, or what rounding keeps, belongs to every row."""
    left, right = (torch.linspace(-1, 1, 8).reshape(4, 2).to(dtype).requires_grad_() for _ in range(2))
    one, two = (getattr(ravine.optim, name)([each], engine="auto", **options) for each in (left, right))
    for step in range(4):
        values = torch.tensor([[1.0, -2.0], [3.0, step]]).to(dtype)
        rows = torch.tensor([[step, 1]])  # the same row twice, once
        left.grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
        right.grad = left.grad.to_dense()
        one.step()
        two.step()
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)
    for key, value in one.state[left].items():
        if key != "remainder":
            torch.testing.assert_close(value, two.state[right][key], rtol=tolerance, atol=tolerance)


def test_step_that_autograd_follows_is_refused():
    parameter = torch.ones(2, requires_grad=True).clone()
    parameter.retain_grad()
    parameter.grad = torch.ones(2)
    optimizer = ravine.optim.Adam([parameter], differentiable=True)
    optimizer.state[parameter]["step"] = torch.tensor(0.0, requires_grad=True)
    with pytest.raises(RuntimeError, match="`requires_grad` is not supported for `step`"):
        optimizer.step()


def test_adagrad_sums_can_be_shared_between_processes():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = ravine.optim.Adagrad([parameter])
    optimizer.share_memory()
    assert optimizer.state[parameter]["sum"].is_shared()


def test_without_bias_correction():
    """T6 through the class, also with the largest mean square."""
    for amsgrad in (False, True):
        parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = ravine.optim.Adam([parameter], lr=0.01, eps=0.0, amsgrad=amsgrad, bias_correction=False)
        parameter.grad = torch.tensor([1.0, -2.0, 30.0], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(parameter.abs() / 0.01, torch.full((3,), 0.1 / 0.001**0.5).double())


def test_capturable_counts_on_the_parameters_device():
    parameter, twin = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    capturable = ravine.optim.Adam([parameter], lr=torch.tensor(0.1), capturable=True, weight_decay=0.1)
    plain = ravine.optim.Adam([twin], lr=0.1, weight_decay=0.1)
    for step in range(3):
        for each, optimizer in ((parameter, capturable), (twin, plain)):
            each.grad = torch.full((3,), step + 1.0)
            optimizer.step()
    torch.testing.assert_close(parameter, twin)


def test_the_registry_knows_the_optimizers():
    in_the_lectures_order = ("sgd", "adagrad", "rmsprop", "adam", "adamw")
    assert registry.names("optimizer")[:5] == in_the_lectures_order
    for entry in registry.entries("optimizer"):
        assert entry.description and entry.source
        entry.part([torch.nn.Parameter(torch.ones(2))], **entry.suggested)
