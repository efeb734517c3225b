"""What Muon, Shampoo and SOAP share: batches, state, checkpoints, gradients of every kind."""

import copy
import io
import pickle

import pytest
import torch

from ravine.optim.matrix import SOAP, Muon, Shampoo

MAKE = {
    "Muon": lambda params, **options: Muon(params, 0.05, algorithm="auto", **options),
    "Shampoo": lambda params, **options: Shampoo(params, 0.05, precondition_frequency=2, **options),
    "SOAP": lambda params, **options: SOAP(params, 0.05, precondition_frequency=2, **options),
}
SHAPES = ((5, 5), (4, 6), (5, 5), (7,), (4, 6), (5, 5), (2, 3, 2, 2), ())
every_class = pytest.mark.parametrize("name", MAKE)


def parameters(shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def feed(params, step):
    for number, parameter in enumerate(params):
        generator = torch.Generator().manual_seed(100 * step + number)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = noise.to(parameter.dtype)


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        feed(params, step)
        optimizer.step()


def same(left, right, **tolerance):
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


@every_class
def test_together_as_one_by_one(name):
    """A batch is an economy, and changes nothing but rounding."""
    together, alone = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    one = MAKE[name](together)
    train(one, together, 5)
    optimizers = [MAKE[name]([parameter]) for parameter in alone]
    for step in range(5):
        feed(alone, step)
        for optimizer in optimizers:
            optimizer.step()
    same(together, alone, rtol=1e-9, atol=1e-9)


@every_class
def test_a_batch_larger_than_a_chunk(name, monkeypatch):
    whole, cut = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    train(MAKE[name](whole), whole, 4)
    monkeypatch.setattr("ravine.optim.matrix.batch.CHUNK", 30)
    train(MAKE[name](cut), cut, 4)
    same(whole, cut, rtol=1e-9, atol=1e-9)


@every_class
@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_copies_continue_exactly(name, way):
    params = parameters()
    optimizer = MAKE[name](params)
    train(optimizer, params, 3)
    if way in ("deepcopy", "pickle"):
        both = (params, optimizer)
        copied = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
        others, other = copied
    else:
        others = copy.deepcopy(params)
        other = MAKE[name](others)
        saved = copy.deepcopy(optimizer.state_dict())
        if way == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        other.load_state_dict(saved)
    train(optimizer, params, 5, start=3)
    train(other, others, 5, start=3)
    same(params, others)


@every_class
def test_state_is_a_plain_tensor_a_parameter_and_key(name):
    params = parameters()
    optimizer = MAKE[name](params)
    train(optimizer, params, 2)
    for parameter in params:
        for key, value in optimizer.state[parameter].items():
            assert type(value) is torch.Tensor, key
            assert not value.requires_grad
            assert value.is_contiguous()
            assert value.dtype is torch.float32


@every_class
def test_states_of_one_shape_lie_together_and_stay_where_they_are(name):
    """What a step writes to is what the state is: nothing is stacked twice."""
    params = parameters()
    optimizer = MAKE[name](params)
    train(optimizer, params, 3)
    entries = [optimizer.state[parameter] for parameter in params]
    places = [{key: value.data_ptr() for key, value in entry.items()} for entry in entries]
    assert entries[0].keys() - {"step"}
    for key in entries[0].keys() - {"step"}:
        storages = {entries[number][key].untyped_storage().data_ptr() for number in (0, 2, 5)}
        assert len(storages) == 1
    train(optimizer, params, 2, start=3)
    for entry, place in zip(entries, places, strict=True):
        assert {key: value.data_ptr() for key, value in entry.items()} == place


@every_class
def test_state_replaced_or_changed_by_the_user_is_used(name):
    left, right = parameters(), parameters()
    one, two = MAKE[name](left), MAKE[name](right)
    train(one, left, 3)
    train(two, right, 3)
    for first, second in zip(left, right, strict=True):
        for key in one.state[first].keys() - {"step"}:
            one.state[first][key].mul_(0.5)
            two.state[second][key] = two.state[second][key].clone() * 0.5
    train(one, left, 3, start=3)
    train(two, right, 3, start=3)
    same(left, right)


@every_class
def test_state_removed_starts_anew(name):
    params = parameters(((4, 4), (4, 4)))
    optimizer = MAKE[name](params)
    train(optimizer, params, 3)
    del optimizer.state[params[0]]
    fresh = [torch.nn.Parameter(params[0].detach().clone())]
    other = MAKE[name](fresh)
    for step in range(3):
        feed(params, step)
        fresh[0].grad = params[0].grad.clone()
        optimizer.step()
        other.step()
    same(params[:1], fresh, rtol=2e-3, atol=2e-3)


@every_class
def test_parameters_without_gradient_stay_and_come_back(name):
    """Frozen, then unfrozen: each has had its own steps, whoever was in the batch."""
    together, alone = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    one = MAKE[name](together)
    optimizers = [MAKE[name]([parameter]) for parameter in alone]
    for step in range(8):
        for params in (together, alone):
            feed(params, step)
            for number, parameter in enumerate(params):
                if (step + number) % 3 == 0 or (number == 2 and step < 5):
                    parameter.grad = None
        before = [parameter.detach().clone() for parameter in together]
        one.step()
        for optimizer in optimizers:
            optimizer.step()
        for parameter, old in zip(together, before, strict=True):
            assert parameter.grad is not None or torch.equal(parameter, old)
    same(together, alone, rtol=1e-8, atol=1e-8)
    for parameter in together:
        parameter.grad = None
    one.step()


@every_class
def test_gradients_are_never_changed(name):
    params = parameters()
    optimizer = MAKE[name](params, maximize=True, clip_norm=0.5, clip_value=0.1, l1=0.1)
    for step in range(5):
        feed(params, step)
        given = [parameter.grad for parameter in params]
        kept = [gradient.clone() for gradient in given]
        optimizer.step()
        for parameter, gradient, copy_ in zip(params, given, kept, strict=True):
            assert parameter.grad is gradient
            assert torch.equal(gradient, copy_)


@every_class
def test_what_acts_on_the_gradient_acts_before_the_matrix(name):
    """Turning, clipping and L1 in the optimizer are the same on gradients given so."""
    shapes = ((5, 5), (5, 5), (3, 3), (7,), (4, 2, 2, 1))  # the first basis of others hangs on rounding
    ours, theirs = parameters(shapes, torch.float64), parameters(shapes, torch.float64)
    one = MAKE[name](ours, maximize=True, clip_norm=2.0, l1=0.3, weight_decay=0.1)
    two = MAKE[name](theirs, weight_decay=0.1)
    for step in range(4):
        feed(ours, step)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in ours])
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = -mine.grad * (2.0 / (norm + 1e-6)) + 0.3 * other.detach().sign()
        one.step()
        two.step()
    same(ours, theirs, rtol=1e-8, atol=1e-8)


