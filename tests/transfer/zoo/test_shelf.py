"""Networks are kept whole or not at all, and are what their cards say; Ravine's own are small and fit."""

import errno
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ravine import files
from ravine.errors import ModelError, RunError
from ravine.models import make
from ravine.training.recipe import file_layer, validate
from ravine.transfer.zoo import shelf
from ravine.transfer.zoo.card import Card
from ravine.transfer.zoo.opening import open_model
from ravine.transfer.zoo.weights import checksum

OWN = Path(shelf.__file__).parent / "own"
CARD = Card(
    name="small",
    architecture="cnn",
    settings={"width": 4},
    shape=(1, 8, 8),
    mean=(0.25,),
    std=(0.125,),
    outputs=3,
    classes=("a", "b", "c"),
    licence="MIT",
)


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVINE_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def network(seed=0):
    torch.manual_seed(seed)
    return make(CARD.architecture, CARD.shape, CARD.outputs, CARD.settings).eval()


def renamed(name):
    return Card(**{**vars(CARD), "name": name})


def everything(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_what_is_kept_is_opened_the_same():
    model = network()
    place = shelf.put(CARD, model.state_dict(), 'seed = 3\n[model]\nname = "cnn"\n')
    assert everything(place) == [Path("card.json"), Path("recipe.toml"), Path("weights.safetensors")]
    opened = open_model("small")
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(opened.module(x), model(x)) and not opened.module.training
    assert opened.card == Card(**{**vars(CARD), "sha256": checksum(place / "weights.safetensors")})
    assert (place / "recipe.toml").read_text().startswith("seed = 3")


def test_where_a_persons_networks_are(monkeypatch, tmp_path, zoo):
    assert shelf.own_folder() == zoo
    monkeypatch.delenv("RAVINE_ZOO")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert shelf.own_folder() == tmp_path / "cache" / "ravine" / "zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert shelf.own_folder() == tmp_path / "me" / ".cache" / "ravine" / "zoo"


def test_ravines_own_come_first_and_a_kill_leaves_no_network(zoo):
    shelf.put(CARD, network().state_dict())
    shutil.copytree(zoo / "small", zoo / ".small.123")
    (zoo / "stray").mkdir()
    own = sorted(path.name for path in OWN.iterdir())
    assert [folder.name for folder in shelf.shelves()] == [*own, "small"]


def test_every_opening_compares_the_checksum(zoo):
    shelf.put(CARD, network().state_dict())
    open_model("small")
    path = zoo / "small" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the last bit of a number, which no reader can miss
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"small/weights\.safetensors was altered or cut off"):
            open_model("small")
    path.write_bytes(content[:-4])
    with pytest.raises(ModelError, match="altered or cut off"):
        open_model("small")
    path.unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors is missing"):
        open_model("small")


def test_other_weights_in_their_place_are_refused_before_they_are_read(zoo, monkeypatch):
    shelf.put(CARD, network().state_dict())
    save_file(network(1).state_dict(), zoo / "small" / "weights.safetensors")
    monkeypatch.setattr("ravine.transfer.zoo.opening.read_weights", None)
    with pytest.raises(ModelError, match="altered"):
        open_model("small")


def test_a_card_of_another_network_is_told(zoo):
    shelf.put(CARD, network().state_dict())
    path = zoo / "small" / "card.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "outputs": 5, "classes": [], "settings": {"width": 8}}))
    with pytest.raises(ModelError, match=r"small/weights.* does not fit the network: of another shape: "):
        open_model("small")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"small/card\.json cannot be read"),
        ("", r"small/card\.json cannot be read"),
        ("[]", r"small/card\.json is no card of a pretrained network"),
        ('{"name": "x", "shape": [1, 8, 8]}', "lacks architecture, lacks outputs"),
        ('{"name": "x", "shape": [], "outputs": 1, "architecture": "cnn", "colour": 1}', "unknown 'colour'"),
    ],
)
def test_a_damaged_card(zoo, content, message):
    shelf.put(CARD, network().state_dict())
    (zoo / "small" / "card.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        open_model("small")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outputs": "10"}, "outputs: input should be a valid integer"),
        ({"outputs": True}, "outputs: input should be a valid integer"),
        ({"outputs": 0, "classes": []}, "outputs: 0 is less than 1"),
        ({"settings": [1]}, "settings: input should be an object"),
        ({"architecture": 5}, "architecture: input should be a valid string"),
        (
            {"data": 5, "classes": 7},
            "classes: input should be a valid array; data: input should be a valid string",
        ),
        ({"classes": ["a", 1, 2]}, "classes: input should be a valid string"),
        ({"classes": ["a", "b"]}, "classes: 2 names for 3 outputs"),
        ({"kind": "sound"}, "kind: input should be 'image' or 'text'"),
        ({"kind": "text"}, "shape: that of text is empty"),
        ({"shape": [1, 8]}, "shape: that of images is (channels, height, width), each at least 1"),
        ({"shape": [1, 0, 8]}, "shape: that of images is (channels, height, width), each at least 1"),
        ({"shape": [1, 8, "8"]}, "shape: input should be a valid integer"),
        ({"mean": ["a"]}, "mean: input should be a valid number"),
        ({"mean": [0.1, 0.2]}, "mean: 2 values for 1 channels"),
        ({"mean": [float("nan")]}, "mean: its values must be finite"),
        ({"shape": [3, 8, 8]}, "mean: 1 values for 3 channels; std: 1 values for 3 channels"),
        ({"std": [0.0]}, "std: its values must be finite and greater than 0"),
        ({"std": [float("inf")]}, "std: its values must be finite and greater than 0"),
    ],
)
def test_values_that_no_card_has(zoo, changes, told):
    path = shelf.put(CARD, network().state_dict()) / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    with pytest.raises(ModelError) as caught:
        open_model("small")
    assert str(caught.value) == f"{path} is damaged: {told}"


