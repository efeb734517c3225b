import torch

from ravine.models.pooling import GlobalAverage


def test_equals_the_mean_of_each_channel():
    x = torch.randn(3, 5, 4, 7, dtype=torch.float64)
    torch.testing.assert_close(GlobalAverage()(x), x.mean((2, 3)))
