import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from ravine.errors import DataError, RecipeError, RunError
from ravine.registry import names
from ravine.training import preprocessing_statistics as statistics
from ravine.training.data.dataset import Column, Dataset, Splits, no_positions
from ravine.training.preprocessing import Preprocessing

STEPS = ("none", "center", "normalize", "pca", "whiten")
NAN = float("nan")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first(count: int, items: int) -> Splits:
    """The first `count` items are the training part."""
    return Splits(torch.arange(count), torch.arange(count, items), no_positions(), given_test=False)


def array_set(inputs: Tensor, targets: Tensor | None = None) -> Dataset:
    task = "classification" if targets is None else "regression"
    targets = torch.arange(len(inputs)) % 2 if targets is None else targets
    return Dataset("numbers", "array", task, inputs, targets, {}, ("a", "b"))


def image_set(items: int = 60, size: int = 5) -> Dataset:
    # Blurred over the rows, so that neighbouring pixels are correlated as in pictures.
    pictures = noise(items, 3, size, size).cumsum(2) * 25 + 128
    pictures = pictures.clamp(0, 255).to(torch.uint8)
    return Dataset("pictures", "image", "classification", pictures, torch.arange(items) % 2, {}, ("a", "b"))


TABLE = torch.tensor(
    [
        # height, weight (with missing values), flat (constant), color, shape
        [1.0, 10.0, 7.0, 0.0, 1.0],
        [2.0, NAN, 7.0, 1.0, NAN],
        [3.0, 30.0, 7.0, 0.0, 0.0],
        [6.0, 50.0, 7.0, 1.0, 1.0],
        [9.0, NAN, 8.0, 2.0, 2.0],  # not in training: color 2 and shape 2 are unknown to it
    ]
)
COLUMNS = (
    Column("height"),
    Column("weight"),
    Column("flat"),
    Column("color", ("red", "green", "blue")),
    Column("shape", ("round", "square", "long")),
)


def table_set(inputs: Tensor = TABLE) -> Dataset:
    targets = torch.arange(len(inputs)) % 2
    return Dataset("rows", "table", "classification", inputs, targets, {}, ("a", "b"), COLUMNS)


def covariance(x: Tensor) -> Tensor:
    return torch.cov(x.flatten(1).double().T, correction=0)


def test_the_steps_are_registered() -> None:
    # "pretrained" learns nothing from the data: tests/training/test_pretrained.py
    assert set(STEPS) == set(names("preprocessing")) - {"pretrained"}


def test_pixels_are_scaled_and_nothing_else() -> None:
    data = image_set()
    fitted = Preprocessing.fit(data, first(40, 60), "none")
    torch.testing.assert_close(fitted(data.inputs), data.inputs.float() / 255, rtol=1e-6, atol=0)
    assert fitted.output_shape == (3, 5, 5)


def test_numbers_pass_unchanged() -> None:
    data = array_set(noise(20, 3, 2) * 100)
    fitted = Preprocessing.fit(data, first(10, 20), "none")
    assert torch.equal(fitted(data.inputs), data.inputs)


def test_centring_removes_the_mean_of_each_channel() -> None:
    data = image_set()
    fitted = Preprocessing.fit(data, first(40, 60), "center")
    training = data.inputs[:40].double() / 255
    wanted = data.inputs.double() / 255 - training.mean((0, 2, 3))[:, None, None]
    torch.testing.assert_close(fitted(data.inputs).double(), wanted, rtol=0, atol=1e-6)


