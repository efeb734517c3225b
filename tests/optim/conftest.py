"""What several tests of optimizers need."""

import pytest
import torch


@pytest.fixture
def wide_scalars():
    """Counters in float64, as torch has them with that default dtype: in float32 they would be rounded."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
