import importlib.util
import json
import logging
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from ravine import models
from ravine.errors import ModelError, RavineError, RunError
from ravine.registry import names
from ravine.training import export as exporting
from ravine.training.data.dataset import Column, Dataset, Splits, no_positions, outputs_of
from ravine.training.export import export
from ravine.training.predict import Predictor, predict
from ravine.training.preprocessing import Preprocessing

FORMATS = (".pt2", ".onnx")
CONTEXT = 12


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def images() -> Dataset:
    pictures = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=draw())
    return Dataset("i", "image", "classification", pictures, torch.arange(40) % 3, {}, ("a", "b", "c"))


def table() -> Dataset:
    rows = torch.randn(40, 3, generator=draw())
    rows[::7, 0] = float("nan")
    rows[:, 2] = torch.arange(40) % 3
    rows[5, 2] = float("nan")
    columns = (Column("size"), Column("weight"), Column("color", ("red", "green", "blue")))
    values = 100 + 5 * torch.randn(40, generator=draw())
    return Dataset("t", "table", "regression", rows, values, {}, (), columns, target_name="price")


def text() -> Dataset:
    tokens = torch.randint(0, 5, (400,), generator=draw())
    return Dataset("s", "text", "language", tokens, torch.empty(0, dtype=torch.int64), {}, tuple("abcde"))


def preprocess(data: Dataset, step: str = "normalize") -> Preprocessing:
    everything = Splits(torch.arange(len(data.inputs)), no_positions(), no_positions(), given_test=False)
    return Preprocessing.fit(data, everything, step)


def raw_items(data: Dataset) -> Tensor:
    return (
        data.fetch(torch.arange(7))
        if data.kind != "text"
        else data.fetch(torch.arange(4 * CONTEXT)).view(4, -1)
    )