@pytest.mark.parametrize(
    ("width", "told"),
    [
        (
            "wide",
            "model 'cnn': width = 'wide': input should be a valid integer, unable to parse string",
        ),
        ([4], "model 'cnn': width = [4]: input should be a valid integer"),
    ],
)
def test_a_setting_that_the_network_cannot_take(zoo, width, told):
    path = shelf.put(CARD, network().state_dict()) / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "settings": {"width": width}}))
    with pytest.raises(ModelError, match=re.escape(told)):
        open_model("small")


@pytest.mark.parametrize("full", ["weights.safetensors", "recipe.toml", "card.json"])
def test_on_a_full_disk_nothing_is_kept(zoo, monkeypatch, full):
    """Whichever of the files it is at which the disk is full."""
    shelf.put(CARD, network().state_dict())
    before = everything(zoo)
    original = files.write_through

    def write_through(path, write):
        def fails(temporary):
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        original(path, fails if path.name == full else write)

    monkeypatch.setattr(files, "write_through", write_through)
    with pytest.raises(RunError, match="No space left on device"):
        shelf.put(renamed("other"), network().state_dict(), "seed = 0")
    assert everything(zoo) == before


def test_a_place_that_cannot_be_written(zoo):
    zoo.write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"cannot write .*small"):
        shelf.put(CARD, network().state_dict())
    assert zoo.read_text() == "a file where the folder should be"


def test_a_folder_in_the_way_stays(zoo):
    (zoo / "small").mkdir(parents=True)
    (zoo / "small" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"cannot write .*small"):
        shelf.put(CARD, network().state_dict())
    assert everything(zoo) == [Path("small"), Path("small/notes.txt")]


@pytest.mark.parametrize("name", ["small", "ravine-fashion"])
def test_a_name_that_is_taken(zoo, name):
    shelf.put(CARD, network().state_dict())
    content = (zoo / "small" / "weights.safetensors").read_bytes()
    with pytest.raises(ModelError, match=f"there is a network '{name}' already"):
        shelf.put(renamed(name), network(1).state_dict())
    assert (zoo / "small" / "weights.safetensors").read_bytes() == content
    assert [path.name for path in zoo.iterdir()] == ["small"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../up", "/root", "a b", "hf:x", "x.pt", "a\\b", "a\0b"]
)
def test_names_that_are_none(zoo, name):
    with pytest.raises(ModelError, match="is no name for a network"):
        shelf.put(renamed(name), network().state_dict())
    assert not zoo.exists()


def test_a_name_that_is_not_there_brings_the_nearest():
    with pytest.raises(
        ModelError, match=r"no pretrained network 'ravine-cifar' \(did you mean 'ravine-cifar10'"
    ):
        shelf.find("ravine-cifar")
    with pytest.raises(ModelError, match=r"there are ravine-cifar10, ravine-fashion.*hf:NAME"):
        shelf.find("zzz")


# Ravine's own.


def test_they_are_small_together():
    sizes = [path.stat().st_size for path in OWN.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= 6e6


@pytest.mark.parametrize("folder", sorted(OWN.iterdir()), ids=lambda folder: folder.name)
def test_each_is_whole_and_can_be_trained_again(folder):
    card = shelf.card_of(folder)
    assert card.name == folder.name
    assert checksum(folder / "weights.safetensors") == card.sha256
    assert card.data and card.licence and card.score and card.source == "Ravine"
    assert len(card.classes) == card.outputs and len(card.mean) == len(card.std) == card.shape[0]
    opened = open_model(card.name)
    with torch.no_grad():
        out = opened.module(torch.randn(2, *card.shape))
    assert out.shape == (2, card.outputs) and torch.isfinite(out).all()
    recipe = validate([file_layer(folder / "recipe.toml")])
    trained = make(recipe.model.name, card.shape, card.outputs, recipe.model.settings)
    assert shapes(trained) == shapes(opened.module)


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
