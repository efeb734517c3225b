"""Networks from a hub on this machine, and every way in which it may fail."""

import shutil
import socket

import pytest
import torch

from ravine.errors import ModelError
from ravine.transfer.zoo.opening import open_model


def test_a_network_is_fetched_without_pickles_and_code(hub, vit):
    folder, own = vit
    for name in ("pytorch_model.bin", "own.py", "onnx/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not to be fetched")
    hub.repositories["some/vit"] = folder
    opened = open_model("hf:some/vit")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(opened.module(images), own(pixel_values=images).logits)
    assert opened.card.source == "https://huggingface.co/some/vit"
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_what_was_fetched_opens_without_a_connection(hub, vit, monkeypatch):
    hub.repositories["some/vit"] = vit[0]
    first = open_model("hf:some/vit").module.state_dict()
    unreachable(monkeypatch)
    again = open_model("hf:some/vit").module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def unreachable(monkeypatch):
    """The hub at a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")


def test_a_hub_that_cannot_be_reached_is_told_in_a_sentence(hub, monkeypatch, quiet_transformers):
    unreachable(monkeypatch)
    with pytest.raises(ModelError) as caught:
        open_model("hf:some/vit")
    message = str(caught.value)
    assert message.startswith("hf:some/vit is not on this machine, and the hub cannot be reached")
    assert message.endswith("use a local folder: hf:FOLDER")
    assert "\n" not in message


def test_a_name_that_the_hub_does_not_have_is_refused(hub, quiet_transformers):
    with pytest.raises(ModelError, match="hf:some/vit is neither a local folder nor on the hub"):
        open_model("hf:some/vit")


@pytest.mark.parametrize(
    "name", ["", "./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "no such"]
)
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(hub, name):
    with pytest.raises(ModelError, match="there is no such folder"):
        open_model(f"hf:{name}")
    assert hub.asked == []


def test_a_repository_without_safetensors_is_refused(hub, vit):
    folder, _ = vit
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    hub.repositories["some/vit"] = folder
    with pytest.raises(ModelError, match="pickled files are not opened"):
        open_model("hf:some/vit")