def test_images_are_normalized_by_channel() -> None:
    data = image_set()
    fitted = Preprocessing.fit(data, first(40, 60), "normalize")
    training = data.inputs[:40].numpy().astype(np.float64)
    mean, std = training.mean((0, 2, 3)), training.std((0, 2, 3))
    wanted = (data.inputs.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(fitted(data.inputs).numpy(), wanted, atol=2e-6)


def test_arrays_are_normalized_by_feature() -> None:
    data = array_set(noise(30, 2, 4) * torch.arange(1, 9).view(2, 4) + 5)
    out = Preprocessing.fit(data, first(20, 30), "normalize")(data.inputs)[:20].double()
    torch.testing.assert_close(out.mean(0), torch.zeros(2, 4).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.std(0, correction=0), torch.ones(2, 4).double(), rtol=1e-6, atol=0)


def test_pca_agrees_with_an_independent_implementation() -> None:
    data = array_set(noise(200, 6) @ noise(6, 6, seed=1) + 3)
    fitted = Preprocessing.fit(data, first(150, 200), "pca")
    peer = PCA(svd_solver="full").fit(data.inputs[:150].double().numpy())
    wanted = peer.transform(data.inputs.double().numpy())
    np.testing.assert_allclose(np.abs(fitted(data.inputs).numpy()), np.abs(wanted), atol=1e-4)


def test_pca_decorrelates_with_the_largest_variance_first() -> None:
    data = image_set(300, size=4)
    fitted = Preprocessing.fit(data, first(250, 300), "pca")
    found = covariance(fitted(data.inputs)[:250])
    variances = found.diagonal()
    assert fitted.output_shape == (48,)
    assert (variances.diff() <= 1e-7).all()
    assert (found - variances.diag()).abs().max() < 1e-5 * variances[0]


def test_components_without_variance_are_left_out() -> None:
    two = noise(50, 2)
    data = array_set(torch.cat((two, two.sum(1, keepdim=True)), dim=1))
    assert Preprocessing.fit(data, first(50, 50), "pca").output_shape == (2,)


@pytest.mark.parametrize("data", [array_set(noise(400, 5) @ noise(5, 5, seed=2)), image_set(400, size=3)])
def test_whitened_data_have_unit_covariance_and_keep_their_shape(data: Dataset) -> None:
    out = Preprocessing.fit(data, first(300, 400), "whiten")(data.inputs)
    assert out.shape == data.inputs.shape
    found = covariance(out[:300])
    # Variances are raised by 1e-4 of the mean one: what had a hundredth of the mean loses 1 %.
    torch.testing.assert_close(found, torch.eye(len(found)).double(), rtol=0, atol=0.02)


def test_whitening_keeps_each_number_next_to_itself() -> None:
    """ZCA is the whitening nearest to the identity: outputs correlate with their own inputs."""
    data = image_set(400, size=3)
    out = Preprocessing.fit(data, first(400, 400), "whiten")(data.inputs).flatten(1)
    raw = data.inputs.float().flatten(1)
    cross = torch.corrcoef(torch.cat((raw, out), dim=1).T)[: raw.shape[1], raw.shape[1] :]
    assert (cross.argmax(1) == torch.arange(len(cross))).all()


def test_a_table_becomes_numbers_flags_and_one_hot_features() -> None:
    fitted = Preprocessing.fit(table_set(), first(4, 5), "none")
    wanted = torch.tensor(
        [
            # height, weight, flat | weight is missing | red, green | round, square
            [1.0, 10.0, 7.0, 0, 1, 0, 0, 1],
            [2.0, 30.0, 7.0, 1, 0, 1, 0, 0],
            [3.0, 30.0, 7.0, 0, 1, 0, 1, 0],
            [6.0, 50.0, 7.0, 0, 0, 1, 0, 1],
            [9.0, 30.0, 8.0, 1, 0, 0, 0, 0],
        ]
    )
    assert torch.equal(fitted(TABLE), wanted)
    assert fitted.output_shape == (8,)


def test_only_the_numbers_of_a_table_are_standardized() -> None:
    out = Preprocessing.fit(table_set(), first(4, 5), "normalize")(TABLE)
    numbers = out[:4, :2].double()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(2).double(), rtol=1e-6, atol=0)
    assert set(out[:, 3:].flatten().tolist()) == {0.0, 1.0}


def test_a_column_that_is_constant_in_training_is_silent_ever_after() -> None:
    out = Preprocessing.fit(table_set(), first(4, 5), "normalize")(TABLE)
    assert (out[:, 2] == 0).all()  # row 4 has another value there


def test_a_column_without_any_value_in_training_is_silent() -> None:
    rows = TABLE.clone()
    rows[:4, 1] = NAN
    rows[4, 1] = 5.0
    out = Preprocessing.fit(table_set(rows), first(4, 5), "normalize")(rows)
    assert out.isfinite().all()
    assert (out[:, 1] == 0).all()
    assert out.shape[1] == 7  # no flag: it would be constant


def test_a_value_missing_for_the_first_time_becomes_the_mean() -> None:
    fitted = Preprocessing.fit(table_set(), first(4, 5), "normalize")
    row = TABLE[:1].clone()
    row[0, 0] = NAN
    assert fitted(row)[0, 0] == 0.0


def test_the_units_of_a_table_do_not_decide_its_components() -> None:
    scaled = TABLE * torch.tensor([1000.0, 1.0, 1.0, 1.0, 1.0])
    a = Preprocessing.fit(table_set(), first(4, 5), "pca")(TABLE)
    b = Preprocessing.fit(table_set(scaled), first(4, 5), "pca")(scaled)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["image", "table", "array"])