@every_class
def test_average_and_proximal_step_are_composed_around(name):
    params = parameters(dtype=torch.float64)
    optimizer = MAKE[name](params, average=0.5, weight_decay=0)
    expected = None
    for step in range(4):
        train(optimizer, params, 1, start=step)
        now = [parameter.detach().clone() for parameter in params]
        expected = now if expected is None else [(a + b) / 2 for a, b in zip(expected, now, strict=True)]
    with optimizer.averaged():
        same([parameter.detach() for parameter in params], expected, rtol=1e-12, atol=1e-12)
    sparse = parameters(((6, 6),))
    train(MAKE[name](sparse, l1=1.0, proximal=True, weight_decay=0), sparse, 40)
    assert (sparse[0] == 0).any()


@every_class
def test_empty_parameters_are_passed_over(name):
    params = parameters(((0, 4), (3, 0), (0,), (3, 3)))
    train(MAKE[name](params), params, 3)
    assert params[3].isfinite().all()


@every_class
def test_memory_in_another_order(name):
    """Transposed and channels-last parameters, gradients and loaded states are what their indices say."""
    plain = parameters(((4, 6), (3, 2, 2, 2)), torch.float64)
    strided = [
        torch.nn.Parameter(plain[0].detach().T.contiguous().T),
        torch.nn.Parameter(plain[1].detach().clone(memory_format=torch.channels_last)),
    ]
    one, two = MAKE[name](plain), MAKE[name](strided)
    for step in range(6):
        for params, optimizer in ((plain, one), (strided, two)):
            feed(params, step)
            for parameter in params:
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            optimizer.step()
        if step == 2:
            for parameter in strided:
                for key, value in two.state[parameter].items():
                    if value.shape == parameter.shape:
                        two.state[parameter][key] = torch.empty_like(parameter).copy_(value)
    assert not strided[0].is_contiguous()
    assert not strided[1].grad.is_contiguous()
    same(plain, strided, rtol=1e-9, atol=1e-9)


