"""Several networks as one predictor: the mean of their probabilities or values, here, loaded and exported."""

import json
import math

import pytest
import torch
from test_export import images, preprocess, raw_items, run_file, table, text
from torch import nn

from ravine import models
from ravine.errors import ModelError, RunError
from ravine.training.averaged import OverSamples
from ravine.training.data.dataset import outputs_of
from ravine.training.ensemble import (
    MeanOfMembers,
    combine,
    fitted_preprocessing,
    read_record,
    together,
)
from ravine.training.examples import example_items
from ravine.training.export import export
from ravine.training.predict import Predictor, predict
from ravine.training.run_folder import RunFolder
from ravine.training.text_model import text_scores


def draws(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=dtype) * 3


def members_of(kind):
    """Two networks of different kinds, and where that means something on differently prepared inputs."""
    data = {"image": images, "table": table, "text": text}[kind]()
    tiny = {"context": 12, "width": 8, "heads": 2}
    settings = {
        "image": [("normalize", "cnn", {"width": 4}), ("pca", "mlp", {})],
        "table": [("none", "linear", {}), ("normalize", "mlp", {"width": 8})],
        "text": [("none", "transformer", {**tiny, "depth": depth}) for depth in (1, 2)],
    }[kind]
    found = []
    for seed, (step, name, chosen) in enumerate(settings):
        prepared = preprocess(data, step)
        torch.manual_seed(seed)
        network = models.make(name, prepared.output_shape, outputs_of(data), chosen)
        found.append(Predictor(prepared, network, data.task).eval())
    return found, raw_items(data)


def test_the_softmax_of_logits_together_is_the_weighted_mean_of_softmaxes():
    logits, weights = draws(3, 5, 4), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for task, given in (("classification", logits), ("language", logits.unsqueeze(2).expand(3, 5, 2, 4))):
        mean = (given.softmax(-1) * weights.view(-1, *[1] * (given.dim() - 1))).sum(0)
        torch.testing.assert_close(combine(task, given, weights).softmax(-1), mean, rtol=0, atol=1e-15)
        # They are logarithms of probabilities, and no less: nothing is left to be normalized.
        assert combine(task, given, weights).logsumexp(-1).abs().max() < 1e-14


def test_values_together_are_their_weighted_mean():
    values = draws(3, 5)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    expected = 0.5 * values[0] + 0.3 * values[1] + 0.2 * values[2]
    torch.testing.assert_close(combine("regression", values, weights), expected, rtol=0, atol=1e-15)


def test_a_probability_too_small_to_be_written_still_has_a_logarithm():
    logits = torch.tensor([[[0.0, 400.0]], [[0.0, 300.0]]])
    given = combine("classification", logits, torch.tensor([0.5, 0.5]))
    assert float(given[0, 0]) == pytest.approx(-300 - math.log(2), rel=1e-6)


@pytest.mark.parametrize("kind", ["image", "table", "text"])
def test_one_member_alone_is_that_member(kind):
    (first, _), raw = members_of(kind)
    scale = float(predict(first, raw).abs().max())
    torch.testing.assert_close(
        predict(together([first], [7.0]), raw), predict(first, raw), rtol=0, atol=1e-6 * max(1.0, scale)
    )


@pytest.mark.parametrize("kind", ["image", "table", "text"])
def test_members_of_different_kinds_are_averaged_from_raw_items(kind):
    members, raw = members_of(kind)
    answers = [predict(member, raw) for member in members]
    assert float((answers[0] - answers[1]).abs().max()) > 0.01
    expected = 0.75 * answers[0] + 0.25 * answers[1]
    given = predict(together(members, [3, 1]), raw)
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("kind", ["image", "table", "text"])
def test_the_whole_ensemble_is_one_file(kind, suffix, tmp_path):
    members, raw = members_of(kind)
    ensemble = together(members, [3, 1])
    path = tmp_path / f"ensemble{suffix}"
    told = export(ensemble, raw[:1], path, ensemble.preprocessing.spec)
    for batch in (raw, raw[:1]):
        wanted = predict(ensemble, batch)
        torch.testing.assert_close(
            run_file(path, batch), wanted, rtol=0, atol=1e-6 * max(1.0, float(wanted.abs().max()))
        )
    assert told["output"][0] == "items"


def test_an_ensemble_with_a_member_that_draws_is_not_exported(tmp_path):
    (first, second), raw = members_of("image")
    noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))
    second = Predictor(second.preprocessing, OverSamples(noisy, 4, 0, "classification"), "classification")
    with pytest.raises(ModelError, match=r"predict\.average = 'samples'"):
        export(together([first, second], [1, 1]), raw, tmp_path / "e.pt2", first.preprocessing.spec)


def test_a_language_ensemble_scores_a_text_by_its_mean_probabilities():
    members, raw = members_of("text")
    tokens = raw.flatten()
    logits = [member.model(tokens[None, :12])[0].double() for member in members]
    shares = torch.stack([each.softmax(-1) for each in logits]).mean(0).detach()
    expected = -shares.gather(1, tokens[1:13, None]).log().mean()
    found = text_scores(together(members, [1, 1]), tokens[:13], 12)
    assert found["loss"] == pytest.approx(float(expected), abs=1e-6)


def test_made_up_items_are_like_those_of_the_first_member():
    members, _ = members_of("table")
    found = fitted_preprocessing(together(members[::-1], [1, 1]))
    assert found is members[1].preprocessing and fitted_preprocessing(members[0]) is members[0].preprocessing
    assert example_items(found, 4, 0).shape == (4, 3)


def test_weights_travel_with_the_module():
    members, _ = members_of("table")
    model = MeanOfMembers(members, [0.75, 0.25], "regression")
    assert torch.equal(model.state_dict()["weights"], torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize(
    "told",
    [
        "{",
        '{"how": "runs", "members": [], "temperature": null}',
        '{"how": "runs", "members": [{"folder": "members/00", "name": "a", "weight": 0}], "temperature": 1}',
        '{"how": "runs", "members": [{"folder": "members/00"}], "temperature": 1}',
    ],
)
def test_a_damaged_record_is_told(told, tmp_path):
    (tmp_path / "ensemble.json").write_text(told)
    with pytest.raises(RunError, match=r"ensemble.json is damaged"):
        read_record(tmp_path)


def test_what_takes_one_run_refuses_an_ensemble(tmp_path):
    member = {"folder": "members/00", "name": "a", "weight": 1.0}
    (tmp_path / "ensemble.json").write_text(
        json.dumps({"how": "runs", "members": [member], "temperature": None})
    )
    assert read_record(tmp_path).members[0].name == "a"
    with pytest.raises(RunError, match=r"is an ensemble, not one run: its members are in .*members"):
        RunFolder.open(tmp_path)
