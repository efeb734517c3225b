"""Networks that transformers wrote, against transformers itself."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ravine.errors import ModelError
from ravine.transfer.surgery import find_head, replace_head
from ravine.transfer.zoo.building import build
from ravine.transfer.zoo.card import Card
from ravine.transfer.zoo.opening import open_model


def anew(card):
    """The network of a card that went through JSON."""
    return build(Card.from_json(json.loads(json.dumps(card.to_json())), "a test"))


def test_a_vision_transformer_gives_the_logits_that_it_gave(vit):
    folder, own = vit
    opened = open_model(f"hf:{folder}")
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(pixel_values=images).logits)
    assert not opened.module.training


def test_the_card_says_how_to_feed_it(vit):
    card = open_model(f"hf:{vit[0]}").card
    assert (card.kind, card.shape, card.outputs) == ("image", (3, 32, 32), 5)
    assert card.mean == pytest.approx((0.5, 0.4, 0.3), abs=1e-15)
    assert card.std == pytest.approx((0.2, 0.25, 0.3), abs=1e-15)
    assert card.classes == ("ant", "bee", "cat", "dog", "emu")


def test_a_residual_network_takes_its_size_from_how_its_images_were_cropped(tmp_path, quiet_transformers):
    config = quiet_transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3
    )
    own = quiet_transformers.ResNetForImageClassification(config).eval()
    own.save_pretrained(tmp_path)
    processor = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 36, "width": 32},
        "do_center_crop": True,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    opened = open_model(f"hf:{tmp_path}")
    assert opened.card.shape == (3, 36, 32)
    assert opened.card.classes == ()  # transformers' LABEL_0 is no name
    images = torch.randn(2, 3, 36, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(pixel_values=images).logits)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert "does not say what size" in refusal(tmp_path)


def test_a_language_model_gives_the_logits_of_every_place(tmp_path, quiet_transformers):
    config = quiet_transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    own = quiet_transformers.GPT2LMHeadModel(config).eval()
    own.save_pretrained(tmp_path)
    opened = open_model(f"hf:{tmp_path}")
    assert (opened.card.kind, opened.card.shape, opened.card.outputs) == ("text", (), 40)
    tokens = torch.randint(40, (2, 9))
    with torch.no_grad():
        given = opened.module(tokens)
        assert given.shape == (2, 9, 40)
        assert torch.equal(given, own(tokens).logits)
        made = anew(opened.card)
        made.load_state_dict(own.state_dict(), strict=True)
        assert torch.equal(made(tokens), given)


def test_the_network_is_built_from_its_card_alone(vit):
    folder, own = vit
    card = open_model(f"hf:{folder}").card
    for file in folder.iterdir():
        file.unlink()
    assert str(folder) not in json.dumps(card.settings)
    made = anew(card)
    made.load_state_dict(own.state_dict(), strict=True)  # by the names that transformers gives
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made(images), own(pixel_values=images).logits)


def test_its_weights_go_back_to_transformers(vit, quiet_transformers):
    folder, own = vit
    module = open_model(f"hf:{folder}").module
    fresh = quiet_transformers.ViTForImageClassification(own.config)
    fresh.load_state_dict(module.state_dict(), strict=True)


def test_half_precision_is_opened_as_single(vit):
    folder, own = vit
    own.half().save_pretrained(folder)
    opened = open_model(f"hf:{folder}")
    assert {p.dtype for p in opened.module.parameters()} == {torch.float32}
    assert {p.dtype for p in anew(opened.card).parameters()} == {torch.float32}
    assert torch.equal(opened.module.classifier.weight, own.classifier.weight.float())


def test_a_copy_with_another_head_leaves_the_network_as_it_was(vit):
    module = open_model(f"hf:{vit[0]}").module
    images = torch.randn(2, 3, 32, 32)
    assert find_head(module, images) == "classifier"
    other = copy.deepcopy(module)
    replace_head(other, 2, at="classifier")
    assert other(images).shape == (2, 2)
    assert module(images).shape == (2, 5)


def test_it_exports_as_any_network(vit):
    module = open_model(f"hf:{vit[0]}").module
    images = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(module, (images,)).module()
    torch.testing.assert_close(exported(images), module(images))


def test_the_page_of_a_network_tells_its_licence_and_data(vit):
    folder, _ = vit
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ndatasets:\n- imagenet-1k\n- cifar10\nbase_model: some/body\n---\n"
    )
    card = open_model(f"hf:{folder}").card
    assert card.licence == "apache-2.0"
    assert card.data == "imagenet-1k, cifar10"
    assert card.source == f"{folder}, made from some/body"


def test_a_licence_of_its_own_is_named(vit):
    folder, _ = vit
    page = "---\nlicense: other\nlicense_name: only-for-tests\nlicense_link: LICENSE\n---\n"
    (folder / "README.md").write_text(page)
    assert open_model(f"hf:{folder}").card.licence == "only-for-tests LICENSE"


@pytest.mark.parametrize("page", ["# No front matter\n", "---\n licence: [\n---\n", "---\n- a list\n---\n"])
def test_a_page_that_says_nothing_is_no_obstacle(vit, page):
    folder, _ = vit
    (folder / "README.md").write_text(page)
    card = open_model(f"hf:{folder}").card
    assert (card.licence, card.data, card.source) == ("", "", str(folder))


def test_loading_is_quiet_and_leaves_the_settings_of_transformers(vit, capfd, quiet_transformers, rewrite):
    logging = quiet_transformers.utils.logging
    logging.enable_progress_bar()
    logging.set_verbosity_warning()
    try:
        open_model(f"hf:{vit[0]}")
        rewrite(vit[0], intermediate_size=48)
        with pytest.raises(ModelError):
            open_model(f"hf:{vit[0]}")
        assert capfd.readouterr() == ("", "")
        assert logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.WARNING
    finally:
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def refusal(folder):
    with pytest.raises(ModelError) as caught:
        open_model(f"hf:{folder}")
    message = str(caught.value)
    assert message.startswith(f"hf:{folder}") or f" hf:{folder} " in message
    assert "Traceback" not in message
    return message


def test_missing_left_over_and_misshapen_weights_are_listed(vit, rewrite):
    folder, _ = vit
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["stray.weight"] = weights.pop("classifier.weight")
    save_file(weights, path, metadata={"format": "pt"})
    rewrite(folder, intermediate_size=48)
    message = refusal(folder)
    assert "missing: classifier.weight" in message
    assert "unexpected: stray.weight" in message
    assert ".bias is (32,) and must be (48,)" in message


def test_a_network_without_a_head_is_refused(vit, quiet_transformers, rewrite):
    folder, own = vit
    own.vit.save_pretrained(folder)
    assert "is a ViTModel" in refusal(folder)
    rewrite(folder, architectures=["ViTForImageClassification"])
    assert "missing: classifier.bias, classifier.weight" in refusal(folder)


def test_truncated_weights_are_refused(vit):
    folder, _ = vit
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be opened" in refusal(folder)


def test_pickled_weights_are_refused(vit):
    folder, own = vit
    (folder / "model.safetensors").unlink()
    torch.save(own.state_dict(), folder / "pytorch_model.bin")
    assert "pickled" in refusal(folder)


def test_code_that_comes_with_a_network_is_not_run(vit, tmp_path, rewrite):
    folder, _ = vit
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    mapped = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Network"}
    rewrite(folder, auto_map=mapped)
    # A network that transformers has is opened as transformers has it.
    assert open_model(f"hf:{folder}").card.outputs == 5
    rewrite(folder, auto_map=mapped, model_type="own", architectures=["Network"])
    assert "code of its own, which is not run" in refusal(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": None}, "has no model_type"),
        ({"model_type": "unheard-of"}, "no image classifier or causal language model"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "is a BertForMaskedLM"),
        ({"architectures": None}, "is a vit"),
        ({"hidden_size": "wide"}, "cannot be opened"),
    ],
)
def test_configurations_that_cannot_be_taken_on_are_refused(vit, rewrite, changes, told):
    rewrite(vit[0], **changes)
    assert told in refusal(vit[0])


def test_a_folder_without_a_configuration_is_refused(vit):
    folder, _ = vit
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "no record of settings" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_images_of_unknown_preparation_are_refused(vit):
    folder, _ = vit
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"do_flip_channel_order": True}))
    assert "do_flip_channel_order" in refusal(folder)
    path.unlink()
    assert "has no preprocessor_config.json" in refusal(folder)


def test_a_card_that_cannot_be_built_is_refused(vit):
    card = open_model(f"hf:{vit[0]}").card
    settings = {**card.settings, "num_hidden_layers": "two"}
    with pytest.raises(ModelError, match="cannot be built by transformers"):
        build(Card(**{**vars(card), "settings": settings}))


def test_the_network_is_a_module_as_any(vit):
    module = open_model(f"hf:{vit[0]}").module
    assert isinstance(module, nn.Module)
    images = torch.randn(2, 3, 32, 32)
    weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
    given = torch.func.functional_call(module, weights, (images,))
    assert torch.equal(given, module(images))
    module.train()
    module(images).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
