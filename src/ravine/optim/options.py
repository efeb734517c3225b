"""What every optimizer takes besides its own arguments: the engine, and what is composed around the rule."""

from typing import Literal, TypedDict

Engine = Literal["auto", "eager", "cpu", "gpu"]
Rounding = Literal["auto", "nearest", "stochastic", "compensated"]


class Options(TypedDict, total=False):
    """Keyword arguments of every optimizer here.

    Attributes:
        engine: what runs the rule: "cpu" and "gpu" are its compiled kernels, "eager" torch's operators;
            "auto" takes the kernel of the parameter's device.
        clip_norm: the gradients of all parameters together are scaled down to this norm, above 0.
        clip_value: each element of the gradient is cut to [-clip_value, clip_value], above 0; after
            `clip_norm`.
        l1: penalty λ·Σ|x|, at least 0: λ·sign(x) is added to the gradient. With a coupled
            `weight_decay` this is the elastic net.
        proximal: take `l1` and `weight_decay` as a proximal step after the update instead of in the
            gradient: small weights become exactly zero.
        average: keep a moving average of the parameters with this decay, in [0, 1); 0 keeps none.
            `with optimizer.averaged():` puts it in their place.
        rounding: how 16-bit parameters are stored: to the "nearest" value, "stochastic", or
            "compensated" (16 more bits are kept in the state, so that nothing is lost). "auto" is
            stochastic for bfloat16 and nearest otherwise.
    """

    engine: Engine
    clip_norm: float | None
    clip_value: float | None
    l1: float
    proximal: bool
    average: float
    rounding: Rounding
