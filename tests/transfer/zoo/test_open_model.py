"""Pretrained networks by name and by file; no card and no file imports code."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from ravine.errors import ModelError, TrustError
from ravine.models import make
from ravine.transfer import open_model
from ravine.transfer.zoo import shelf
from ravine.transfer.zoo.building import build
from ravine.transfer.zoo.card import Card
from ravine.transfer.zoo.opening import open_file

CARD = Card(
    name="mine",
    architecture="cnn",
    settings={"width": 4},
    shape=(1, 8, 8),
    mean=(0.5,),
    std=(0.25,),
    outputs=3,
)


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVINE_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def network(seed=0):
    torch.manual_seed(seed)
    return make(CARD.architecture, CARD.shape, CARD.outputs, CARD.settings)


def test_a_network_without_weights_is_of_the_cards_shape():
    model = build(CARD)
    assert not model.training
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in network().state_dict().items()
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_with_its_card(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    state = network().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    opened = open_file(path, CARD)
    assert opened.card is CARD and not opened.module.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in opened.module.state_dict().items())


def test_a_path_is_as_good_as_its_text(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    for name in (tmp_path / "w.safetensors", str(tmp_path / "w.safetensors")):
        with pytest.raises(ModelError, match=r"w\.safetensors is of no layout that is known"):
            open_model(name)


def test_a_file_of_another_network_than_its_card(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    wide = Card(**{**vars(CARD), "settings": {"width": 8}})
    with pytest.raises(ModelError, match=r"w\.safetensors does not fit the network: of another shape"):
        open_file(tmp_path / "w.safetensors", wide)


def test_a_file_of_no_known_layout_says_how_to_add_it(tmp_path):
    save_file({"what.is.this": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(
        ModelError, match=r"is of no layout that is known .*ravine zoo add NAME .*--architecture"
    ):
        open_model(str(tmp_path / "w.safetensors"))


def test_a_file_without_a_known_ending_is_one_of_torchs(tmp_path):
    (tmp_path / "weights").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="weights is damaged or cut off"):
        open_model(str(tmp_path / "weights"))


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file({"x": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=f"{tmp_path}/w.safetensors is of no layout"):
        open_model("~/w.safetensors")


@pytest.mark.parametrize("name", ["absent.pt", "absent.safetensors", "absent.npz"])
def test_an_absent_file(name, tmp_path):
    with pytest.raises(ModelError, match=f"there is no file .*{name}"):
        open_model(str(tmp_path / name))


def test_nothing_of_that_name():
    with pytest.raises(ModelError, match="there is no pretrained network 'resnet9000'"):
        open_model("resnet9000")


def test_a_card_that_names_code_is_refused_and_nothing_is_imported(tmp_path, monkeypatch, zoo):
    (tmp_path / "evil_network.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    evil = Card(**{**vars(CARD), "architecture": "evil_network:make"})
    shelf.put(evil, network().state_dict())
    with pytest.raises(TrustError, match="the card of mine says architecture = 'evil_network:make'"):
        open_model("mine")
    assert "evil_network" not in sys.modules
