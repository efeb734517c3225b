"""The way to each library, with small stand-ins: what is asked of them, and what is told where they fail."""

import json
import sys
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ravine.errors import ModelError
from ravine.transfer.zoo.building import build
from ravine.transfer.zoo.card import HUBS, Card
from ravine.transfer.zoo.hubs import _HUBS
from ravine.transfer.zoo.hubs.libraries import library, told
from ravine.transfer.zoo.opening import open_model

CONFIG = {
    "architecture": "flat",
    "model_args": {"bias": False},
    "pretrained_cfg": {"input_size": [3, 2, 2], "mean": [0.1] * 3, "std": [0.2] * 3, "num_classes": 4},
}


def flat(classes, bias=True):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes, bias=bias))


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a module in the place of a library."""

    def put(name, **contents):
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


@pytest.fixture
def stand_in_timm(stand_in, tmp_path):
    """A timm that has one network, and a folder as it writes them."""

    def create_model(name, pretrained=False, pretrained_cfg=None, **arguments):
        if name == "flat":
            made = flat(pretrained_cfg["num_classes"], **arguments)
        else:
            folder = name.removeprefix("local-dir:")
            pretrained_cfg = {**CONFIG["pretrained_cfg"], "file": folder}
            made = flat(4, **CONFIG["model_args"])
            made.load_state_dict(load_file(f"{folder}/model.safetensors"))
            assert pretrained
        made.num_classes, made.pretrained_cfg = pretrained_cfg["num_classes"], pretrained_cfg
        return made

    stand_in("timm", __version__="0", create_model=create_model, is_model="flat".__eq__)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weights = flat(4, bias=False).state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path, weights


def test_every_hub_of_a_name_has_its_module():
    assert set(_HUBS) == set(HUBS)


def test_a_folder_is_opened_and_built_by_timm(stand_in_timm):
    folder, weights = stand_in_timm
    opened = open_model(f"timm:{folder}")
    assert torch.equal(opened.module[1].weight, weights["1.weight"])
    assert not opened.module.training
    assert (opened.card.shape, opened.card.outputs, opened.card.mean) == ((3, 2, 2), 4, (0.1, 0.1, 0.1))
    made = build(Card.from_json(json.loads(json.dumps(opened.card.to_json())), "a test"))
    made.load_state_dict(weights, strict=True)
    assert not made.training


def test_a_file_is_opened_and_built_by_torchvision(stand_in, tmp_path):
    recommended = SimpleNamespace(
        meta={"categories": ["a", "b"]},
        transforms=lambda: SimpleNamespace(mean=[0.1] * 3, std=[0.2] * 3, crop_size=[2]),
        get_state_dict=lambda **options: fetched(options),
    )

    def fetched(options):
        assert options["weights_only"]
        raise URLError("no route to host")

    models = stand_in(
        "torchvision.models",
        list_models=lambda module: ["flat"],
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=recommended),
        get_model=lambda name, weights, num_classes=2: flat(num_classes),
    )
    stand_in("torchvision", models=models)
    weights = flat(5).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    opened = open_model(f"torchvision:flat={tmp_path / 'w.safetensors'}")
    assert torch.equal(opened.module[1].weight, weights["1.weight"])
    assert (opened.card.shape, opened.card.outputs) == ((3, 2, 2), 5)
    build(opened.card).load_state_dict(weights, strict=True)
    with pytest.raises(ModelError, match=r"torchvision:flat is not on this machine.*torchvision:flat=FILE"):
        open_model("torchvision:flat")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("timm:resnet18", "timm"), ("torchvision:resnet18", "torchvision"), ("hf:some/vit", "huggingface_hub")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, name, missing):
    for module in [key for key in sys.modules if key.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModelError) as caught:
        open_model(name)
    assert str(caught.value) == f'{missing} is not installed: pip install "ravine[zoo]"'


def test_transformers_that_is_missing_is_named_with_its_extra(monkeypatch, vit):
    for module in [key for key in sys.modules if key.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r'^transformers is not installed: pip install "ravine\[zoo\]"$'):
        open_model(f"hf:{vit[0]}")


def test_a_library_made_for_another_torch_is_told(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "library_of_another_torch.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    with pytest.raises(ModelError) as caught:
        library("library_of_another_torch")
    message = str(caught.value)
    assert message.startswith("library_of_another_torch is installed but cannot be loaded: operator ")
    assert message.endswith(f"must be made for this torch, {torch.__version__}")


def test_settings_that_a_library_cannot_read_are_told_with_the_card(stand_in):
    stand_in("timm", is_model=lambda name: name.split("."))
    settings = {"architecture": 5, "pretrained_cfg": {}, "model_args": {}}
    card = Card(name="mine", architecture="timm", settings=settings, shape=(3, 2, 2), outputs=4)
    with pytest.raises(ModelError) as caught:
        build(card)
    assert str(caught.value) == (
        "the network of the card of mine cannot be built: 'int' object has no attribute 'split'"
    )


def test_what_a_library_raises_is_told_in_a_line():
    with pytest.raises(ModelError, match=r"^it cannot be opened: first second$"), told("it cannot be opened"):
        raise RuntimeError("first\n\tsecond.")
    with pytest.raises(ModelError, match=r"^it cannot be opened: ValueError$"), told("it cannot be opened"):
        raise ValueError
    with pytest.raises(ModelError) as caught, told("it cannot be opened"):
        raise RuntimeError("word " * 1000)
    assert len(str(caught.value)) < 400


def test_the_import_that_failed_behind_another_is_told():
    hidden = RuntimeError("operator torchvision::nms does not exist")
    with pytest.raises(ModelError, match="nms does not exist"), told("it cannot be opened"):
        raise ModuleNotFoundError("could not import ViT") from hidden


def test_what_speaks_to_the_person_already_is_left_as_it_is():
    with pytest.raises(ModelError, match=r"^no such thing$"), told("it cannot be opened"):
        raise ModelError("no such thing")
    with pytest.raises(MemoryError), told("it cannot be opened"):
        raise MemoryError
