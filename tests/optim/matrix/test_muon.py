"""Muon against torch's, against float64 written out, and Newton-Schulz in closed form."""

import copy

import pytest
import torch

import ravine.optim.matrix
from ravine.optim import AdamW
from ravine.optim.matrix import Muon
from ravine.optim.matrix.newton_schulz import orthogonalized

USUAL = (3.4445, -4.7750, 2.0315)
SHAPES = ((16, 16), (24, 8), (8, 24), (24, 8), (1, 5), (7, 1))


def parameters(shapes=SHAPES, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]


def feed(params, step):
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in params:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (0.3 * parameter.detach().double() + noise).to(parameter.dtype)


def test_newton_schulz_moves_the_singular_values_alone():
    """U·p(Σ)·Vᵀ with the quintic p, worked out on the singular values themselves."""
    torch.manual_seed(0)
    for shape in ((5, 6, 6), (5, 4, 9), (5, 9, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        u, values, vh = torch.linalg.svd(x, full_matrices=False)
        values = values / values.square().sum(-1, keepdim=True).sqrt()
        a, b, c = USUAL
        for _ in range(5):
            values = a * values + b * values**3 + c * values**5
        expected = u @ torch.diag_embed(values) @ vh
        torch.testing.assert_close(orthogonalized(x, USUAL, 1e-7, 5), expected, rtol=1e-10, atol=1e-10)
        assert values.min() > 0.3
        assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(2, 9, 9), (2, 6, 13), (2, 13, 6)])
def test_large_matrices_by_halves(shape, monkeypatch):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = orthogonalized(x, USUAL, 1e-7, 5)
    monkeypatch.setattr("ravine.optim.matrix.newton_schulz.LARGE", 2)
    torch.testing.assert_close(orthogonalized(x, USUAL, 1e-7, 5), whole, rtol=1e-10, atol=1e-10)


def test_newton_schulz_of_nothing_is_nothing():
    assert orthogonalized(torch.zeros(2, 3, 4), USUAL, 1e-7, 5).abs().max() == 0


def test_float32_agrees_with_float64_to_bfloat16():
    torch.manual_seed(0)
    x = torch.randn(3, 32, 20, dtype=torch.float64)
    fine, coarse = (orthogonalized(each, USUAL, 1e-7, 5) for each in (x, x.float()))
    assert (fine - coarse).norm() < 0.03 * fine.norm()


def written_out(start, grads, *, lr, weight_decay, momentum, nesterov, ratio):
    """Muon for one matrix, a line an equation."""
    x, buffer = start.clone(), torch.zeros_like(start)
    a, b, c = USUAL
    for grad in grads:
        buffer = momentum * buffer + (1 - momentum) * grad
        o = (1 - momentum) * grad + momentum * buffer if nesterov else buffer
        o = o / o.norm().clamp(min=1e-7)
        for _ in range(5):
            gram = o @ o.T
            o = a * o + b * gram @ o + c * gram @ gram @ o
        x = (1 - lr * weight_decay) * x - lr * ratio * o
    return x


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("name", [None, "original", "match_rms_adamw"])
def test_float64_is_the_equation(nesterov, name):
    params = parameters(dtype=torch.float64)
    starts = [parameter.detach().clone() for parameter in params]
    optimizer = Muon(params, 0.1, 0.2, 0.9, nesterov, adjust_lr_fn=name)
    grads = []
    for step in range(4):
        feed(params, step)
        grads.append([parameter.grad.clone() for parameter in params])
        optimizer.step()
    for number, (parameter, start) in enumerate(zip(params, starts, strict=True)):
        m, n = start.shape
        ratio = 0.2 * max(m, n) ** 0.5 if name == "match_rms_adamw" else max(1, m / n) ** 0.5
        options = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9, "nesterov": nesterov, "ratio": ratio}
        expected = written_out(start, [each[number] for each in grads], **options)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": torch.tensor(0.02), "nesterov": False},
        {"momentum": 0.5, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"},
        {"ns_steps": 6, "ns_coefficients": (2.0, -1.5, 0.5)},
        {"weight_decay": 0.2, "eps": 1e3},
    ],
)
def test_steps_as_torch_does(options):
    """Apart from bfloat16: both take the iteration in it, and round at different places."""
    ours, theirs = parameters(), parameters()
    starts = [parameter.detach().clone() for parameter in ours]
    one, two = Muon(ours, **{"lr": 0.02, **options}), torch.optim.Muon(theirs, **{"lr": 0.02, **options})
    for step in range(6):
        feed(ours, step)
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = mine.grad.clone()
        one.step()
        two.step()
    for mine, other, start in zip(ours, theirs, starts, strict=True):
        assert (mine - other).norm() < 0.02 * (other - start).norm()
        entry, expected = one.state[mine], two.state[other]
        assert entry.keys() == expected.keys()
        torch.testing.assert_close(
            entry["momentum_buffer"], expected["momentum_buffer"], rtol=2e-3, atol=2e-3
        )


