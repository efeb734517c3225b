"""T1 to T7 as the lecture writes them, and the variations of them that torch has.

The lecture's small constant 1e-7 is `eps` here.
"""

from typing import Any

from ..rule import maximum, rule, sqrt


@rule()
def gradient_descent(x: Any, dx: Any, t: Any, lr: Any) -> Any:
    """T1: x ← x − α·dx. Full batch or mini-batch (SGD): Robbins & Monro, 1951."""
    return (x - lr * dx,)


@rule(state={"v": "momentum_buffer"})
def momentum(x: Any, dx: Any, v: Any, t: Any, lr: Any, rho: Any = 0.9) -> Any:
    """T2: v ← ρ·v + dx; x ← x − α·v. Polyak, 1964."""
    v = rho * v + dx
    return x - lr * v, v


@rule(state={"v": "momentum_buffer"})
def nesterov(x: Any, dx: Any, v: Any, t: Any, lr: Any, rho: Any = 0.9) -> Any:
    """T3, rearranged so that the gradient is taken where the parameters are.

    The lecture's velocity is −α·v here: x + v⁺ + ρ·(v⁺ − v) becomes x − α·(dx + ρ·v⁺).
    Nesterov, 1983; Sutskever et al., "On the importance of initialization and momentum", 2013.
    """
    v = rho * v + dx
    return x - lr * (dx + rho * v), v


@rule(state={"s": "sum"})
def adagrad(x: Any, dx: Any, s: Any, t: Any, lr: Any, eps: Any = 1e-7) -> Any:
    """T4: s ← s + dx²; x ← x − α·dx/(√s + ε). Duchi, Hazan & Singer, 2011."""
    s = s + dx * dx
    return x - lr * dx / (sqrt(s) + eps), s


@rule(state={"s": "square_avg"})
def rmsprop(x: Any, dx: Any, s: Any, t: Any, lr: Any, decay: Any = 0.99, eps: Any = 1e-7) -> Any:
    """T5: s ← δ·s + (1−δ)·dx²; x ← x − α·dx/(√s + ε). Tieleman & Hinton, 2012."""
    s = decay * s + (1 - decay) * dx * dx
    return x - lr * dx / (sqrt(s) + eps), s


@rule(state={"s": "square_avg", "v": "momentum_buffer"})
def rmsprop_momentum(
    x: Any, dx: Any, s: Any, v: Any, t: Any, lr: Any, decay: Any = 0.99, eps: Any = 1e-7, rho: Any = 0.9
) -> Any:
    """T5 followed by T2: the scaled gradient drives a velocity."""
    s = decay * s + (1 - decay) * dx * dx
    x, v = momentum(x, dx / (sqrt(s) + eps), v, t, lr, rho)
    return x, s, v


@rule(state={"s": "square_avg", "g": "grad_avg"})
def rmsprop_centered(
    x: Any, dx: Any, s: Any, g: Any, t: Any, lr: Any, decay: Any = 0.99, eps: Any = 1e-7
) -> Any:
    """T5 with the variance, s − g², in place of the mean square. Graves, arXiv:1308.0850, eq. 38-45."""
    s = decay * s + (1 - decay) * dx * dx
    g = decay * g + (1 - decay) * dx
    return x - lr * dx / (sqrt(s - g * g) + eps), s, g


@rule(state={"s": "square_avg", "v": "momentum_buffer", "g": "grad_avg"})
def rmsprop_centered_momentum(
    x: Any,
    dx: Any,
    s: Any,
    v: Any,
    g: Any,
    t: Any,
    lr: Any,
    decay: Any = 0.99,
    eps: Any = 1e-7,
    rho: Any = 0.9,
) -> Any:
    """Centered T5 followed by T2."""
    s = decay * s + (1 - decay) * dx * dx
    g = decay * g + (1 - decay) * dx
    x, v = momentum(x, dx / (sqrt(s - g * g) + eps), v, t, lr, rho)
    return x, s, v, g


@rule(state={"m": "exp_avg", "v": "exp_avg_sq"})
def almost_adam(
    x: Any, dx: Any, m: Any, v: Any, t: Any, lr: Any, beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-7
) -> Any:
    """T6, Adam without bias correction: m ← β₁m + (1−β₁)dx; v ← β₂v + (1−β₂)dx²; x ← x − α·m/(√v + ε)."""
    m = beta1 * m + (1 - beta1) * dx
    v = beta2 * v + (1 - beta2) * dx * dx
    return x - lr * m / (sqrt(v) + eps), m, v


@rule(state={"m": "exp_avg", "v": "exp_avg_sq"})
def adam(
    x: Any, dx: Any, m: Any, v: Any, t: Any, lr: Any, beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8
) -> Any:
    """T7: T6 with m̂ = m/(1−β₁ᵗ) and v̂ = v/(1−β₂ᵗ). Kingma & Ba, arXiv:1412.6980, algorithm 1."""
    m = beta1 * m + (1 - beta1) * dx
    v = beta2 * v + (1 - beta2) * dx * dx
    return x - lr / (1 - beta1**t) * m / (sqrt(v / (1 - beta2**t)) + eps), m, v


@rule(state={"m": "exp_avg", "v": "exp_avg_sq", "top": "max_exp_avg_sq"})
def amsgrad(
    x: Any,
    dx: Any,
    m: Any,
    v: Any,
    top: Any,
    t: Any,
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
) -> Any:
    """T7 with the largest v so far in the denominator. Reddi, Kale & Kumar, ICLR 2018, algorithm 2."""
    m = beta1 * m + (1 - beta1) * dx
    v = beta2 * v + (1 - beta2) * dx * dx
    top = maximum(top, v)
    return x - lr / (1 - beta1**t) * m / (sqrt(top / (1 - beta2**t)) + eps), m, v, top
