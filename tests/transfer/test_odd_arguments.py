"""What people give by mistake, and odd networks: a sentence, and nothing changed."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from torch.utils.data import DataLoader, TensorDataset

from ravine import transfer
from ravine.errors import ModelError
from ravine.transfer import features, freeze, layer_rates, unfreeze


def chain():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def trained(network):
    return {name.partition(".")[0] for name, own in network.named_parameters() if own.requires_grad}


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, weight_norm, parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_are_made_of_others_are_not_adapted(wrap):
    network = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(ModelError, match="the weight of 0 is made of other tensors"):
        transfer.adapt_channels(network, 1)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_are_not_frozen():
    with pytest.raises(ModelError, match="lazy layers: run it once"):
        freeze(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3)), sample=torch.zeros(2, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_has_no_layers_to_look_at():
    scripted = torch.jit.script(chain())
    with pytest.raises(ModelError, match="TorchScript"):
        transfer.replace_head(scripted, 5, sample=torch.zeros(2, 4))


def test_a_second_freeze_says_anew_what_is_frozen():
    network = chain()
    freeze(network)
    assert trained(network) == {"4"}
    freeze(network, until="2")
    assert trained(network) == {"2", "4"}
    freeze(network)
    assert trained(network) == {"4"}
    with pytest.raises(ModelError, match="calls no module 'nothing'"):
        freeze(network, until="nothing")
    assert trained(network) == {"4"}


def test_one_name_is_one_module():
    network = chain()
    for _ in range(9):
        network.append(nn.Linear(3, 3))  # so that there is a "10", which is not "1" and "0"
    freeze(network)
    unfreeze(network, "10")
    assert trained(network) == {"10", "13"}
    (found,) = features(chain(), [torch.zeros(2, 4)], "2")
    assert found.shape == (2, 4)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_are_above_zero(lr):
    with pytest.raises(ModelError, match="layer_rates: lr must be above 0"):
        layer_rates(chain(), lr, decay=0.5)


def test_batches_are_tensors_of_items():
    x = torch.zeros(2, 4)
    with pytest.raises(TypeError, match="batches is one tensor: give a list of them"):
        features(chain(), x, ["2"])
    loader = DataLoader(TensorDataset(x, torch.zeros(2)))
    with pytest.raises(TypeError, match="a batch is a list: give the items alone, as a tensor"):
        features(chain(), loader, ["2"])


def test_a_run_folder_is_opened_elsewhere(tmp_path):
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(ModelError, match=r"is a run folder: ravine\.load opens it"):
        transfer.open_model(tmp_path)