@pytest.mark.parametrize("ours_first", [True, False])
def test_checkpoints_exchange_with_torch_in_the_middle(ours_first):
    kinds = (Muon, torch.optim.Muon) if ours_first else (torch.optim.Muon, Muon)
    params = parameters()
    source = kinds[0](params, lr=0.05, momentum=0.9)
    for step in range(3):
        feed(params, step)
        source.step()
    copies = copy.deepcopy(params)
    target = kinds[1](copies, lr=1.0)
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert target.param_groups[0]["lr"] == 0.05
    for mine, other in zip(params, copies, strict=True):
        assert torch.equal(source.state[mine]["momentum_buffer"], target.state[other]["momentum_buffer"])
    starts = copy.deepcopy(params)
    for step in range(3, 6):
        feed(params, step)
        feed(copies, step)
        source.step()
        target.step()
    for mine, other, start in zip(params, copies, starts, strict=True):
        assert (mine - other).norm() < 0.02 * (mine - start).norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0"),
        ({"lr": float("nan")}, "Learning rate should be >= 0"),
        ({"lr": torch.tensor([0.1, 0.2])}, "Tensor lr must be 1-element"),
        ({"momentum": -0.1}, "momentum should be >= 0"),
        ({"weight_decay": -0.1}, "weight decay should be >= 0"),
        ({"adjust_lr_fn": "arbitrary"}, "Adjust learning rate function arbitrary is not supported"),
        ({"ns_steps": 100}, "Number of steps must be less than 100"),
        ({"ns_coefficients": (1.0, 2.0)}, "exactly 3 values"),
        ({"algorithm": "sgd"}, "Invalid algorithm: 'sgd'; valid are muon, adam, auto"),
        ({"adam_betas": (0.9, 1.0)}, "Invalid beta parameter at index 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Muon(parameters(), **options)
    optimizer = Muon(parameters())
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": parameters(((2, 2),)), **options})
    assert len(optimizer.param_groups) == 1


def test_what_is_no_matrix_is_refused_as_torch_does():
    vector = parameters(((4,),))
    for kind in (Muon, torch.optim.Muon):
        with pytest.raises(ValueError, match=r"only supports 2D parameters .* size: torch.Size\(\[4\]\)"):
            kind(vector)


def test_auto_steps_vectors_by_adamw_and_convolutions_by_muon():
    shapes = ((6, 4), (6,), (), (6, 2, 2, 1))
    ours = parameters(shapes, torch.float64)
    adam = copy.deepcopy(ours[1:3])
    flat = [torch.nn.Parameter(ours[3].detach().flatten(1).clone())]
    one = Muon(ours, 0.01, algorithm="auto", adam_betas=(0.8, 0.9), eps=1e-6)
    two = AdamW(adam, 0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    three = Muon(flat, 0.01, eps=1e-6)
    for step in range(4):
        feed(ours, step)
        for mine, other in zip(ours[1:3], adam, strict=True):
            other.grad = mine.grad.clone()
        flat[0].grad = ours[3].grad.flatten(1).clone()
        for optimizer in (one, two, three):
            optimizer.step()
    for mine, other in zip(ours[1:3], adam, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours[3].flatten(1), flat[0], rtol=1e-12, atol=1e-12)
    assert one.state[ours[1]]["step"] == 4


def test_a_group_by_adam():
    """Embeddings and the last layer are matrices that Muon's author steps by Adam."""
    embedding, hidden = parameters(((9, 4), (4, 4)), torch.float64)
    reference = copy.deepcopy(embedding)
    one = Muon([{"params": [hidden]}, {"params": [embedding], "algorithm": "adam", "lr": 3e-3}], 0.02)
    two = AdamW([reference], 3e-3, betas=(0.9, 0.95), eps=1e-7, weight_decay=0.1)
    for step in range(3):
        feed([embedding, hidden], step)
        reference.grad = embedding.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(embedding, reference, rtol=1e-12, atol=1e-12)
    assert "momentum_buffer" in one.state[hidden]
    assert "momentum_buffer" not in one.state[embedding]


def test_it_is_registered():
    from ravine import registry

    assert registry.lookup("optimizer", "muon") is ravine.optim.matrix.Muon
