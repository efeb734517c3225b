"""Runs with noise put into the network, and predictions that average it out, from recipe to export."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ravine.errors import ModelError, RecipeError
from ravine.generalize import NoisyPart, pieces
from ravine.generalize.views import TenCrop
from ravine.models import make
from ravine.training import averaged
from ravine.training import run as runs
from ravine.training.examples import example_items
from ravine.training.export import export
from ravine.training.load import load, load_predictor
from ravine.training.predict import predict

NOISE = {"dropout": 0.3, "feature_dropout": 0.1, "drop_connect": 0.2}
SHORT = {"model": {"name": "cnn", "width": 8}, "stop": {"epochs": 2}, "precision": "fp32"}


def trained(folder, *settings):
    return runs.train(None, "digits", settings=[SHORT, *settings], out=folder)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "noisy"
    return trained(folder, {"regularize": NOISE, "predict": {"average": "samples", "samples": 8}})


def test_the_recipe_s_noise_is_in_the_network_and_told(noisy):
    told = [notice["text"] for notice in noisy.result["noticed"]]
    assert any(text.startswith("dropout 0.3 of the input of") for text in told)
    assert sum(isinstance(module, NoisyPart) for module in noisy.model.modules()) >= 3
    assert sum(isinstance(module, NoisyPart) for module in load(noisy.folder).modules()) >= 3


def test_the_weights_are_those_of_the_plain_network(noisy):
    plain = make("cnn", (1, 8, 8), 10, {"width": 8})
    plain.load_state_dict(load_file(noisy.folder / "model.safetensors"))


@pytest.mark.parametrize("average", ["expectation", "samples", "flip", "ten-crop"])
def test_predict_gives_what_was_scored(average, tmp_path):
    settings = [{"regularize": NOISE, "predict": {"average": average, "samples": 4}}]
    run = trained(tmp_path / "run", *settings)
    setup = runs.make_setup(None, "digits", settings=[SHORT, *settings])
    raw = setup.dataset.fetch(setup.splits.test)
    scored = load_file(run.folder / "predictions.safetensors")["test.outputs"].softmax(1)
    torch.testing.assert_close(predict(load_predictor(run.folder), raw), scored, rtol=1e-4, atol=1e-5)


def test_a_run_with_noise_that_is_stopped_ends_bit_identical(tmp_path, monkeypatch):
    from test_resume import assert_identical, stop_at

    from ravine.errors import Interrupted

    settings = [{"regularize": NOISE}]
    whole = trained(tmp_path / "whole", *settings)
    with monkeypatch.context() as patch:
        stop_at(patch, "between_steps_when_due", 15)
        with pytest.raises(Interrupted):
            trained(tmp_path / "run", *settings)
    assert_identical(runs.resume(tmp_path / "run").folder, whole.folder)


@pytest.mark.parametrize(("average", "views"), [("flip", 2), ("ten-crop", 10)])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_views_are_averaged_as_probabilities_or_values(average, views, task):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 14, 4))
    x = torch.randn(5, 3, 14, 14)
    found = averaged.OverViews(model, average, task)(x)
    seen = [x, x.flip(3)] if average == "flip" else TenCrop()(x)
    assert len(seen) == views and all(view.shape == x.shape for view in seen)
    answers = torch.stack([model(view) for view in seen])
    if task == "regression":
        torch.testing.assert_close(found, answers.mean(0))
    else:
        torch.testing.assert_close(found.softmax(1), answers.softmax(2).mean(0))


def test_ten_crops_are_the_corners_the_middle_and_their_mirror_images():
    x = torch.rand(2, 3, 28, 21)
    crops = TenCrop((8 / 7, 10 / 7))(x)
    assert len(crops) == 20 and all(crop.shape == x.shape for crop in crops)
    large = nn.functional.interpolate(x, (32, 24), mode="bilinear")
    corners = [large[..., top : top + 28, left : left + 21] for top in (0, 4) for left in (0, 3)]
    for crop, wanted in zip(crops, [*corners, large[..., 2:30, 1:22]], strict=False):
        assert torch.equal(crop, wanted)
    assert all(torch.equal(crops[10 + number], crops[number].flip(3)) for number in range(10))
    for scales in ((), (0.9,), (float("nan"),)):
        with pytest.raises(ValueError, match="Invalid scales"):
            TenCrop(scales)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_export_averages_over_the_views(suffix, tmp_path):
    run = trained(tmp_path / "run", {"predict": {"average": "ten-crop"}})
    predictor = load_predictor(run.folder)
    preprocessing = predictor.preprocessing
    example = example_items(preprocessing, 4, 0)
    done = export(predictor, example, tmp_path / f"model{suffix}", preprocessing.spec)
    assert done["difference"] < 1e-5 and done["input"] == ["items", 1, 8, 8]


def test_an_export_of_samples_is_refused(noisy, tmp_path):
    predictor = load_predictor(noisy.folder)
    with pytest.raises(ModelError, match="'samples' draws noise anew"):
        export(predictor, example_items(predictor.preprocessing, 4, 0), tmp_path / "m.pt2", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        ("wine", {"predict": {"average": "flip"}}, "views are of images, and these data are a table"),
        (
            "wine",
            {"model": {"name": "linear"}, "predict": {"average": "samples"}},
            "the network has no noise",
        ),
        ("wine", {"regularize": {"dropout": 1.5}}, r"regularize\.dropout = 1\.5"),
        ("wine", {"regularize": {"dropuot": 0.5}}, "did you mean 'dropout'"),
        ("wine", {"regularize": {"dropout": True}}, r"regularize\.dropout = True"),
        ("wine", {"model": {"dropout": 0.0}, "predict": {"average": "samples"}}, "the network has no noise"),
        ("digits", {"predict": {"average": "mean"}}, r"predict\.average = 'mean'"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(data, settings, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        runs.train(None, data, settings=[settings], out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_nowhere_to_put_a_noise_is_refused(tmp_path):
    settings = [{"model": {"name": "linear"}, "regularize": {"dropout": 0.5}}]
    with pytest.raises(ModelError, match="nowhere to put dropout"):
        runs.train(None, "wine", settings=settings, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_caller_s_own_network_is_regularized(tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(8, 5), torch.randint(0, 3, (8,))) for _ in range(4)]
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    settings = {"regularize": {"dropout": 0.5}, "predict": {"average": "samples"}, "stop": {"epochs": 2}}
    run = runs.train(model, batches, settings, out=tmp_path / "run")
    assert list(load_file(run.folder / "model.safetensors")) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    written = json.loads((run.folder / "result.json").read_text())
    assert any("dropout 0.5 of the input of 2" in notice["text"] for notice in written["noticed"])


def test_the_same_network_is_trained_twice_with_other_rates(tmp_path):
    torch.manual_seed(0)
    batches = [(torch.randn(8, 5), torch.randint(0, 3, (8,))) for _ in range(4)]
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    for number, rate in enumerate((0.5, 0.2)):
        settings = {"regularize": {"dropout": rate}, "stop": {"epochs": 1}}
        runs.train(model, batches, settings, out=tmp_path / str(number))
        assert model[2].noise_before.p == rate


def test_probabilities_too_small_for_float32_leave_a_finite_loss(tmp_path):
    class Sure(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.1))

        def forward(self, x):
            return 300 * self.layer(x)

    torch.manual_seed(0)
    batches = [(torch.randn(8, 5), torch.randint(0, 3, (8,))) for _ in range(4)]
    settings = {"predict": {"average": "samples"}, "stop": {"epochs": 1}}
    run = runs.train(Sure(), batches, settings, out=tmp_path / "run")
    assert run.result["train"]["loss"] < 100


class Functional(nn.Module):
    """A network whose only noise is a function call in its own code."""

    def __init__(self, shape, outputs, rate=0.5):
        super().__init__()
        self.layer, self.head, self.rate = nn.Linear(shape[0], 16), nn.Linear(16, outputs), rate

    def forward(self, x):
        hidden = self.layer(x).relu()
        return self.head(nn.functional.dropout(hidden, self.rate, self.training))


@pytest.mark.parametrize("data", ["wine", "given"])
def test_dropout_in_a_network_s_own_code_is_noise_enough(data, tmp_path):
    settings = {"predict": {"average": "samples", "samples": 4}, "stop": {"epochs": 1}}
    if data == "given":
        torch.manual_seed(0)
        data = [(torch.randn(8, 13), torch.randint(0, 3, (8,))) for _ in range(3)]
    model = Functional((13,), 3)
    run = runs.train(model, data, settings=[settings], out=tmp_path / "run")
    assert run.result["train"]["loss"] > 0
    with pytest.raises(RecipeError, match=r"the network has no noise; set regularize\.dropout"):
        runs.train(Functional((13,), 3, 0.0), data, settings=[settings], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("together", [1, 2000, 10**6])
def test_views_of_many_items_are_taken_in_pieces(task, together, monkeypatch):
    passes = []

    class Counting(nn.Module):
        def forward(self, x):
            passes.append(x.numel())
            return x.flatten(1)[:, :4]

    x = torch.randn(9, 3, 8, 8)
    whole = averaged.OverViews(Counting(), "ten-crop", task)(x)
    passes.clear()
    monkeypatch.setattr(pieces, "TOGETHER", together)
    torch.testing.assert_close(averaged.OverViews(Counting(), "ten-crop", task)(x), whole)
    assert max(passes) <= max(together, 10 * 3 * 8 * 8) and sum(passes) == 10 * x.numel()
