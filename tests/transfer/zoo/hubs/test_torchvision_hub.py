"""Networks of torchvision with the weights of local files, against torchvision itself."""

import json
import re
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from ravine.errors import ModelError
from ravine.transfer.zoo.building import build
from ravine.transfer.zoo.card import Card
from ravine.transfer.zoo.opening import open_model

SMALL = ("shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small")


def anew(card):
    """The network of a card that went through JSON."""
    return build(Card.from_json(json.loads(json.dumps(card.to_json())), "a test"))


@pytest.fixture
def written(tmp_path, torchvision_models):
    """Writes the weights of a network; gives the file and the network."""

    def write(name, suffix=".pth", **arguments):
        torch.manual_seed(0)
        network = torchvision_models.get_model(name, weights=None, **arguments).eval()
        path = tmp_path / f"{name}{suffix}"
        weights = network.state_dict()
        if suffix == ".pth":
            torch.save(weights, path)
        else:
            save_file(weights, path)
        return path, network

    return write


def refusal(name):
    with pytest.raises(ModelError) as caught:
        open_model(f"torchvision:{name}")
    return str(caught.value)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("suffix", "classes"), [(".pth", 1000), (".safetensors", 7)])
def test_a_file_gives_the_logits_that_were_written(written, name, suffix, classes):
    file, own = written(name, suffix, num_classes=classes)
    opened = open_model(f"torchvision:{name}={file}")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(images))
        made = anew(opened.card)
        made.load_state_dict(own.state_dict(), strict=True)
        assert torch.equal(made(images), own(images))
    assert not opened.module.training
    assert (opened.card.outputs, opened.card.source) == (classes, str(file))


def test_images_are_normalized_as_the_recommended_weights_say(written, torchvision_models):
    file, _ = written("mobilenet_v3_small")
    card = open_model(f"torchvision:mobilenet_v3_small={file}").card
    prepare = torchvision_models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
    pixels = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
    prepare.resize_size = [224]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (card.mean, card.std))
    torch.testing.assert_close((pixels / 255 - mean) / std, prepare(pixels), rtol=0, atol=1e-5)
    assert card.shape == (3, 224, 224)


def test_the_older_names_in_files_of_dense_networks_are_known(written):
    file, own = written("densenet121")
    older = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    torch.save({older.sub(r"\1.\2.", name): tensor for name, tensor in own.state_dict().items()}, file)
    opened = open_model(f"torchvision:densenet121={file}")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(images))


def test_its_own_weights_are_opened_without_pickles(torchvision_models, monkeypatch):
    own = torchvision_models.get_model("squeezenet1_1", weights=None).eval()
    asked = []

    def download(url, *, weights_only, check_hash, **_):
        asked.append((url, weights_only, check_hash))
        return own.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    opened = open_model("torchvision:squeezenet1_1")
    recommended = torchvision_models.get_model_weights("squeezenet1_1").DEFAULT
    assert asked == [(recommended.url, True, True)]
    card = opened.card
    assert card.classes == tuple(recommended.meta["categories"])
    assert (card.data, card.source, card.score) == (
        "ImageNet-1K",
        recommended.url,
        "acc@1 58.178, acc@5 80.624",
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(images))


def test_without_a_connection_a_file_is_proposed(torchvision_models, monkeypatch):
    def fail(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    message = refusal("squeezenet1_1")
    assert "the hub cannot be reached" in message
    assert message.endswith("torchvision:squeezenet1_1=FILE")


def test_the_largest_transformer_is_built_at_the_size_of_its_weights(torchvision_models):
    """Its recommended weights are of larger images than its builder's."""
    from ravine.transfer.zoo.hubs import torchvision_models as hub

    recommended = torchvision_models.get_model_weights("vit_h_14").DEFAULT
    settings = hub._settings(torchvision_models, "vit_h_14", recommended, {})
    assert settings == {"name": "vit_h_14", "num_classes": 1000, "image_size": 518}


def test_names_that_cannot_be_taken_on_are_refused(torchvision_models):
    assert "did you mean 'resnet18'" in refusal("resnet18x")
    for name in ("inception_v3", "googlenet", "fasterrcnn_resnet50_fpn", ""):
        assert "that can be taken on" in refusal(name)


def test_files_that_do_not_fit_are_refused(written, tmp_path):
    file, own = written("squeezenet1_1")
    assert "there is no file" in refusal(f"squeezenet1_1={tmp_path / 'none.pth'}")
    weights = own.state_dict()
    weights["stray"] = weights.pop("features.0.bias")
    weights["features.0.weight"] = torch.zeros(3, 3)
    torch.save(weights, file)
    message = refusal(f"squeezenet1_1={file}")
    assert "missing: features.0.bias" in message
    assert "unexpected: stray" in message
    assert "features.0.weight is (3, 3) and must be (64, 3, 3, 3)" in message
    file.write_bytes(file.read_bytes()[:1000])
    assert "damaged or cut off" in refusal(f"squeezenet1_1={file}")


def test_a_card_that_cannot_be_built_is_refused(written):
    file, _ = written("squeezenet1_1")
    card = open_model(f"torchvision:squeezenet1_1={file}").card
    for settings in ({"name": "unheard-of"}, {"name": "squeezenet1_1", "num_classes": "many"}):
        with pytest.raises(ModelError, match="cannot be built by torchvision"):
            build(Card(**{**vars(card), "settings": settings}))
