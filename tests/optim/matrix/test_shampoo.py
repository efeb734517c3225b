"""Shampoo against SciPy's matrix powers, one matrix at a time, as its papers write it."""

import numpy as np
import pytest
import scipy.linalg
import torch

from ravine.optim.matrix import Shampoo


def power(matrix, exponent):
    return np.real(scipy.linalg.fractional_matrix_power(matrix, exponent))


class Reference:
    """Gupta et al., arXiv:1802.09568, algorithm 1, with Shi et al., arXiv:2309.06497, section 3; float64."""

    def __init__(self, x, *, lr, betas, eps, frequency, exponent, grafting):
        self.x, self.lr, self.betas, self.eps, self.frequency = x, lr, betas, eps, frequency
        self.exponent, self.grafting = exponent, grafting
        self.m, self.v, self.t, self.roots = np.zeros_like(x), np.zeros_like(x), 0, None
        self.left, self.right = (np.zeros((n, n)) for n in x.shape)

    def step(self, g):
        self.t += 1
        beta1, beta2 = self.betas
        share, corrected = (1, 1) if beta2 == 1 else (1 - beta2, 1 - beta2**self.t)
        self.left = beta2 * self.left + share * g @ g.T
        self.right = beta2 * self.right + share * g.T @ g
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + share * g * g
        mean = self.m / (1 - beta1**self.t)
        graft = mean if self.grafting != "adam" else mean / (np.sqrt(self.v / corrected) + 1e-8)
        if self.t % self.frequency == 0 or (self.grafting is None and self.t == 1):
            self.roots = [
                power(sums / corrected + self.eps * np.eye(len(sums)), -self.exponent)
                for sums in (self.left, self.right)
            ]
        step = graft
        if self.roots is not None:
            step = self.roots[0] @ mean @ self.roots[1]
            if self.grafting is not None:
                step = step * np.linalg.norm(graft) / np.linalg.norm(step)
        self.x = self.x - self.lr * step


def gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    tilt = rng.normal(size=(shape[0], shape[0]))
    return [tilt @ rng.normal(size=shape) * (1 + step) for step in range(steps)]


def run(optimizer, parameter, grads):
    for grad in grads:
        parameter.grad = torch.from_numpy(grad).to(parameter.dtype).reshape(parameter.shape)
        optimizer.step()
    return parameter.detach().double().numpy()


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 3), (5, 1)])
@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize(
    ("grafting", "betas", "exponent"),
    [
        (None, (0.0, 1.0), None),  # the first paper
        (None, (0.9, 0.99), 0.5),
        ("adam", (0.9, 0.99), None),
        ("sgd", (0.8, 1.0), None),
    ],
)
def test_steps_as_the_papers_say(shape, frequency, grafting, betas, exponent):
    start = np.random.default_rng(1).normal(size=shape)
    reference = Reference(
        start.copy(),
        lr=0.1,
        betas=betas,
        eps=1e-2,
        frequency=frequency,
        exponent=exponent or 1 / 4,
        grafting=grafting,
    )
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Shampoo(
        [parameter],
        0.1,
        betas,
        1e-2,
        precondition_frequency=frequency,
        exponent=exponent,
        grafting=grafting,
    )
    for grad in gradients(shape, 7):
        run(optimizer, parameter, [grad])
        reference.step(grad)
        np.testing.assert_allclose(parameter.detach().numpy(), reference.x, rtol=1e-8, atol=1e-9)


def test_float32_stays_close_to_float64():
    start = np.random.default_rng(2).normal(size=(12, 12))
    fine, coarse = (torch.nn.Parameter(torch.tensor(start, dtype=d)) for d in (torch.float64, torch.float32))
    grads = gradients((12, 12), 25)
    results = [run(Shampoo([each], 0.01), each, grads) for each in (fine, coarse)]
    assert np.linalg.norm(results[0] - results[1]) < 1e-3 * np.linalg.norm(results[0] - start)


