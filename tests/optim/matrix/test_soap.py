"""SOAP against algorithm 3 of its paper, written out in NumPy for one matrix at a time."""

import copy

import numpy as np
import pytest
import torch

from ravine.optim.matrix import SOAP


class Reference:
    """Vyas et al., arXiv:2409.11321, algorithms 3 and 4, one matrix, float64.

    With the authors' program: the first gradient only gives the bases; the basis vectors are sorted by
    eigenvalue and V with them; the mean of the gradients is kept in the parameters' coordinates here, where
    a turn of the basis does not concern it.
    """

    def __init__(self, x, *, lr, betas, shampoo_beta, eps, frequency, longest):
        self.x, self.lr, self.betas, self.eps, self.frequency = x, lr, betas, eps, frequency
        self.leak = betas[1] if shampoo_beta is None else shampoo_beta
        self.m, self.v, self.t = np.zeros_like(x), np.zeros_like(x), 0
        self.sums = [np.zeros((n, n)) if n <= longest else None for n in x.shape]
        self.bases = None

    def project(self, g):
        left, right = self.bases
        g = g if left is None else left.T @ g
        return g if right is None else g @ right

    def project_back(self, n):
        left, right = self.bases
        n = n if left is None else left @ n
        return n if right is None else n @ right.T

    def step(self, g):
        starts = self.bases is None
        if not starts:
            self.t += 1
            beta1, beta2 = self.betas
            self.m = beta1 * self.m + (1 - beta1) * g
            self.v = beta2 * self.v + (1 - beta2) * self.project(g) ** 2
            mean = self.project(self.m) / (1 - beta1**self.t)
            square = self.v / (1 - beta2**self.t)
            self.x = self.x - self.lr * self.project_back(mean / (np.sqrt(square) + self.eps))
        for sums, outer in zip(self.sums, (g @ g.T, g.T @ g), strict=True):
            if sums is not None:
                sums[:] = self.leak * sums + (1 - self.leak) * outer
        if starts:
            self.bases = [None if p is None else np.linalg.eigh(p)[1][:, ::-1] for p in self.sums]
        elif self.t % self.frequency == 0:
            self.refresh()

    def refresh(self):
        for axis, (p, q) in enumerate(zip(self.sums, self.bases, strict=True)):
            if p is not None:
                order = np.argsort(-np.diag(q.T @ p @ q))
                self.v = np.take(self.v, order, axis=axis)
                self.bases[axis] = np.linalg.qr(p @ q[:, order])[0]


def gradients(shape, steps, seed=0):
    rng = np.random.default_rng(seed)
    tilt = rng.normal(size=(shape[0], shape[0]))
    return [tilt @ rng.normal(size=shape) * (1 + step) for step in range(steps)]


def run(optimizer, parameter, grads):
    for grad in grads:
        parameter.grad = torch.from_numpy(grad).to(parameter.dtype).reshape(parameter.shape)
        optimizer.step()
    return parameter.detach().double().numpy().reshape(parameter.shape[0], -1)


@pytest.mark.parametrize(
    ("shape", "longest"),
    # Square, or with the longer side left alone: elsewhere the first basis is not unique.
    [((5, 5), 10), ((4, 7), 6), ((7, 4), 6), ((5, 5), 5)],
)
@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize(("betas", "shampoo_beta"), [((0.95, 0.95), None), ((0.8, 0.99), 0.7)])
def test_steps_as_the_paper_says(shape, longest, frequency, betas, shampoo_beta):
    start = np.random.default_rng(1).normal(size=shape)
    options = {"lr": 0.1, "betas": betas, "shampoo_beta": shampoo_beta, "eps": 1e-8}
    reference = Reference(start.copy(), frequency=frequency, longest=longest, **options)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = SOAP(
        [parameter],
        weight_decay=0,
        precondition_frequency=frequency,
        max_precondition_dim=longest,
        **options,
    )
    for grad in gradients(shape, 11):
        run(optimizer, parameter, [grad])
        reference.step(grad)
        np.testing.assert_allclose(parameter.detach().numpy(), reference.x, rtol=1e-6, atol=1e-8)


