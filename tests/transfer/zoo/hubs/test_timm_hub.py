"""Networks that timm wrote, against timm itself."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ravine.errors import ModelError
from ravine.transfer.zoo.building import build
from ravine.transfer.zoo.card import Card
from ravine.transfer.zoo.opening import open_model

SMALL = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
}


def anew(card):
    """The network of a card that went through JSON."""
    return build(Card.from_json(json.loads(json.dumps(card.to_json())), "a test"))


@pytest.fixture
def written(tmp_path, timm):
    """Writes a network as timm does; gives its folder and itself."""

    def write(name="resnet10t", **arguments):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=4, **SMALL[name], **arguments).eval()
        timm.models.save_for_hf(network, str(tmp_path / "net"), safe_serialization=True)
        return tmp_path / "net", network

    return write


def refusal(name):
    with pytest.raises(ModelError) as caught:
        open_model(f"timm:{name}")
    assert f"timm:{name}" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_gives_the_logits_that_were_written(written, name, channels):
    folder, own = written(name, in_chans=channels)
    opened = open_model(f"timm:{folder}")
    card, config = opened.card, own.pretrained_cfg
    size = 32 if name == "vit_tiny_patch16_224" else config["input_size"][1]
    assert (card.shape, card.outputs, card.source) == ((channels, size, size), 4, str(folder))
    assert card.licence == "apache-2.0"
    images = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(images))
    assert not opened.module.training


@pytest.mark.parametrize("name", SMALL)
def test_the_network_is_built_from_its_card_alone(written, name):
    folder, own = written(name)
    card = open_model(f"timm:{folder}").card
    for file in folder.iterdir():
        file.unlink()
    assert str(folder) not in json.dumps(card.settings)
    made = anew(card)
    made.load_state_dict(own.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made(images), own(images))


def test_images_are_normalized_as_its_configuration_says(written, rewrite):
    folder, _ = written()
    config = json.loads((folder / "config.json").read_bytes())["pretrained_cfg"]
    names = {"label_names": ["n1", "n2", "n3", "n4"], "label_descriptions": {"n1": "ant"}}
    rewrite(folder, pretrained_cfg={**config, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}, **names)
    card = open_model(f"timm:{folder}").card
    assert card.mean == (0.1, 0.2, 0.3)
    assert card.std == (0.4, 0.5, 0.6)
    assert card.classes == ("ant", "n2", "n3", "n4")


def test_a_network_by_its_name_in_timm_comes_from_the_hub(written, hub):
    folder, own = written()
    hub.repositories["timm/resnet10t.c3_in1k"] = folder
    opened = open_model("timm:resnet10t")
    assert opened.card.source == "https://huggingface.co/timm/resnet10t.c3_in1k"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(images))


def test_a_name_that_timm_does_not_have_is_refused(timm, hub):
    assert "did you mean 'resnet18" in refusal("resnet18x")
    assert "no weights" in refusal("resnet18.made_up")
    assert "no weights as safetensors" in refusal("legacy_seresnet18")
    assert hub.asked == []


def test_a_folder_of_another_library_is_refused(written, rewrite, vit):
    assert "opens with hf:FOLDER" in refusal(vit[0])
    folder, _ = written()
    with pytest.raises(ModelError, match="opens with timm:FOLDER"):
        open_model(f"hf:{folder}")
    rewrite(folder, architecture="unheard-of")
    assert "no architecture that timm" in refusal(folder)


def test_a_network_without_a_head_is_refused(tmp_path, timm):
    network = timm.create_model("resnet10t", num_classes=0)
    timm.models.save_for_hf(network, str(tmp_path), safe_serialization=True)
    assert "has no head" in refusal(tmp_path)


def test_weights_that_do_not_fit_are_refused(written, rewrite):
    folder, _ = written()
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["stray.weight"] = weights.pop("fc.weight")
    save_file(weights, path)
    message = refusal(folder)
    assert "fc.weight" in message
    assert "stray.weight" in message
    weights["fc.weight"] = torch.zeros(5, 512)
    del weights["stray.weight"]
    save_file(weights, path)
    message = refusal(folder)
    assert "size mismatch for fc.weight" in message
    assert "\n" not in message


def test_damaged_files_are_refused(written):
    folder, own = written()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be opened" in refusal(folder)
    path.unlink()
    torch.save(own.state_dict(), folder / "pytorch_model.bin")
    assert "pickled" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_a_card_that_cannot_be_built_is_refused(written, hub):
    card = open_model(f"timm:{written()[0]}").card
    for change in (
        {"architecture": "unheard-of"},
        {"architecture": "hf-hub:some/network"},
        {"model_args": {"unheard_of": 1}},
        {"model_args": {"pretrained": True}},
    ):
        with pytest.raises(ModelError, match="cannot be built by timm"):
            build(Card(**{**vars(card), "settings": {**card.settings, **change}}))
    with pytest.raises(ModelError, match="lacks 'architecture'"):
        build(Card(**{**vars(card), "settings": {}}))
    assert hub.asked == []
