"""`minimize` on regressions of real data and on a small network, beside SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from ravine.optim.full_batch.minimize import minimize

SECOND_ORDER = ["newton", "newton-cg", "trust-exact", "saddle-free-newton"]
METHODS = ["lbfgs", "bfgs", *SECOND_ORDER]
DECAY = 1e-4


@pytest.fixture(scope="module")
def cancer():
    """569 tumors, 30 measurements each, standardized; the last column is 1."""
    inputs, targets = load_breast_cancer(return_X_y=True)
    standard = (inputs - inputs.mean(0)) / inputs.std(0)
    with_bias = np.concatenate((standard, np.ones((len(standard), 1))), 1)
    return torch.from_numpy(with_bias), torch.from_numpy(targets).double()


@pytest.fixture(scope="module")
def digits():
    inputs, targets = load_digits(return_X_y=True)
    return torch.from_numpy(inputs) / 16, torch.from_numpy(targets)


@pytest.fixture
def logistic(cancer):
    inputs, targets = cancer

    def loss(x):
        misfit = functional.binary_cross_entropy_with_logits(inputs @ x, targets)
        return misfit + 1e-2 * x[:-1].square().sum()

    return loss


@pytest.fixture
def softmax(digits):
    inputs, targets = digits

    def loss(weights, bias):
        logits = inputs @ weights + bias
        return functional.cross_entropy(logits, targets) + DECAY * weights.square().sum()

    return loss


SOFTMAX_START = (torch.zeros(64, 10), torch.zeros(10))


@pytest.mark.parametrize("method", METHODS)
def test_logistic_regression_has_the_minimum_of_scipy(logistic, method):
    found = minimize(logistic, torch.zeros(31), method, tol=1e-9)
    theirs = by_scipy(logistic, np.zeros(31), gtol=1e-9)
    assert found.success, found.message
    assert found.jac.abs().max() <= 1e-9
    assert found.fun == pytest.approx(theirs.fun, rel=1e-13)
    assert found.x.tolist() == pytest.approx(theirs.x.tolist(), abs=1e-6)


def test_logistic_regression_has_the_coefficients_of_scikit_learn(cancer, logistic):
    inputs, targets = cancer
    # It minimizes C·Σ loss + Σ w² / 2.
    strength = 1 / (2 * 1e-2 * len(targets))
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10)
    model.fit(inputs[:, :-1].numpy(), targets.numpy())
    found = minimize(logistic, torch.zeros(31), "trust-exact", tol=1e-10)
    assert found.x.tolist() == pytest.approx([*model.coef_[0], model.intercept_[0]], abs=1e-7)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_softmax_regression_has_the_minimum_of_scipy(softmax, method):
    found = minimize(softmax, SOFTMAX_START, method, tol=1e-8)
    theirs = by_scipy(lambda x: softmax(x[:640].view(64, 10), x[640:]), np.zeros(650), gtol=1e-8)
    assert found.success, found.message
    assert max(part.abs().max().item() for part in found.jac) <= 1e-8
    assert found.fun == pytest.approx(theirs.fun, rel=1e-10)
    assert found.x[0].flatten().tolist() == pytest.approx(theirs.x[:640].tolist(), abs=2e-3)


def test_softmax_regressions_take_no_more_evaluations_than_scipy_needs(digits):
    """Of the even, the odd and all digits' pixels: single counts depend on rounding."""
    inputs, targets = digits
    ours = theirs = 0
    for pixels in (inputs[:, ::2], inputs[:, 1::2], inputs):
        n = 10 * pixels.shape[1]

        def loss(x, pixels=pixels, n=n):
            logits = pixels @ x[:n].view(-1, 10) + x[n:]
            return functional.cross_entropy(logits, targets) + DECAY * x[:n].square().sum()

        found = minimize(loss, torch.zeros(n + 10), "lbfgs", tol=1e-8)
        assert found.success, found.message
        ours += found.nfev
        theirs += by_scipy(loss, np.zeros(n + 10), gtol=1e-8).nfev
    assert ours <= theirs


def test_softmax_regression_in_float32_ends_where_float64_does_but_for_rounding(digits):
    inputs, targets = digits

    def loss_in(dtype):
        def loss(weights, bias):
            logits = inputs.to(dtype) @ weights + bias
            return functional.cross_entropy(logits, targets) + DECAY * weights.square().sum()

        return loss

    narrow = minimize(loss_in(torch.float32), SOFTMAX_START, tol=1e-5, dtype=torch.float32)
    wide = minimize(loss_in(torch.float64), SOFTMAX_START)
    assert narrow.x[0].dtype == torch.float32
    assert narrow.success, narrow.message
    assert narrow.fun == pytest.approx(wide.fun, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_network_ends_at_a_minimum_that_scipy_cannot_lower(method):
    inputs, targets = load_wine(return_X_y=True)
    inputs = torch.from_numpy((inputs - inputs.mean(0)) / inputs.std(0))
    targets = torch.from_numpy(targets)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(13, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    def loss_of(parameters):
        decay = sum(parameter.square().sum() for parameter in parameters.values())
        logits = torch.func.functional_call(network, parameters, inputs)
        return functional.cross_entropy(logits, targets) + 1e-3 * decay

    def loss():
        return loss_of(dict(network.named_parameters()))

    found = minimize(loss, network, method, tol=1e-8)
    assert found.success, found.message
    assert loss().item() == found.fun
    flat = nn.utils.parameters_to_vector(network.parameters()).detach()

    def flat_loss(x):
        parts = x.split([parameter.numel() for parameter in network.parameters()])
        named = zip(network.named_parameters(), parts, strict=True)
        return loss_of({name: part.view_as(parameter) for (name, parameter), part in named})

    theirs = by_scipy(flat_loss, flat.numpy(), gtol=1e-10)
    assert theirs.fun >= found.fun - 1e-12
    curvatures = torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(flat_loss))(flat))
    assert curvatures.min() > -1e-6


def by_scipy(function, start, gtol):
    def both(x):
        point = torch.tensor(x, requires_grad=True)
        value = function(point)
        return value.item(), torch.autograd.grad(value, point)[0].numpy()

    limits = {"gtol": gtol, "ftol": 0, "maxcor": 10, "maxiter": 10**5, "maxfun": 10**5}
    return optimize.minimize(both, start, jac=True, method="L-BFGS-B", options=limits)
