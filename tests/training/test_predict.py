import csv
import io

import pytest
import torch
from torch import Tensor, nn

from ravine.errors import RunError
from ravine.training.data.dataset import Dataset, Splits, no_positions
from ravine.training.predict import Predictor, predict, write_csv
from ravine.training.preprocessing import Preprocessing

SPEC = {"task": "classification", "classes": ["cat", 'say "hi", dog', "new\nline"]}


def fitted(inputs: Tensor, targets: Tensor) -> Preprocessing:
    task = "regression" if targets.is_floating_point() else "classification"
    data = Dataset("numbers", "array", task, inputs, targets, {}, ("a", "b", "c"))
    everything = Splits(torch.arange(len(inputs)), no_positions(), no_positions(), given_test=False)
    return Preprocessing.fit(data, everything, "normalize")


@pytest.fixture
def raw() -> Tensor:
    return torch.randn(11, 4, generator=torch.Generator().manual_seed(0)) * 10 + 3


def test_classification_answers_with_probabilities(raw: Tensor) -> None:
    model = nn.Linear(4, 3)
    preprocessing = fitted(raw, torch.arange(11) % 3)
    given = predict(Predictor(preprocessing, model, "classification"), raw)
    logits = ((raw - raw.mean(0)) / raw.std(0, correction=0)) @ model.weight.T + model.bias
    torch.testing.assert_close(given, logits.softmax(1).detach())
    torch.testing.assert_close(given.sum(1), torch.ones(11))


@pytest.mark.parametrize("end", [nn.Identity(), nn.Flatten(0)])
def test_regression_answers_in_units_of_the_target(raw: Tensor, end: nn.Module) -> None:
    targets = raw.sum(1) * 7 + 100
    preprocessing = fitted(raw, targets)
    model = nn.Sequential(nn.Linear(4, 1), end)  # (N, 1) or (N,)
    given = predict(Predictor(preprocessing, model, "regression"), raw)
    standardised = model(preprocessing(raw)).flatten()
    assert given.shape == (11,)
    torch.testing.assert_close(
        given, (standardised * targets.std(correction=0) + targets.mean()).detach(), rtol=1e-5, atol=1e-4
    )


def test_batches_change_nothing(raw: Tensor) -> None:
    predictor = Predictor(fitted(raw, torch.arange(11) % 3), nn.Linear(4, 3), "classification")
    torch.testing.assert_close(
        predict(predictor, raw, batch_size=4), predict(predictor, raw), rtol=0, atol=1e-6
    )


def test_prediction_is_without_noise_and_leaves_the_mode_as_it_was(raw: Tensor) -> None:
    frozen = nn.BatchNorm1d(4).eval()
    model = nn.Sequential(frozen, nn.Dropout(0.5), nn.Linear(4, 3)).train()
    frozen.eval()
    predictor = Predictor(fitted(raw, torch.arange(11) % 3), model, "classification")
    assert torch.equal(predict(predictor, raw), predict(predictor, raw))
    assert model.training
    assert not frozen.training
    assert int(frozen.num_batches_tracked) == 0


def test_half_precision_models_answer_in_float32(raw: Tensor) -> None:
    class Half(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).bfloat16()

    given = predict(Predictor(fitted(raw, torch.arange(11) % 3), Half(4, 3), "classification"), raw)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.sum(1), torch.ones(11), rtol=0, atol=1e-6)


def test_the_csv_of_classes_reads_back_exactly(tmp_path) -> None:
    outputs = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    names = ["a,b.png", 'quote".png', "line\nbreak.png"]
    write_csv(tmp_path / "out.csv", names, outputs, SPEC)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["item"] for row in rows] == names
    assert [row["prediction"] for row in rows] == [SPEC["classes"][i] for i in outputs.argmax(1)]
    read = [[float(row[f"p({name})"]) for name in SPEC["classes"]] for row in rows]
    assert torch.equal(torch.tensor(read, dtype=torch.float32), outputs)
    assert list(rows[0]) == ["item", "prediction", "p(cat)", 'p(say "hi", dog)', "p(new\nline)"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_the_csv_of_values() -> None:
    file = io.StringIO()
    write_csv(file, ["row 1", "row 2"], torch.tensor([0.1, -1e-20]), {"task": "regression", "classes": []})
    assert file.getvalue() == "item,prediction\nrow 1,0.1\nrow 2,-1e-20\n"


def test_an_older_csv_stays_whole_when_writing_fails(tmp_path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="longer"):
        write_csv(path, ["only one name"], torch.ones(2, 3), SPEC)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told(tmp_path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        write_csv(tmp_path / "no" / "out.csv", ["a"], torch.ones(1, 3), SPEC)
