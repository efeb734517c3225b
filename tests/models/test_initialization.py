import math

import pytest
import torch
from torch import nn

from ravine.errors import RecipeError
from ravine.models.activations import activation, activation_expansion
from ravine.models.initialization import HEAD_GAIN, gain, initialize
from ravine.registry import names

WIDTH, DEPTH = 256, 12


def plain_network(name: str) -> nn.Sequential:
    """Linear, activation, linear, ... with nothing that would mend a wrong scale."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Linear(WIDTH, WIDTH * activation_expansion(name)), activation(name)]
    return nn.Sequential(*layers).double()


def propagated(name: str, how: str) -> tuple[list[float], torch.Tensor]:
    """The mean square of each layer's pre-activations, and the gradient at the input."""
    torch.manual_seed(1)
    network = plain_network(name)
    initialize(network, how, activation=name)
    x = torch.randn(400, WIDTH, dtype=torch.float64, requires_grad=True)
    sizes, out = [], x / gain(name)
    for layer in network:
        out = layer(out)
        if isinstance(layer, nn.Linear):
            sizes.append(out.square().mean().item())
            out = out.clone()  # the activation may work in place
    (out * torch.randn_like(out)).sum().backward()
    return sizes, x.grad


@pytest.mark.parametrize("how", ["he", "xavier", "orthogonal"])
@pytest.mark.parametrize("name", names("activation"))
def test_the_variance_stays_one_through_the_layers(name, how):
    sizes, gradient = propagated(name, how)
    # Fluctuations add up over layers, most where means are not zero (maxout) and where a variance beside 1
    # moves away from 1 (SiLU). ReLU's gain in place of SiLU's would give 0.02 after 12 layers.
    bound = 4.0 if name == "maxout" else 2.0
    assert all(1 / bound < size < bound for size in sizes)
    assert gradient.abs().max() > 0


def test_the_gradient_keeps_its_size_through_relu_layers():
    alive, vanished = (propagated("relu", how)[1] * gain("relu") for how in ("he", "small"))
    assert 0.3 < alive.square().mean().item() < 3
    assert vanished.square().mean().item() < 1e-15


def test_too_small_weights_let_the_signal_vanish():
    sizes, gradient = propagated("tanh", "small")
    expected = [
        (0.01**2 * WIDTH) ** layer * (0.01**2 * WIDTH) for layer in range(DEPTH)
    ]  # tanh is linear here
    assert sizes[-1] == pytest.approx(expected[-1] / gain("tanh") ** 2, rel=0.7)
    assert gradient.abs().max() < 1e-7


def test_too_large_weights_saturate_the_units():
    sizes, gradient = propagated("tanh", "large")
    assert sizes[-1] == pytest.approx(WIDTH, rel=0.15)  # every unit is at -1 or 1
    network = plain_network("tanh")
    initialize(network, "large", activation="tanh")
    outputs = network(torch.randn(100, WIDTH, dtype=torch.float64))
    assert (outputs.abs() > 0.99).double().mean() > 0.8
    assert gradient.square().mean() < 1e-3 * WIDTH**DEPTH  # far from what weights of this size would give


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", math.sqrt(2)),
        ("leaky_relu", math.sqrt(2 / (1 + 0.01**2))),
        ("maxout", 1.0),  # E[max(a, b)²] = 1 for independent standard normals
        ("sigmoid", 1.84623),
        ("tanh", 1.59254),
    ],
)
def test_gain_against_closed_forms_and_sampling(name, expected):
    assert gain(name) == pytest.approx(expected, rel=1e-5)
    z = torch.randn(400_000, activation_expansion(name), dtype=torch.float64, generator=torch.manual_seed(0))
    sampled = activation(name)(z).square().mean().item() ** -0.5
    assert gain(name) == pytest.approx(sampled, rel=0.01)


@pytest.mark.parametrize(
    ("how", "deviation"),
    [
        ("small", 0.01),
        ("large", 1.0),
        ("gpt2", 0.02),
        ("he", math.sqrt(2 / (32 * 9))),
        ("xavier", math.sqrt(2 * 2 / (32 * 9 + 64 * 9))),
        ("orthogonal", math.sqrt(2 / (32 * 9))),
    ],
)
def test_standard_deviation_of_a_convolution(how, deviation):
    layer = nn.Conv2d(32, 64, 3)
    initialize(layer, how, activation="relu")
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.03)
    assert torch.equal(layer.bias, torch.zeros(64))


def test_orthogonal_rows():
    layer = nn.Linear(30, 20).double()
    initialize(layer, "orthogonal", activation="relu")
    torch.testing.assert_close(layer.weight @ layer.weight.T, 2 * torch.eye(20, dtype=torch.float64))
    tall = nn.Linear(20, 80).double()
    initialize(tall, "orthogonal", activation="relu")
    torch.testing.assert_close(tall.weight.T @ tall.weight, 2 * 4 * torch.eye(20, dtype=torch.float64))


def test_norms_are_untouched_and_the_torch_default_changes_nothing():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Embedding(3, 4))
    with torch.no_grad():
        network[1].weight.fill_(0.3)
        network[1].bias.fill_(0.2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    initialize(network, "torch", activation="relu")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    initialize(network, "he", activation="relu")
    changed = {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"0.weight", "0.bias", "2.weight"}


def test_head_and_residual_branches_have_their_own_scale():
    body, head, *ends = (nn.Linear(300, 300) for _ in range(6))
    network = nn.Sequential(body, *ends, head)
    initialize(network, "he", activation="relu", head=head, branch_ends=ends)
    unit = 1 / math.sqrt(300)
    assert body.weight.std().item() == pytest.approx(math.sqrt(2) * unit, rel=0.03)
    assert head.weight.std().item() == pytest.approx(HEAD_GAIN * unit, rel=0.03)
    assert ends[0].weight.std().item() == pytest.approx(math.sqrt(2) * unit / 2, rel=0.03)


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'xavier'"):
        initialize(nn.Linear(2, 2), "xavir", activation="relu")
