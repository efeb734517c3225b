"""What is composed around a rule, against torch's own tools, autograd and closed forms."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ravine.optim

engines = pytest.mark.parametrize("engine", ["cpu", "eager"])
RULES = {
    "SGD": {"lr": 0.05, "momentum": 0.9},
    "RMSprop": {"lr": 0.01, "eps": 1e-3},
    "Adam": {"lr": 0.02, "eps": 1e-3},
    "AdamW": {"lr": 0.02, "eps": 1e-3, "weight_decay": 0.1},
    "Adadelta": {"lr": 1.0, "eps": 1e-3},
}
every_rule = pytest.mark.parametrize("name", RULES)


class Bowl(torch.nn.Module):
    """Three tensors of unlike sizes and layouts; the loss changes from step to step."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = [(6, 5), (17,), ()]
        values = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
        values[0] = values[0].T
        self.weights = torch.nn.ParameterList(map(torch.nn.Parameter, values))

    def loss(self, step):
        total = sum(
            (k + 1) * (w**2).sum() + torch.cos(3 * w + step).sum() for k, w in enumerate(self.weights)
        )
        return total / (1 + step % 3)


def pair(name, engine, **options):
    """A model with Ravine's optimizer, and one with torch's that knows nothing of the options."""
    ours, theirs = Bowl(), Bowl()
    mine = getattr(ravine.optim, name)(ours.parameters(), engine=engine, **{**RULES[name], **options})
    return ours, mine, theirs, getattr(torch.optim, name)(theirs.parameters(), **RULES[name])


def backward(model, optimizer, step, penalty=None):
    optimizer.zero_grad()
    loss = model.loss(step)
    if penalty is not None:
        loss = loss + penalty(model)
    loss.backward()


def assert_same(ours, theirs, **tolerance):
    torch.testing.assert_close(
        list(ours.parameters()), list(theirs.parameters()), **(tolerance or {"rtol": 1e-10, "atol": 1e-12})
    )


def unchanged(model, action):
    """Take an action; the gradients must be the same bits afterwards."""
    before = [weight.grad.clone() for weight in model.parameters()]
    action()
    for weight, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(weight.grad, old)


@engines
@every_rule
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_by_norm_is_torchs(name, engine, limit):
    ours, mine, theirs, other = pair(name, engine, clip_norm=limit)
    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        other.step()
        unchanged(ours, mine.step)
        assert mine.gradient_norm == pytest.approx(norm.item(), rel=1e-12)
        assert_same(ours, theirs)


@engines
@every_rule
def test_clipping_by_value_is_torchs(name, engine):
    ours, mine, theirs, other = pair(name, engine, clip_value=0.3)
    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step)
        torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.3)
        other.step()
        unchanged(ours, mine.step)
    assert_same(ours, theirs)


@engines
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "Adadelta"])
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_penalties_are_those_that_autograd_adds(name, engine, l2):
    """λ₁·Σ|x|, and the elastic net λ₁·Σ|x| + ½·λ₂·Σx²."""
    ours, mine, theirs, other = pair(name, engine, l1=0.3, weight_decay=l2)

    def penalty(model):
        return sum(0.3 * weight.abs().sum() + l2 / 2 * (weight**2).sum() for weight in model.parameters())

    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step, penalty)
        other.step()
        unchanged(ours, mine.step)
    assert_same(ours, theirs)


def prox(weight, lr, l1, l2):
    """The minimum over z of ½(z − w)² + lr·(l1·|z| + ½·l2·z²), in closed form."""
    return weight.sign() * (weight.abs() - lr * l1).clamp(min=0) / (1 + lr * l2)


