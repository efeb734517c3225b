"""LBFGS, BFGS and Newton as torch optimizers: the paths of `minimize`, checkpoints, groups, failures."""

import copy
import io
import math
import pickle
import warnings

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from ravine.errors import MemoryLimitError
from ravine.optim.full_batch import room
from ravine.optim.full_batch.minimize import minimize
from ravine.optim.full_batch.optimizers import BFGS, LBFGS, Newton
from ravine.optim.full_batch.result import Reason
from ravine.training import checkpoint

CLASSES = (LBFGS, BFGS, Newton)
every_class = pytest.mark.parametrize("made", CLASSES)
quasi_newton = pytest.mark.parametrize("made", (LBFGS, BFGS))
ENDLESS = {"tolerance_grad": 0.0, "tolerance_change": 0.0}


def rosenbrock(x):
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def closure_of(optimizer, f):
    """A closure for this optimizer: all but Newton's calls backward."""

    def closure():
        if optimizer.wants_graph:
            return f()
        optimizer.zero_grad()
        loss = f()
        loss.backward()
        return loss

    return closure


def regression(dtype=torch.float64):
    """Softmax regression on 60 random items of 3 classes: (model, loss)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 4, generator=generator, dtype=torch.float64).to(dtype)
    targets = (inputs @ torch.randn(4, 3, generator=generator, dtype=torch.float64).to(dtype)).argmax(1)
    model = nn.Linear(4, 3).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model, lambda: functional.cross_entropy(model(inputs), targets)


def weights_of(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("made", "options", "method", "minimizer_options"),
    [
        (LBFGS, {"history_size": 7}, "lbfgs", {"memory": 7}),
        (BFGS, {}, "bfgs", {}),
        (Newton, {}, "newton", {}),
    ],
)
@pytest.mark.parametrize("max_iter", [1, 5])
def test_the_path_is_that_of_minimize(made, options, method, minimizer_options, max_iter):
    """Bit for bit, and with as many evaluations, though the steps cut it into pieces."""
    start = torch.tensor([-1.2, 1.0, 0.3, -0.5], dtype=torch.float64)
    result = minimize(
        rosenbrock,
        start,
        method,
        options={**minimizer_options, "maxiter": 10, "gtol": 0.0, "return_path": True},
    )
    x = start.clone().requires_grad_()
    optimizer = made([x], max_iter=max_iter, max_eval=1000, allow_noise=False, **options, **ENDLESS)
    evaluations = 0
    for iteration in range(max_iter, 11, max_iter):
        optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
        assert torch.equal(x.detach(), result.path[iteration].x), iteration
        evaluations += optimizer.last.evaluations
    assert evaluations == result.nfev + result.nhev
    assert optimizer.last.loss == result.path[10].value


@every_class
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_convex_problem_ends_at_the_minimum_that_torch_finds(made, dtype):
    penalty = 1e-2
    reference, loss = regression()
    theirs = torch.optim.LBFGS(
        reference.parameters(), max_iter=500, max_eval=2000, tolerance_grad=1e-10, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def penalized():
        theirs.zero_grad()
        value = loss() + penalty / 2 * sum(p.square().sum() for p in reference.parameters())
        value.backward()
        return value

    theirs.step(penalized)
    model, own_loss = regression(dtype)
    optimizer = made(
        model.parameters(), max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-15, weight_decay=penalty
    )
    first = optimizer.step(closure_of(optimizer, own_loss))
    assert first == pytest.approx(math.log(3), rel=1e-6) and first.dtype == dtype
    assert optimizer.last.reason.success
    tolerance = 1e-8 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(
        weights_of(model).double(), weights_of(reference), rtol=tolerance, atol=tolerance
    )
    assert optimizer.last.loss == pytest.approx(loss().item(), rel=1e-5)


def stepped(optimizer, closure, steps):
    for _ in range(steps):
        optimizer.step(closure)


def through_json(state):
    """As a training's checkpoint keeps it: tensors beside what JSON can hold."""
    tensors = {}
    record = checkpoint.flatten("optimizer", state, tensors)
    return checkpoint.unflatten(record, safetensors.torch.load(safetensors.torch.save(tensors)))


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_class
@pytest.mark.parametrize("allow_noise", [True, False])
@pytest.mark.parametrize("through", [through_json, through_torch], ids=["json", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_checkpoint_goes_on_bit_for_bit(made, allow_noise, through, dtype):
    options = {"max_iter": 2, "weight_decay": 1e-3, "allow_noise": allow_noise, **ENDLESS}
    if made is LBFGS:
        options["history_size"] = 3  # the ring of pairs is full, and begins anywhere
    whole, whole_loss = regression(dtype)
    optimizer = made(whole.parameters(), **options)
    stepped(optimizer, closure_of(optimizer, whole_loss), 6)
    first, first_loss = regression(dtype)
    optimizer_before = made(first.parameters(), **options)
    stepped(optimizer_before, closure_of(optimizer_before, first_loss), 3)
    second, second_loss = regression(dtype)
    second.load_state_dict(first.state_dict())
    optimizer_after = made(second.parameters())
    optimizer_after.load_state_dict(through(optimizer_before.state_dict()))
    stepped(optimizer_after, closure_of(optimizer_after, second_loss), 3)
    assert torch.equal(weights_of(second), weights_of(whole))
    one, other = optimizer.state_dict()["state"][0], optimizer_after.state_dict()["state"][0]
    assert one["n_iter"] == other["n_iter"] and one["func_evals"] == other["func_evals"]


@every_class
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_go_on_like_the_original_and_apart_from_it(made, copied):
    x = torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    optimizer = made([x], max_iter=3, **ENDLESS)
    stepped(optimizer, closure_of(optimizer, lambda: rosenbrock(x)), 2)
    twin, own = copied((optimizer, x))
    assert own is twin.param_groups[0]["params"][0]
    before = x.detach().clone()
    stepped(twin, closure_of(twin, lambda: rosenbrock(own)), 2)
    assert torch.equal(x.detach(), before)
    stepped(optimizer, closure_of(optimizer, lambda: rosenbrock(x)), 2)
    assert torch.equal(x, own)


@every_class
def test_a_state_of_other_parameters_is_refused(made):
    x, y = torch.ones(3, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = made([x])
    optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    with pytest.raises(ValueError, match=r"the state is of 3 numbers, but .* steps 4"):
        made([y]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("made", "other"),
    [(LBFGS, torch.optim.LBFGS), (BFGS, torch.optim.Adam), (LBFGS, BFGS), (BFGS, LBFGS), (LBFGS, Newton)],
)
def test_another_optimizer_s_state_is_refused_and_nothing_is_changed(made, other):
    x = torch.tensor([-1.2, 1.0], requires_grad=True)
    theirs = other([x])

    def closure():
        theirs.zero_grad()
        loss = rosenbrock(x)
        if other is not Newton:
            loss.backward()
        return loss

    theirs.step(closure)
    ours = made([x])
    with pytest.raises(ValueError, match=f"this is no state of {made.__name__}"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict() == made([x]).state_dict()


def test_another_history_size_begins_the_curvature_anew():
    x = torch.tensor([-1.2, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([x], max_iter=4, history_size=9, **ENDLESS)
    stepped(optimizer, closure_of(optimizer, lambda: rosenbrock(x)), 2)
    optimizer.param_groups[0]["history_size"] = 3
    stepped(optimizer, closure_of(optimizer, lambda: rosenbrock(x)), 1)
    state = optimizer.state_dict()
    assert state["state"][0]["curvature"]["steps"].shape == (3, 3)
    resumed = LBFGS([x])
    resumed.load_state_dict(state)
    stepped(resumed, closure_of(resumed, lambda: rosenbrock(x)), 1)


@quasi_newton
def test_thawing_one_and_freezing_another_of_its_size_begins_anew(made):
    x, y = (torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    y.requires_grad_(False)
    optimizer = made([x, y], max_iter=3, allow_noise=False, **ENDLESS)

    def loss():
        return rosenbrock(x) + 7 * (y - 3).square().sum()

    stepped(optimizer, closure_of(optimizer, loss), 1)
    with torch.no_grad():
        y.copy_(x)
    x.requires_grad_(False)
    y.requires_grad_(True)
    stepped(optimizer, closure_of(optimizer, loss), 2)
    torch.testing.assert_close(y.detach(), torch.full_like(y, 3.0))


def test_a_closure_of_newton_that_calls_backward_is_told():
    x = torch.tensor([-1.2, 1.0], requires_grad=True)
    optimizer = Newton([x])

    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"not call backward\(\): second derivatives"):
        optimizer.step(closure)


@quasi_newton
def test_a_state_that_is_cleared_begins_anew(made):
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    x, y = start.clone().requires_grad_(), start.clone().requires_grad_()
    used, fresh = made([x]), made([y])
    stepped(used, closure_of(used, lambda: rosenbrock(x)), 2)
    used.state.clear()
    with torch.no_grad():
        x.copy_(start)
    used.step(closure_of(used, lambda: rosenbrock(x)))
    fresh.step(closure_of(fresh, lambda: rosenbrock(y)))
    assert torch.equal(x, y)


@every_class
def test_groups_have_their_own_weight_decay(made):
    """The minimum of ½(x−1)² + ½λx² is at 1/(1+λ)."""
    x, y = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = made(
        [{"params": [x]}, {"params": [y], "weight_decay": 3.0}], weight_decay=1.0, tolerance_change=0
    )
    loss = optimizer.step(closure_of(optimizer, lambda: ((x - 1) ** 2).sum() / 2 + ((y - 1) ** 2).sum() / 2))
    torch.testing.assert_close(x.detach(), torch.full_like(x, 0.5))
    torch.testing.assert_close(y.detach(), torch.full_like(y, 0.25))
    assert loss == 2.0
    assert optimizer.last.loss == pytest.approx(0.25 + 0.5625), "penalties are no part of it"


@every_class
def test_groups_that_differ_otherwise_are_refused(made):
    x, y = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="not in lr"):
        made([{"params": [x]}, {"params": [y], "lr": 0.5}])
    optimizer = made([x])
    with pytest.raises(ValueError, match="not in max_iter"):
        optimizer.add_param_group({"params": [y], "max_iter": 3})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [y]})
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match="not in lr"):
        optimizer.step(closure_of(optimizer, lambda: (x + y).square().sum()))


@every_class
def test_frozen_parameters_stay_and_may_thaw(made):
    x, y = (torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y.requires_grad_(False)
    optimizer = made([x, y])
    closure = closure_of(optimizer, lambda: ((x - 1) ** 2 + (y - 2) ** 2).sum())
    optimizer.step(closure)
    assert torch.equal(y, torch.zeros_like(y))
    y.requires_grad_()
    stepped(optimizer, closure, 2)
    torch.testing.assert_close(y.detach(), torch.full_like(y, 2.0))
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        made([torch.zeros(2)]).step(lambda: 0.0)


@every_class
def test_a_parameter_without_a_gradient_has_a_gradient_of_zero(made):
    x, unused = torch.zeros(2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = made([x, unused])
    optimizer.step(closure_of(optimizer, lambda: ((x - 1) ** 2).sum()))
    torch.testing.assert_close(x.detach(), torch.ones(2))
    assert torch.equal(unused, torch.ones(3))


@every_class
def test_changed_parameters_are_noticed_though_noise_is_not_allowed(made):
    """What the last step found holds only where it left the parameters."""
    x = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)
    optimizer = made([x], max_iter=1, allow_noise=False)
    closure = closure_of(optimizer, lambda: rosenbrock(x))
    optimizer.step(closure)
    with torch.no_grad():
        x.fill_(0.0)
    assert optimizer.step(closure) == 1.0


def walled(x):
    """A parabola with its minimum at 1, not-a-number from 1.5 on."""
    return torch.where(x < 1.5, (x - 1) ** 2, torch.nan).sum()


@every_class
@pytest.mark.parametrize("lr", [1.0, 1e6])
def test_steps_shrink_before_a_wall_of_values_that_are_not_finite(made, lr):
    x = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([x], lr=lr, max_iter=50)
    optimizer.step(closure_of(optimizer, lambda: walled(x)))
    torch.testing.assert_close(x.detach(), torch.ones(1, dtype=torch.float64))


@quasi_newton
def test_fixed_steps_shrink_there_too_and_have_their_length_elsewhere(made):
    x = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([x], lr=1e3, max_iter=1, line_search_fn=None)
    optimizer.step(closure_of(optimizer, lambda: walled(x)))
    assert -3 < x.item() < 1.5
    y = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([y], lr=0.5, max_iter=1, line_search_fn=None)
    optimizer.step(closure_of(optimizer, lambda: y.square().sum()))
    step = 0.5 / 8 * torch.tensor([6.0, -2.0], dtype=torch.float64)  # torch's first: lr·g/|g|₁
    torch.testing.assert_close(y.detach(), torch.tensor([3.0, -1.0], dtype=torch.float64) - step)


@every_class
def test_where_every_step_is_bad_the_parameters_go_back_with_a_warning(made):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    start = x.detach().clone()
    optimizer = made([x])

    evaluations = 0

    def spoilt():
        nonlocal evaluations
        evaluations += 1
        return rosenbrock(x) * (1.0 if evaluations <= 1 + made.wants_graph else math.nan)

    with pytest.warns(RuntimeWarning, match=rf"{made.__name__}: no step leads to a finite loss"):
        optimizer.step(closure_of(optimizer, spoilt))
    assert torch.equal(x.detach(), start)
    assert optimizer.last.reason is Reason.NOT_FINITE


@every_class
def test_a_loss_that_is_not_finite_at_the_start_moves_nothing(made):
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([x])
    with pytest.warns(RuntimeWarning, match="not finite where the step begins"):
        optimizer.step(closure_of(optimizer, lambda: (x * math.inf).sum()))
    assert x.item() == 1.0
    optimizer.step(closure_of(optimizer, lambda: x.square().sum()))
    assert x.item() == pytest.approx(0.0, abs=1e-9)


@every_class
def test_parameters_that_became_bad_are_put_back_to_the_last_good_ones(made):
    x = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([x])
    closure = closure_of(optimizer, lambda: x.cosh().sum())
    optimizer.step(closure)
    good = x.item()
    with torch.no_grad():
        x.fill_(math.nan)
    optimizer.step(closure)
    assert math.isfinite(x.item()) and math.cosh(x.item()) <= math.cosh(good)


@every_class
def test_an_exception_in_the_closure_leaves_the_last_accepted_point(made):
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    points, seen = [], 0

    def failing():
        nonlocal seen
        seen += 1
        if seen == 12:
            raise KeyboardInterrupt
        points.append(x.detach().clone())
        return rosenbrock(x)

    optimizer = made([x], max_iter=50)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure_of(optimizer, failing))
    assert any(torch.equal(x.detach(), point) for point in points)
    assert rosenbrock(x) < rosenbrock(points[0])
    optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert optimizer.last.loss < 1e-3


def test_a_linear_and_a_constant_function_end():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([x])
    optimizer.step(closure_of(optimizer, lambda: x.sum()))
    assert optimizer.last.reason is Reason.UNBOUNDED
    optimizer.step(closure_of(optimizer, lambda: (x * 0).sum()))
    assert optimizer.last.reason is Reason.GRADIENT and optimizer.last.iterations == 0


@quasi_newton
def test_a_closure_that_forgets_backward_is_told(made):
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="must call backward"):
        made([x]).step(lambda: rosenbrock(x))
    with pytest.raises(RuntimeError, match="its graph, and not call"):
        Newton([x]).step(lambda: 3.0)


@quasi_newton
def test_sparse_gradients_are_refused(made):
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = made(embedding.parameters())
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step(closure_of(optimizer, lambda: embedding(torch.tensor([1, 2])).square().sum()))
    assert torch.equal(embedding.weight, before)


@every_class
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"max_iter": 0}, "Invalid max_iter"),
        ({"max_eval": -1}, "Invalid max_eval"),
        ({"tolerance_grad": -1.0}, "Invalid tolerance_grad"),
        ({"tolerance_change": math.nan}, "Invalid tolerance_change"),
        ({"weight_decay": -0.1}, "Invalid weight_decay"),
    ],
)
def test_values_out_of_range_are_refused(made, options, told):
    with pytest.raises(ValueError, match=told):
        made([torch.zeros(1, requires_grad=True)], **options)


