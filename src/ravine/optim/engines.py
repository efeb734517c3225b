"""Which engine runs a rule for a parameter."""

import functools
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from .kernels import cpu
from .kernels.eager import is_dense
from .kernels.table import real_dtype


def engine_of(tensors: Sequence[Tensor], members: int, wanted: str) -> str:
    """The engine for one parameter: "cpu", "gpu" or "eager".

    Args:
        tensors: the parameter, its gradient, its state and its average.
        members: parts along the leading axis with hyperparameters of their own; 1 where none have.
        wanted: the optimizer's `engine`, or "kernel" for that of the parameter's device.

    Raises:
        RuntimeError: an engine was asked for by name and cannot take this parameter.
    """
    if wanted == "eager":
        return "eager"
    kernel = kernel_of(tensors[0].device) if wanted in ("auto", "kernel") else wanted
    obstacle = _obstacle(tensors, members, kernel)
    if not obstacle:
        return kernel
    if wanted == "auto":
        return "eager"
    asked = "fused=True" if wanted == "kernel" else f"engine={wanted!r}"
    raise RuntimeError(f"{asked} cannot step a parameter of shape {tuple(tensors[0].shape)}: {obstacle}")


def kernel_of(device: torch.device) -> str:
    """The name of the kernel engine of a device; "eager" where there is none."""
    if device.type == "cpu":
        return "cpu"
    return "gpu" if device.type == "cuda" and has_triton() else "eager"


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it comes with torch on machines with a GPU."""
    return importlib.util.find_spec("triton") is not None


def interprets() -> bool:
    """Whether Triton runs kernels on the CPU, by its interpreter."""
    if not has_triton():
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def _obstacle(tensors: Sequence[Tensor], members: int, kernel: str) -> str:
    """Why a kernel cannot take these tensors; empty where it can."""
    x = tensors[0]
    if kernel == "eager":
        return f"there is no kernel for {x.device.type}"
    if kernel == "gpu" and not has_triton():
        return "Triton is not installed"
    needed = "cpu" if kernel == "cpu" or (x.device.type == "cpu" and interprets()) else "cuda"
    strides = x.stride() if x.layout is torch.strided else ()
    for tensor in tensors:
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"it is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided:
            return "its gradient is sparse"
        if tensor.device.type != needed or tensor.device != x.device:
            return f"a tensor of it is on {tensor.device}"
        if not cpu.stores(real_dtype(tensor)):
            return f"its dtype is {tensor.dtype}"
        if tensor.stride() != strides or tensor.is_complex() != x.is_complex():
            return "its gradient or state is laid out in another way"
        if tensor.is_conj() or tensor.is_neg():
            return "it is a lazy conjugate"
    if not is_dense(x):
        return "it has gaps in memory"
    if members > 1 and x.stride(0) * members != x.numel():
        return "its leading axis is not its outermost"
    return ""