@engines
@every_rule
@pytest.mark.parametrize(("l1", "l2"), [(0.2, 0.0), (0.0, 0.4), (0.2, 0.4)])
def test_proximal_steps_follow_the_step(name, engine, l1, l2):
    ours, mine, theirs, other = pair(name, engine, l1=l1, weight_decay=l2, proximal=True)
    for group in other.param_groups:
        group["weight_decay"] = 0.0
    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step)
        other.step()
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.copy_(prox(weight, RULES[name]["lr"], l1, l2))
        unchanged(ours, mine.step)
    assert_same(ours, theirs)


@engines
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_proximal_step_makes_weights_exactly_zero_and_keeps_the_lasso_solution(engine, dtype):
    """½·Σ(x − target)² + l1·Σ|x| has its minimum at the soft threshold of the target."""
    target = torch.linspace(-2, 2, 41, dtype=torch.float64)
    weight = torch.nn.Parameter(target.flip(0).to(dtype))
    optimizer = ravine.optim.SGD([weight], 0.5, l1=0.75, proximal=True, engine=engine, rounding="nearest")
    for _ in range(200):
        weight.grad = (weight.detach() - target.to(dtype)).to(dtype)
        optimizer.step()
    expected = target.sign() * (target.abs() - 0.75).clamp(min=0)
    assert torch.equal(weight.detach() == 0, target.abs() < 0.7501)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(weight.detach().double(), expected, rtol=0, atol=tolerance)


@engines
@every_rule
def test_the_average_is_torchs(name, engine):
    ours, mine, theirs, other = pair(name, engine, average=0.9)
    averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step)
        other.step()
        averaged.update_parameters(theirs)
        mine.step()
        assert_same(ours, theirs)
        with mine.averaged():
            assert_same(ours, averaged.module)


@engines
@every_rule
def test_climbing_is_descending_the_other_way(name, engine):
    ours, mine, theirs, other = pair(name, engine, maximize=True)
    for step in range(30):
        backward(ours, mine, step)
        backward(theirs, other, step)
        for weight in theirs.parameters():
            weight.grad.neg_()
        unchanged(ours, mine.step)
        other.step()
    assert_same(ours, theirs)


@engines
@every_rule
@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_all_together(name, engine, proximal, maximize):
    """In their order: direction, norm, value, penalty, step, proximal step, average."""
    options = {"clip_norm": 2.0, "clip_value": 0.3, "l1": 0.2, "average": 0.8, "maximize": maximize}
    ours, mine, theirs, other = pair(name, engine, proximal=proximal, **options)
    decay = other.param_groups[0]["weight_decay"]
    if proximal:
        other.param_groups[0]["weight_decay"] = 0.0
    averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    for step in range(30):
        backward(ours, mine, step)
        unchanged(ours, mine.step)
        backward(theirs, other, step)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 2.0)
        torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.3)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.grad.mul_(-1 if maximize else 1)
                if not proximal:
                    weight.grad.add_(0.2 * weight.sign())
            other.step()
            for weight in theirs.parameters():
                if proximal:
                    weight.copy_(prox(weight, RULES[name]["lr"], 0.2, decay))
        averaged.update_parameters(theirs)
    assert_same(ours, theirs)
    with mine.averaged():
        assert_same(ours, averaged.module)


@engines
def test_each_group_has_its_own_and_the_norm_is_of_all(engine):
    one, two = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [one], "l1": 0.5}, {"params": [two], "average": 0.5, "clip_value": 0.1}]
    optimizer = ravine.optim.SGD(groups, 1.0, clip_norm=1.0, engine=engine)
    one.grad, two.grad = torch.full((2,), 3.0).double(), torch.full((2,), 4.0).double()
    optimizer.step()
    norm = 50**0.5
    assert optimizer.gradient_norm == pytest.approx(norm)
    assert one.tolist() == pytest.approx([1 - 3 / norm - 0.5] * 2, rel=1e-6)
    assert two.tolist() == pytest.approx([0.9] * 2)
    assert "average" not in optimizer.state.get(one, {})
    assert optimizer.state[two]["average"].tolist() == pytest.approx([0.9] * 2)
    optimizer.step()
    assert optimizer.state[two]["average"].tolist() == pytest.approx([0.85] * 2)


