"""What the tests of the GPU's kernels need."""

import warnings

import numpy as np
import pytest


@pytest.fixture
def interpreted():
    """Triton runs kernels on CPU tensors, by its interpreter, until the test ends."""
    triton = pytest.importorskip("triton", reason="Triton is not installed: it is made for Linux on x86-64")
    with triton.knobs.runtime.scope(), np.errstate(all="ignore"), warnings.catch_warnings():
        triton.knobs.runtime.interpret = True
        yield triton