def test_float32_statistics_without_full_rank_give_finite_steps():
    """One outer product: eigenvalues that are rounding alone must not blow up, though ε is tiny."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(40, 30))
    optimizer = Shampoo([parameter], 1.0, (0.0, 1.0), precondition_frequency=1, grafting=None)
    parameter.grad = torch.randn(40, 1) @ torch.randn(1, 30)
    optimizer.step()
    # UΣVᵀ of rank one becomes UVᵀ, of norm 1.
    assert parameter.norm().item() == pytest.approx(1.0, abs=1e-3)


def test_turned_gradients_turn_the_step():
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    grads = gradients((6, 6), 8)
    paths = []
    for series in (grads, [u @ grad @ v.T for grad in grads]):
        parameter = torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
        optimizer = Shampoo([parameter], 0.1, precondition_frequency=2, grafting="sgd")
        paths.append(run(optimizer, parameter, series))
    np.testing.assert_allclose(u @ paths[0] @ v.T, paths[1], rtol=1e-6, atol=1e-8)


def test_blocks_are_matrices_of_their_own():
    start = np.random.default_rng(4).normal(size=(5, 7))
    grads = gradients((5, 7), 6)
    whole = torch.nn.Parameter(torch.from_numpy(start.copy()))
    options = {"lr": 0.1, "precondition_frequency": 2}
    found = run(Shampoo([whole], max_preconditioner_dim=3, **options), whole, grads)
    for rows in (slice(0, 3), slice(3, 5)):
        for columns in (slice(0, 3), slice(3, 6), slice(6, 7)):
            part = torch.nn.Parameter(torch.from_numpy(start[rows, columns].copy()))
            own = [np.ascontiguousarray(grad[rows, columns]) for grad in grads]
            expected = run(Shampoo([part], **options), part, own)
            np.testing.assert_allclose(found[rows, columns], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_vectors_go_by_the_grafted_method(shape):
    for grafting in ("adam", "sgd"):
        torch.manual_seed(0)
        ours = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
        x, m, v = ours.detach().clone(), 0.0, 0.0
        optimizer = Shampoo([ours], 0.1, (0.8, 0.9), precondition_frequency=1, grafting=grafting)
        for t in range(1, 5):
            ours.grad = torch.randn(shape, dtype=torch.float64)
            m, v = 0.8 * m + 0.2 * ours.grad, 0.9 * v + 0.1 * ours.grad**2
            mean, square = m / (1 - 0.8**t), v / (1 - 0.9**t)
            x = x - 0.1 * (mean / (square.sqrt() + 1e-8) if grafting == "adam" else mean)
            optimizer.step()
            torch.testing.assert_close(ours.detach(), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{"grafting": None}, {"grafting": "sgd", "precondition_1d": True}])
def test_vectors_are_preconditioned_from_one_side(options):
    """The first paper's tensor with one side: the exponent is 1/2, full-matrix AdaGrad."""
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Shampoo([parameter], 0.1, (0.0, 1.0), 1e-2, precondition_frequency=1, **options)
    x, sums = np.zeros(4), np.zeros((4, 4))
    for grad in gradients((4, 1), 5):
        g = grad[:, 0]
        sums += np.outer(g, g)
        step = power(sums + 1e-2 * np.eye(4), -0.5) @ g
        if options["grafting"]:
            step *= np.linalg.norm(g) / np.linalg.norm(step)
        x = x - 0.1 * step
        found = run(optimizer, parameter, [g])
        np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-10)


def test_a_convolution_is_a_matrix_with_a_row_a_kernel():
    start = torch.randn(4, 2, 3, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels, flat = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.flatten(1).clone())
    grads = gradients((4, 6), 6)
    paths = [run(Shampoo([each], precondition_frequency=2), each, grads) for each in (kernels, flat)]
    np.testing.assert_array_equal(paths[0].reshape(4, 6), paths[1])


def test_a_gradient_of_zeros_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    for grafting in ("adam", "sgd", None):
        optimizer = Shampoo([parameter], precondition_frequency=1, grafting=grafting)
        for _ in range(2):
            parameter.grad = torch.zeros(3, 4)
            optimizer.step()
        assert torch.equal(parameter, torch.ones(3, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0"),
        ({"betas": (0.9, 1.1)}, "Invalid beta parameter at index 1: 1.1"),
        ({"betas": (0.9, 1.0)}, r"grafting='adam' needs betas\[1\] below 1"),
        ({"eps": 0.0}, "Invalid eps: 0.0; it must be above 0"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value"),
        ({"precondition_frequency": 0}, "Invalid precondition_frequency: 0; it must be a whole number"),
        ({"max_preconditioner_dim": 0}, "Invalid max_preconditioner_dim: 0"),
        ({"exponent": 0.0}, "Invalid exponent: 0.0; it must be above 0"),
        ({"grafting": "adagrad"}, "Invalid grafting: 'adagrad'; valid are None, adam, sgd"),
        ({"grafting_eps": -1.0}, "Invalid grafting_eps"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Shampoo([torch.nn.Parameter(torch.ones(2, 2))], **options)