@every_class
def test_bfloat16_parameters_have_float32_states(name):
    params, fine = parameters(((6, 6), (6,)), torch.bfloat16), parameters(((6, 6), (6,)))
    optimizer = MAKE[name](params)
    train(optimizer, params, 20)
    train(MAKE[name](fine), fine, 20)
    for parameter, other in zip(params, fine, strict=True):
        for key, value in optimizer.state[parameter].items():
            assert value.dtype is torch.float32, key
        assert (parameter.float() - other).norm() < 0.1 * other.norm()


@every_class
def test_a_bfloat16_checkpoint_is_widened(name):
    """torch keeps bfloat16 states for bfloat16 parameters; here they go on in float32."""
    params = parameters(((4, 4),), torch.bfloat16)
    optimizer = MAKE[name](params)
    train(optimizer, params, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for key, value in saved["state"][0].items():
        saved["state"][0][key] = value if key == "step" else value.bfloat16()
    optimizer.load_state_dict(saved)
    train(optimizer, params, 3, start=2)
    assert all(value.dtype is torch.float32 for value in optimizer.state[params[0]].values())
    assert params[0].isfinite().all()


@every_class
def test_refusals_by_name(name):
    matrix = torch.nn.Parameter(torch.ones(3, 3))
    matrix.grad = torch.ones(3, 3).to_sparse()
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        MAKE[name]([matrix]).step()
    turned = torch.nn.Parameter(torch.ones(3, 3, dtype=torch.complex64))
    turned.grad = torch.ones(3, 3, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match=f"{name} does not support complex parameters"):
        MAKE[name]([turned]).step()
    with pytest.raises(ValueError, match=f"{name} takes no hyperparameter of one value a member"):
        MAKE[name]([matrix], weight_decay=torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(TypeError, match="there is no argument 'momentun'"):
        MAKE[name]([matrix], momentun=0.9)


@pytest.mark.parametrize("name", ["Shampoo", "SOAP"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_gradients_that_are_not_finite_change_nothing(name, bad):
    """Averages of GGᵀ would never recover; a gradient whose square overflows is no better."""
    params = parameters(((4, 4), (3,)))
    optimizer = MAKE[name](params)
    train(optimizer, params, 3)
    kept = copy.deepcopy((params, optimizer))
    feed(params, 3)
    params[0].grad[1, 2] = bad
    with pytest.raises(RuntimeError, match=rf"{name}: gradient 0 of its group, of shape \(4, 4\), is not"):
        optimizer.step()
    train(optimizer, params, 3, start=4)
    train(kept[1], kept[0], 3, start=4)
    same(params, kept[0])


def test_muon_lets_what_is_not_finite_through_as_torch_does():
    ours, theirs = parameters(((3, 3),)), parameters(((3, 3),))
    for params, kind in ((ours, Muon), (theirs, torch.optim.Muon)):
        params[0].grad = torch.full((3, 3), float("nan"))
        kind(params).step()
    assert ours[0].isnan().all()
    assert theirs[0].isnan().all()


@every_class
def test_rates_in_tensors_and_schedules(name):
    ours, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    one, two = MAKE[name](ours), MAKE[name](theirs)
    one.param_groups[0]["lr"] = torch.tensor(0.05, dtype=torch.float64)
    schedule = torch.optim.lr_scheduler.ExponentialLR(two, 0.5)
    for step in range(4):
        train(one, ours, 1, start=step)
        train(two, theirs, 1, start=step)
        one.param_groups[0]["lr"] *= 0.5
        schedule.step()
    same(ours, theirs, rtol=1e-12, atol=1e-12)


@every_class
def test_engines_agree(name):
    eager, kernel = parameters(), parameters()
    train(MAKE[name](eager, engine="eager"), eager, 6)
    train(MAKE[name](kernel, engine="cpu"), kernel, 6)
    same(eager, kernel, rtol=1e-4, atol=1e-5)


@every_class
def test_a_closure(name):
    model = torch.nn.Linear(4, 3)
    optimizer = MAKE[name](model.parameters())
    inputs = torch.linspace(-1, 1, 20).reshape(5, 4)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - inputs[:, :3]).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(100):
        last = optimizer.step(closure).item()
    assert last < first