def test_float32_stays_close_to_float64():
    start = np.random.default_rng(2).normal(size=(12, 12))
    fine, coarse = (torch.nn.Parameter(torch.tensor(start, dtype=d)) for d in (torch.float64, torch.float32))
    grads = gradients((12, 12), 25)
    results = [run(SOAP([each], 0.01, weight_decay=0), each, grads) for each in (fine, coarse)]
    moved = np.linalg.norm(results[0] - start)
    assert np.linalg.norm(results[0] - results[1]) < 0.02 * moved


def test_turned_gradients_turn_the_step():
    """With G turned to UGVᵀ all along, the parameters' path is turned, and nothing else."""
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    grads = gradients((6, 6), 8)
    paths = []
    for series in (grads, [u @ grad @ v.T for grad in grads]):
        parameter = torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
        optimizer = SOAP([parameter], 0.1, weight_decay=0, precondition_frequency=3)
        paths.append(run(optimizer, parameter, series))
    np.testing.assert_allclose(u @ paths[0] @ v.T, paths[1], rtol=1e-6, atol=1e-8)


def test_the_first_gradient_gives_the_basis_and_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = SOAP([parameter], weight_decay=0)
    torch.manual_seed(0)
    parameter.grad = torch.randn(3, 3)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3, 3))
    basis = optimizer.state[parameter]["left_basis"]
    diagonal = basis @ parameter.grad @ parameter.grad.T @ basis.T
    torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-5)
    assert (diagonal.diagonal().diff() <= 0).all()


@pytest.mark.parametrize("shape", [(), (5,), (1,), (7, 9), (1, 1)])
def test_what_has_no_basis_is_stepped_by_adamw(shape):
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64))
    theirs = copy.deepcopy(ours)
    one = SOAP([ours], 0.01, (0.9, 0.99), weight_decay=0.1, max_precondition_dim=6)
    two = torch.optim.AdamW([theirs], 0.01, (0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        ours.grad = torch.randn(shape, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_vectors_as_columns():
    vector, column = (torch.nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in ((4,), (4, 1)))
    grads = gradients((4, 1), 6)
    options = {"lr": 0.1, "weight_decay": 0, "precondition_frequency": 2}
    paths = [
        run(SOAP([each], precondition_1d=True, **options), each, grads).reshape(-1)
        for each in (vector, column)
    ]
    np.testing.assert_array_equal(*paths)


def test_a_convolution_is_a_matrix_with_a_row_a_kernel():
    start = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels, flat = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.flatten(1).clone())
    grads = gradients((4, 18), 6)
    paths = [run(SOAP([each], 0.1, precondition_frequency=2), each, grads) for each in (kernels, flat)]
    np.testing.assert_array_equal(*paths)


def test_weight_decay_is_adamws():
    """x is shrunk by lr·λ before the step, the gradient's averages not seeing it."""
    plain, decayed = (torch.nn.Parameter(torch.ones(3, 3, dtype=torch.float64)) for _ in range(2))
    one, two = SOAP([plain], 0.1, weight_decay=0), SOAP([decayed], 0.1, weight_decay=0.5)
    expected = decayed.detach().clone()
    for grad in gradients((3, 3), 4):
        before = plain.detach().clone()
        run(one, plain, [grad])
        run(two, decayed, [grad])
        expected = (1 - 0.1 * 0.5) * expected + (plain.detach() - before)
    torch.testing.assert_close(decayed.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0"),
        ({"shampoo_beta": 1.0}, "Invalid shampoo_beta: 1.0"),
        ({"eps": -1e-8}, "Invalid epsilon value"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value"),
        ({"precondition_frequency": 0}, "Invalid precondition_frequency: 0; it must be a whole number"),
        ({"max_precondition_dim": 1.5}, "Invalid max_precondition_dim: 1.5"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        SOAP([torch.nn.Parameter(torch.ones(2, 2))], **options)
