"""Update rules from beyond the lecture, as their papers write them."""

from typing import Any

from ..rule import absolute, maximum, rule, sign, sqrt, where


@rule(state={"m": "exp_avg", "v": "exp_avg_sq"})
def nadam(
    x: Any,
    dx: Any,
    m: Any,
    v: Any,
    t: Any,
    lr: Any,
    product: Any,
    momentum_decay: Any = 4e-3,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
) -> Any:
    """Adam with Nesterov's look-ahead: m̂ takes the gradient and the momentum of the step to come.

    μₜ = β₁(1 − ½·0.96^(t·ψ)) grows towards β₁; `momentum_decay` is ψ and `product` μ₁·…·μₜ. Dozat,
    "Incorporating Nesterov Momentum into Adam", 2016, algorithm 2.
    """
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    next_mu = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    m = beta1 * m + (1 - beta1) * dx
    v = beta2 * v + (1 - beta2) * dx * dx
    ahead = next_mu / (1 - product * next_mu) * m + (1 - mu) / (1 - product) * dx
    return x - lr * ahead / (sqrt(v / (1 - beta2**t)) + eps), m, v


@rule(state={"m": "exp_avg", "v": "exp_avg_sq"})
def radam(
    x: Any, dx: Any, m: Any, v: Any, t: Any, lr: Any, beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8
) -> Any:
    """Adam whose denominator waits until enough gradients were seen to trust its variance.

    ρ is the length of the average that v amounts to; the step is multiplied by r, or is momentum's
    alone while ρ ≤ 5. Liu et al., arXiv:1908.03265, algorithm 2; from 5 as torch has it, not 4.
    """
    m = beta1 * m + (1 - beta1) * dx
    v = beta2 * v + (1 - beta2) * dx * dx
    longest = maximum(2 / (1 - beta2) - 1, 5)  # where it is less, ρ never passes 5 either way
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    r = sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    adaptive = r * sqrt(1 - beta2**t) / (sqrt(v) + eps)
    return x - lr / (1 - beta1**t) * m * where(length > 5, adaptive, 1), m, v


@rule(state={"m": "exp_avg", "u": "exp_inf"})
def adamax(
    x: Any, dx: Any, m: Any, u: Any, t: Any, lr: Any, beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8
) -> Any:
    """Adam with the largest recent gradient in the denominator: u ← max(β₂u, |dx| + ε).

    Kingma & Ba, arXiv:1412.6980, algorithm 2; ε, which torch adds, keeps a zero gradient from 0/0.
    """
    m = beta1 * m + (1 - beta1) * dx
    u = maximum(beta2 * u, absolute(dx) + eps)
    return x - lr / (1 - beta1**t) * m / u, m, u


@rule(state={"s": "square_avg", "u": "acc_delta"})
def adadelta(x: Any, dx: Any, s: Any, u: Any, t: Any, lr: Any, rho: Any = 0.95, eps: Any = 1e-6) -> Any:
    """Steps as large as the recent steps were: Δ = √(u + ε)/√(s + ε)·dx; x ← x − α·Δ.

    s averages dx², u averages Δ². Zeiler, arXiv:1212.5701, algorithm 1, which has α = 1.
    """
    s = rho * s + (1 - rho) * dx * dx
    delta = sqrt(u + eps) / sqrt(s + eps) * dx
    u = rho * u + (1 - rho) * delta * delta
    return x - lr * delta, s, u


@rule(state={"m": "exp_avg", "n": "exp_avg_sq", "d": "exp_avg_diff", "previous": "previous_grad"})
def adan(
    x: Any,
    dx: Any,
    m: Any,
    n: Any,
    d: Any,
    previous: Any,
    t: Any,
    lr: Any,
    beta1: Any = 0.98,
    beta2: Any = 0.92,
    beta3: Any = 0.99,
    eps: Any = 1e-8,
) -> Any:
    """Nesterov momentum without a second point: the gradient's change says where it goes.

    m averages the gradient, d its change, n the square of dx + β₂·change. Xie et al.,
    arXiv:2208.06677, algorithm 1 with its bias correction; the leaks β are one minus the paper's.
    """
    change = where(t > 1, dx - previous, 0)
    ahead = dx + beta2 * change
    m = beta1 * m + (1 - beta1) * dx
    d = beta2 * d + (1 - beta2) * change
    n = beta3 * n + (1 - beta3) * ahead * ahead
    direction = m / (1 - beta1**t) + beta2 / (1 - beta2**t) * d
    return x - lr * direction / (sqrt(n / (1 - beta3**t)) + eps), m, n, d, dx


@rule(state={"m": "exp_avg"})
def lion(x: Any, dx: Any, m: Any, t: Any, lr: Any, beta1: Any = 0.9, beta2: Any = 0.99) -> Any:
    """Every element moves by α, in the direction of momentum: x ← x − α·sign(β₁m + (1−β₁)dx).

    What is kept forgets slower: m ← β₂m + (1−β₂)dx. Chen et al., arXiv:2302.06675, algorithm 2.
    """
    return x - lr * sign(beta1 * m + (1 - beta1) * dx), beta2 * m + (1 - beta2) * dx


@rule(state=("z",))
def schedule_free_sgd(x: Any, dx: Any, z: Any, t: Any, lr: Any, c: Any, beta: Any = 0.9) -> Any:
    """SGD whose average of all iterates takes the place of a decaying rate.

    Gradients are taken at y = (1−β)·z + β·x̄; z ← z − α·dx; x̄ ← (1−c)·x̄ + c·z, c the share of the
    newest iterate. Here `x`, the parameter, is y: with x̄ put in, y ← (1−c)·y + c·z − α(1 − β(1−c))·dx.
    z starts where the parameter does. Defazio et al., arXiv:2405.15682, eq. 3-5.
    """
    return x + c * (z - x) - lr * (1 - beta * (1 - c)) * dx, z - lr * dx


@rule(state={"z": "z", "v": "exp_avg_sq"})
def schedule_free_adamw(
    x: Any,
    dx: Any,
    z: Any,
    v: Any,
    t: Any,
    lr: Any,
    c: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    decay: Any = 0,
) -> Any:
    """Schedule-free steps along dx/(√v̂ + ε) + λ·y.

    The decay λ is part of the rule: it is taken at y, and moves z and y alike. Defazio et al.,
    arXiv:2405.15682, algorithm 1; v̂ as in the authors' code.
    """
    v = beta2 * v + (1 - beta2) * dx * dx
    direction = dx / (sqrt(v / (1 - beta2**t)) + eps) + decay * x
    x, z = schedule_free_sgd(x, direction, z, t, lr, c, beta1)
    return x, z, v