@engines
@pytest.mark.parametrize("layout", ["sparse", "another stride", "another dtype"])
def test_the_norm_counts_gradients_of_every_kind(engine, layout):
    """Those that kernels take, and those that go by torch's operators."""
    plain, odd = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizer = ravine.optim.SGD(
        [plain, odd], 1.0, clip_norm=1.0, engine="auto" if engine == "cpu" else engine
    )
    plain.grad = torch.full((4, 3), 2.0)
    if layout == "sparse":
        ones = torch.ones(2, 3)  # twice the same row: two in all
        odd.grad = torch.sparse_coo_tensor([[1, 1]], ones, (4, 3), check_invariants=True)
        squares = 48 + 12
    elif layout == "another stride":
        odd.grad = torch.full((3, 4), -1.0).T
        squares = 48 + 12
    else:
        odd.grad_dtype = None
        odd.grad = torch.full((4, 3), -1.0, dtype=torch.bfloat16)
        squares = 48 + 12
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(squares**0.5)
    torch.testing.assert_close(plain.detach(), torch.full((4, 3), 1 - 2 / squares**0.5))


@engines
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_norm_that_is_not_finite_is_told_and_does_as_in_torch(engine, bad):
    values = torch.tensor([bad, 1.0, -2.0])
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    ours.grad, theirs.grad = values.clone(), values.clone()
    mine = ravine.optim.SGD([ours], 1.0, clip_norm=1.0, engine=engine)
    mine.step()
    torch.nn.utils.clip_grad_norm_([theirs], 1.0)
    torch.optim.SGD([theirs], 1.0).step()
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert mine.gradient_norm == pytest.approx(bad, nan_ok=True)


@engines
def test_options_changed_on_the_way_count_from_then_on(engine):
    ours, mine, theirs, other = pair("Adam", engine)
    changes = {
        5: {"clip_value": 0.2},
        10: {"l1": 0.1},
        15: {"l1": 0.0, "weight_decay": 0.3},
        20: {"clip_value": None, "maximize": True},
        25: {"maximize": False, "weight_decay": 0.0, "lr": 0.5},
    }
    now = {}
    for step in range(30):
        now |= changes.get(step, {})
        mine.param_groups[0].update(changes.get(step, {}))
        reference = {"weight_decay", "maximize", "lr"} & now.keys()
        other.param_groups[0].update({key: now[key] for key in reference})
        backward(ours, mine, step)
        mine.step()
        backward(theirs, other, step)
        with torch.no_grad():
            for weight in theirs.parameters():
                limit = now.get("clip_value") or torch.inf
                weight.grad.clamp_(-limit, limit).add_(weight.sign() * now.get("l1", 0.0))
        other.step()
        assert_same(ours, theirs)


@engines
def test_an_average_may_begin_later_and_pause(engine):
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = ravine.optim.SGD([weight], 1.0, engine=engine)
    seen = []
    for average in (0.0, 0.5, 0.5, 0.0, 0.5):
        optimizer.param_groups[0]["average"] = average
        weight.grad = -torch.ones(3)
        optimizer.step()
        seen.append(optimizer.state[weight]["average"][0].item() if weight in optimizer.state else None)
    assert seen == [None, 2.0, 2.5, 2.5, 3.75]


def averaging():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2).bfloat16())]
    optimizer = ravine.optim.Adam([*weights, torch.nn.Parameter(torch.ones(2))], average=0.5)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return weights, optimizer


def test_averaged_puts_the_average_in_place_and_the_parameters_back_exactly():
    weights, optimizer = averaging()
    before = [weight.detach().clone() for weight in weights]
    with optimizer.averaged():
        for weight in weights:
            assert torch.equal(weight.detach(), optimizer.state[weight]["average"].to(weight.dtype))
            assert optimizer.state[weight]["average"].dtype == torch.float32
        assert torch.equal(optimizer.param_groups[0]["params"][2], torch.ones(2))
        assert not any(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_averaged_puts_back_after_an_exception_too():
    weights, optimizer = averaging()
    before = [weight.detach().clone() for weight in weights]
    with pytest.raises(KeyError, match="mine"), optimizer.averaged():
        raise KeyError("mine")
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))
    optimizer.step()