def test_names_and_kinds_that_do_not_fit_are_refused():
    x = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="Invalid line_search_fn: 'armijo'"):
        LBFGS([x], line_search_fn="armijo")
    with pytest.raises(ValueError, match="Invalid max_iter: 0; it must be a whole number of at least 1"):
        LBFGS([x], max_iter=0)
    with pytest.raises(ValueError, match=r"Invalid max_iter: 2\.5"):
        LBFGS([x], max_iter=2.5)
    with pytest.raises(ValueError, match="Invalid history_size: 0"):
        LBFGS([x], history_size=0)
    with pytest.raises(ValueError, match=r"float32 or float64 parameters, not torch\.bfloat16"):
        LBFGS([x.detach().bfloat16().requires_grad_()])
    with pytest.raises(ValueError, match="of one type and on one device"):
        LBFGS([x, x.detach().double().requires_grad_()])
    with pytest.raises(ValueError, match=r"not torch\.complex64"):
        LBFGS([torch.zeros(1, dtype=torch.complex64, requires_grad=True)])


def test_torch_s_call_by_position_is_valid():
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([x], 1, 20, None, 1e-7, 1e-9, 100, "strong_wolfe")
    theirs = torch.optim.LBFGS([x], 1, 20, None, 1e-7, 1e-9, 100, "strong_wolfe")
    assert theirs.defaults.items() <= optimizer.defaults.items()
    assert optimizer.defaults["max_eval"] == 25


def test_a_rate_of_zero_takes_no_step():
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([x], lr=0.0)
    optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    assert x.tolist() == [-1.2, 1.0]


@pytest.mark.parametrize(("made", "needed"), [(BFGS, "0.9 GiB"), (Newton, "3.7 GiB")])
def test_matrices_that_do_not_fit_are_refused_before_anything_is_made(made, needed, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda _: 2**30)
    with pytest.raises(
        MemoryLimitError, match=rf"15,811 x 15,811 numbers: at work it takes {needed}, .* 1\.0 GiB"
    ):
        made([torch.zeros(15_811, requires_grad=True)])
    made([torch.zeros(1000, requires_grad=True)])
    monkeypatch.setattr(room, "free_bytes", lambda _: None)
    made([torch.zeros(15_811, requires_grad=True)])


@every_class
def test_no_warning_where_nothing_is_wrong(made):
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = made([x], max_iter=100, max_eval=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(closure_of(optimizer, lambda: rosenbrock(x)))
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=1e-4)