def run_file(path: Path, raw: Tensor) -> Tensor:
    """As someone without Ravine would."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(raw).detach()
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"input": raw.numpy()})[0])


# Every family of networks at its smallest, on the data it is for.
FAMILIES = {
    ("linear", "table"): {},
    ("mlp", "table"): {},
    ("cnn", "image"): {},
    ("resnet", "image"): {"width": 4, "blocks": (1, 1)},
    ("mobilenet", "image"): {},
    ("transformer", "text"): {"context": CONTEXT, "width": 8, "depth": 1, "heads": 2},
}
DATA = {"image": images, "table": table, "text": text}


def test_every_family_of_networks_is_exported_below() -> None:
    assert {name for name, _ in FAMILIES} == set(names("model")) - {"auto"}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_the_file_answers_as_predict_does(name: str, kind: str, suffix: str, tmp_path) -> None:
    data = DATA[kind]()
    preprocessing = preprocess(data)
    model = models.make(name, preprocessing.output_shape, outputs_of(data), FAMILIES[name, kind])
    predictor = Predictor(preprocessing, model, data.task)
    raw = raw_items(data)
    path = tmp_path / f"model{suffix}"
    told = export(predictor, raw[:1], path, preprocessing.spec)
    for batch in (raw, raw[:1], raw[:3]) + ((raw[:, :5],) if kind == "text" else ()):
        torch.testing.assert_close(run_file(path, batch), predict(predictor, batch), rtol=1e-4, atol=1e-5)
    assert told["input"] == ["items", *(["context"] if kind == "text" else data.item_shape)]
    assert told["output"] == ["items", *([] if kind == "table" else [outputs_of(data)])]
    assert told["difference"] < 1e-4 * (1000 if kind == "table" else 1)
    assert told["bytes"] == path.stat().st_size
    assert told["format"] == suffix[1:]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("step", ["pca", "whiten"])
def test_matrices_travel_with_the_file(step: str, suffix: str, tmp_path) -> None:
    data = images()
    preprocessing = preprocess(data, step)
    model = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(preprocessing.output_shape).numel(), 3))
    predictor = Predictor(preprocessing, model, "classification")
    path = tmp_path / f"model{suffix}"
    export(predictor, raw_items(data), path, preprocessing.spec)
    raw = data.inputs[20:]
    torch.testing.assert_close(run_file(path, raw), predict(predictor, raw), rtol=1e-3, atol=1e-5)


def small(model: nn.Module | None = None) -> tuple[Predictor, Tensor, dict]:
    data = table()
    preprocessing = preprocess(data)
    model = model or nn.Linear(preprocessing.output_shape[0], 1)
    return Predictor(preprocessing, model, "regression"), raw_items(data), preprocessing.spec


def test_names_lie_in_the_pt2_file(tmp_path) -> None:
    export(*small()[:2], tmp_path / "model.pt2", small()[2])
    extra = {"ravine.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    told = json.loads(extra["ravine.json"])
    assert [column["name"] for column in told["columns"]] == ["size", "weight", "color"]
    assert told["answers"] == "values of price"
    assert told["input"] == ["items", 3]


def test_names_lie_in_the_onnx_file(tmp_path) -> None:
    data = images()
    preprocessing = preprocess(data)
    predictor = Predictor(preprocessing, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), "classification")
    export(predictor, raw_items(data), tmp_path / "model.onnx", preprocessing.spec)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["a", "b", "c"]
    assert told["kind"] == "image"
    assert session.get_inputs()[0].type == "tensor(uint8)"


def test_the_exported_model_is_left_as_it_was(tmp_path) -> None:
    predictor, raw, spec = small()
    predictor.train()
    predictor.model.bfloat16().to(torch.bfloat16)
    export(predictor, raw, tmp_path / "model.pt2", spec)
    assert predictor.training
    assert predictor.model.weight.dtype == torch.bfloat16
    assert predictor.model.weight.requires_grad


def test_dropout_and_batch_norm_are_exported_as_in_prediction(tmp_path) -> None:
    size = preprocess(table()).output_shape[0]
    model = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    predictor, raw, spec = small(model.train())
    export(predictor, raw, tmp_path / "model.onnx", spec)
    torch.testing.assert_close(run_file(tmp_path / "model.onnx", raw), predict(predictor, raw))


def test_a_text_model_of_one_length_says_so(tmp_path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(CONTEXT, CONTEXT * 5)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.layer(tokens.float()).view(-1, CONTEXT, 5)

    preprocessing = preprocess(text())
    predictor = Predictor(preprocessing, Fixed(), "language")
    told = export(predictor, raw_items(text()), tmp_path / "model.pt2", preprocessing.spec)
    assert told["input"] == ["items", CONTEXT]


@pytest.mark.parametrize(
    ("name", "hint"), [("model.pth", "did you mean '.pt2'"), ("model", r"\.pt2 .*\.onnx")]
)
def test_an_unknown_extension_is_refused(name: str, hint: str, tmp_path) -> None:
    predictor, raw, spec = small()
    with pytest.raises(RavineError, match=hint):
        export(predictor, raw, tmp_path / name, spec)


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else there(name))
    predictor, raw, spec = small()
    with pytest.raises(RavineError, match=r"needs onnx: pip install 'ravine\[onnx\]'"):
        export(predictor, raw, tmp_path / "model.onnx", spec)


def test_a_model_too_large_for_onnx_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ONNX_LIMIT", 10)
    predictor, raw, spec = small()
    with pytest.raises(RavineError, match=r"export to \.pt2"):
        export(predictor, raw, tmp_path / "model.onnx", spec)


class Choosing(nn.Module):
    """Takes its way by the values of its inputs: it has no graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] if x.sum() > 0 else x[:, 1:2]


class Counting(nn.Module):
    """Depends on how many items come at once."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] if len(x) == 7 else 2 * x[:, :1]


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] + torch.rand_like(x[:, :1])


@pytest.mark.parametrize(
    ("model", "kind", "told"),
    [
        (Choosing(), ModelError, "cannot be exported: .*values of its inputs"),
        (Counting(), ModelError, "cannot be exported: .*number of items"),
        (Noisy(), RavineError, "differ from predict's .*random"),
    ],
)
@pytest.mark.parametrize("suffix", FORMATS)
def test_what_cannot_be_exported_leaves_no_file(model, kind, told: str, suffix: str, tmp_path) -> None:
    predictor, raw, spec = small(model)
    with pytest.raises(kind, match=told):
        export(predictor, raw, tmp_path / f"model{suffix}", spec)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_whole_when_the_new_one_fails_its_check(tmp_path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("old")
    predictor, raw, spec = small(Noisy())
    with pytest.raises(RavineError, match="was not written"):
        export(predictor, raw, path, spec)
    assert path.read_text() == "old"


def test_a_place_that_cannot_be_written_is_told(tmp_path) -> None:
    predictor, raw, spec = small()
    with pytest.raises(RunError, match="cannot write"):
        export(predictor, raw, tmp_path / "no" / "model.pt2", spec)


def test_the_exporter_does_not_chatter_and_silences_no_one_else(tmp_path, capfd, caplog) -> None:
    predictor, raw, spec = small()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        export(predictor, raw, tmp_path / "model.onnx", spec)
        warnings.warn("a real one", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["a real one"]
    out, err = capfd.readouterr()
    assert out + err == ""
    assert logging.getLogger("torch.onnx._internal.exporter._registration").isEnabledFor(logging.WARNING)