def test_averaged_changes_no_later_step():
    (left, one), (right, two) = averaging(), averaging()
    with one.averaged():
        pass
    for weights, optimizer in ((left, one), (right, two)):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert all(torch.equal(weight, other) for weight, other in zip(left, right, strict=True))


def test_averaged_refuses_a_step_inside_and_itself():
    weights, optimizer = averaging()
    with optimizer.averaged():
        inside = [weight.detach().clone() for weight in weights]
        with pytest.raises(RuntimeError, match=r"step\(\) inside `with optimizer.averaged\(\)`"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="the average is in place already"), optimizer.averaged():
            pass
        assert all(torch.equal(weight, old) for weight, old in zip(weights, inside, strict=True))
    optimizer.step()


def test_averaged_refuses_where_there_is_no_average():
    optimizer = ravine.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(RuntimeError, match=r"there is no average: make the optimizer with average=0\.999"):
        optimizer.averaged().__enter__()


def test_averaged_saves_nothing_before_the_first_step():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = ravine.optim.SGD([weight], average=0.9)
    with optimizer.averaged():
        assert torch.equal(weight, torch.ones(2))
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "Invalid clip_norm: 0.0; it must be above 0"),
        ({"clip_norm": -1.0}, "Invalid clip_norm: -1.0; it must be above 0"),
        ({"clip_norm": float("nan")}, "Invalid clip_norm: nan; it must be above 0"),
        ({"clip_value": 0}, "Invalid clip_value: 0; it must be above 0"),
        ({"clip_value": torch.tensor([1.0, -1.0])}, "Invalid clip_value: tensor"),
        ({"l1": -0.1}, "Invalid l1: -0.1; it must be at least 0"),
        ({"average": 1.0}, r"Invalid average: 1.0; it must be in \[0, 1\)"),
        ({"average": -0.5}, r"Invalid average: -0.5; it must be in \[0, 1\)"),
        ({"engine": "gpus"}, "Invalid engine: 'gpus'; valid are auto, eager, cpu, gpu"),
        ({"rounding": "up"}, "Invalid rounding: 'up'; valid are auto, nearest, stochastic, compensated"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        ravine.optim.Adam([torch.nn.Parameter(torch.ones(2))], **options)


def test_options_that_exclude_each_other_or_do_not_exist():
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError, match="`fused` asks for a kernel, and engine='eager' for none"):
        ravine.optim.Adam([weight], fused=True, engine="eager")
    with pytest.raises(TypeError, match=r"there is no argument 'clip_nrom'.*clip_norm"):
        ravine.optim.Adam([weight], clip_nrom=1.0)


def test_an_engine_asked_for_by_name_says_what_it_cannot_take():
    weight = torch.nn.Parameter(torch.ones(4, 2)[:, 0])
    weight.grad = torch.ones(4)
    with pytest.raises(
        RuntimeError, match=r"engine='cpu' cannot step a parameter of shape \(4,\): .* laid out"
    ):
        ravine.optim.SGD([weight], engine="cpu").step()
    weight.grad = torch.ones(4, 2)[:, 0]
    with pytest.raises(RuntimeError, match=r"engine='cpu' cannot step .*: it has gaps in memory"):
        ravine.optim.SGD([weight], engine="cpu").step()
    with pytest.raises(RuntimeError, match=r"fused=True cannot step .*: it has gaps in memory"):
        ravine.optim.SGD([weight], fused=True).step()
    ravine.optim.SGD([weight], 0.5).step()
    assert weight.tolist() == [0.5] * 4