def test_other_parts_do_not_move_the_statistics(kind: str, step: str) -> None:
    rows = torch.cat((noise(40, 3), torch.arange(80).remainder(2).view(40, 2).float()), dim=1)
    data = {"image": image_set(40), "table": table_set(rows), "array": array_set(noise(40, 6))}[kind]
    changed = data.inputs.clone()
    changed[30:] = 0
    changed[35:] = 200 if kind == "image" else NAN
    a = Preprocessing.fit(data, first(30, 40), step)
    b = Preprocessing.fit(replace(data, inputs=changed), first(30, 40), step)
    assert a.state_dict().keys() == b.state_dict().keys()
    assert all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in a.state_dict())


def test_a_covariance_takes_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "COVARIANCE_SAMPLE", 25)
    items = Streamed(noise(60, 3))
    Preprocessing.fit(replace(array_set(items.inputs), inputs=items), first(40, 60), "pca")
    assert len(items.fetched) == 25


@pytest.mark.parametrize("step", STEPS)
def test_chunks_add_up(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Sorted, so that the first chunk is nothing like the others.
    data = array_set((noise(100, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sort(0).values + 1000)
    whole = Preprocessing.fit(data, first(90, 100), step)
    monkeypatch.setattr(statistics, "CHUNK_NUMBERS", 28)  # seven items at a time
    parts = Preprocessing.fit(data, first(90, 100), step)
    torch.testing.assert_close(parts(data.inputs), whole(data.inputs), rtol=1e-5, atol=1e-5)


def test_a_small_spread_far_from_zero_is_kept() -> None:
    """Years, or times in seconds: in float32 E[x²] − E[x]² would be noise."""
    data = array_set(1e5 + noise(200, 1))
    out = Preprocessing.fit(data, first(200, 200), "normalize")(data.inputs)
    assert out.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert out.mean().item() == pytest.approx(0, abs=0.01)


class Streamed:
    """Items on demand, counting what is fetched."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs
        self.fetched: list[int] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape)

    def fetch(self, positions: Tensor) -> Tensor:
        self.fetched += positions.tolist()
        return self.inputs[positions]


def test_streamed_items_are_sampled_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "STREAMED_SAMPLE", 25)
    base = image_set(60)
    fetched = []
    for seed in (0, 0, 1):
        items = Streamed(base.inputs)
        Preprocessing.fit(replace(base, inputs=items), first(40, 60), "normalize", seed=seed)
        assert len(items.fetched) == len(set(items.fetched)) == 25
        assert max(items.fetched) < 40
        fetched.append(items.fetched)
    assert fetched[0] == fetched[1] != fetched[2]


def test_streamed_items_within_the_bound_give_what_tensors_give() -> None:
    base = image_set(60)
    splits = first(40, 60)
    a = Preprocessing.fit(replace(base, inputs=Streamed(base.inputs)), splits, "normalize")
    b = Preprocessing.fit(base, splits, "normalize")
    assert torch.equal(a(base.inputs), b(base.inputs))
    parts = [
        statistics.TrainingPart.of(replace(base, inputs=inputs), splits.train, seed=0)
        for inputs in (Streamed(base.inputs), base.inputs)
    ]
    assert statistics.color_covariance(parts[0]) == statistics.color_covariance(parts[1])


def test_streamed_items_are_fetched_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    base = image_set(60)
    monkeypatch.setattr(statistics, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meeting = threading.Barrier(2, timeout=3)

    class Meeting(Streamed):
        def fetch(self, positions: Tensor) -> Tensor:
            meeting.wait()  # one thread alone would wait in vain
            return super().fetch(positions)

    Preprocessing.fit(replace(base, inputs=Meeting(base.inputs)), first(40, 60), "normalize")
    assert not meeting.broken


def test_text_passes_as_tokens() -> None:
    tokens = torch.arange(50) % 5
    data = Dataset("t", "text", "language", tokens, torch.empty(0, dtype=torch.int64), {}, tuple("abcde"))
    fitted = Preprocessing.fit(data, first(40, 50), "normalize")
    assert torch.equal(fitted(tokens.view(5, 10)), tokens.view(5, 10))
    assert fitted.output_shape == ()
    assert fitted.step == "none"


def test_regression_targets_are_standardized_by_the_training_part_and_back() -> None:
    targets = noise(30) * 40 + 300
    fitted = Preprocessing.fit(array_set(noise(30, 2), targets), first(20, 30), "normalize")
    scaled = fitted.scale_targets(targets)
    assert scaled[:20].mean().item() == pytest.approx(0, abs=1e-5)
    assert scaled[:20].std(correction=0).item() == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(fitted.unscale(scaled), targets)
    assert fitted.target_scale == pytest.approx(
        (targets[:20].mean().item(), targets[:20].std(correction=0).item()), rel=1e-6
    )


def test_constant_targets_do_not_divide_by_zero() -> None:
    fitted = Preprocessing.fit(array_set(noise(4, 2), torch.full((4,), 3.0)), first(4, 4), "none")
    assert fitted.scale_targets(torch.tensor([3.0, 4.0])).tolist() == [0.0, 1.0]


def test_an_unknown_step_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"'normalise'.*did you mean 'normalize'"):
        Preprocessing.fit(image_set(), first(40, 60), "normalise")


@pytest.mark.parametrize("step", ["pca", "whiten"])
def test_too_many_features_to_decorrelate_are_refused(step: str) -> None:
    large = image_set(4, size=40)
    with pytest.raises(DataError, match=r"at most 4,096 .* has 4,800: lower data\.image_size"):
        Preprocessing.fit(large, first(4, 4), step)


def test_nothing_to_rotate_is_refused() -> None:
    with pytest.raises(DataError, match="no feature of numbers varies"):
        Preprocessing.fit(array_set(torch.ones(5, 3)), first(5, 5), "pca")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("data", [image_set(), table_set(), array_set(noise(60, 4), noise(60))])
def test_saved_and_loaded_it_is_the_same_bit_for_bit(data: Dataset, step: str, tmp_path) -> None:
    count = len(data.inputs)
    fitted = Preprocessing.fit(data, first(count - 1, count), step)
    fitted.save(tmp_path)
    loaded = Preprocessing.load(tmp_path)
    assert torch.equal(loaded(data.inputs), fitted(data.inputs))
    assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), fitted.buffers(), strict=True))
    assert (loaded.spec, loaded.step, loaded.output_shape) == (fitted.spec, step, fitted.output_shape)
    assert loaded.target_scale == fitted.target_scale
    assert (tmp_path / "preprocessing.safetensors").exists() == (step in ("pca", "whiten"))


def test_the_record_is_enough_without_ravine(tmp_path) -> None:
    data = image_set()
    fitted = Preprocessing.fit(data, first(40, 60), "normalize")
    fitted.save(tmp_path)
    record = json.loads((tmp_path / "preprocessing.json").read_text())
    (step,) = record["steps"]
    mean, scale = (np.array(step[key], np.float32).reshape(step["shape"]) for key in ("mean", "scale"))
    by_hand = (data.inputs.numpy().astype(np.float32) - mean) * scale
    assert np.array_equal(by_hand, fitted(data.inputs).numpy())
    assert record["kind"] == "image"
    assert record["classes"] == ["a", "b"]
    assert record["output_shape"] == [3, 5, 5]


def test_a_missing_record_is_told(tmp_path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*preprocessing\.json.*run folder"):
        Preprocessing.load(tmp_path)


def test_a_missing_matrix_is_told(tmp_path) -> None:
    Preprocessing.fit(array_set(noise(20, 3)), first(20, 20), "pca").save(tmp_path)
    (tmp_path / "preprocessing.safetensors").unlink()
    with pytest.raises(RunError, match=r"cannot read .*preprocessing\.safetensors"):
        Preprocessing.load(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"standardize"', '"other"'),
        lambda text: text.replace('"mean"', '"means"'),
        lambda text: text.replace('"output_shape": [\n    3', '"output_shape": [\n    4'),
    ],
)
def test_a_damaged_record_is_told(damage, tmp_path) -> None:
    Preprocessing.fit(array_set(noise(20, 3)), first(20, 20), "normalize").save(tmp_path)
    path = tmp_path / "preprocessing.json"
    changed = damage(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(RunError, match="damaged"):
        Preprocessing.load(tmp_path)


def test_a_damaged_matrix_is_told(tmp_path) -> None:
    Preprocessing.fit(array_set(noise(20, 3)), first(20, 20), "whiten").save(tmp_path)
    (tmp_path / "preprocessing.safetensors").write_bytes(b"not tensors")
    with pytest.raises(RunError, match="damaged"):
        Preprocessing.load(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=2, max_size=12))
def test_standardized_numbers_are_finite_and_bounded(rows: list[list[float]]) -> None:
    """No value of N lies further than √(N−1) standard deviations from their mean (Samuelson)."""
    data = array_set(torch.tensor(rows))
    out = Preprocessing.fit(data, first(len(rows), len(rows)), "normalize")(data.inputs)
    assert out.isfinite().all()
    assert out.abs().max() <= (len(rows) - 1) ** 0.5 + 1
