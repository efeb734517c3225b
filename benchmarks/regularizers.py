"""What each regularizer is worth: test accuracy over seeds, against the same network without any.

One small residual network (280,000 to 340,000 parameters) learns from few images: 5,000 of Fashion-MNIST, or
the 15,000 of CIFAR-10, a tenth of them held out to choose the weights. One thing is changed at a time, at its
customary strength; nothing was tuned. Seeds decide the initial weights, the order, the noise and which images
are held out. Intervals are Student's at 95 %, of the mean over seeds; those of a gain pair the seeds.

Each training is left as a run folder, and is not trained again where it is there already.

    python benchmarks/regularizers.py [--data fashion-mnist cifar10-15k] [--seeds 5] [--threads 2]
        [--runs runs/regularizers] [--draw regularizers.html]
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from scipy.stats import t as student
from torch import Tensor, nn

import ravine
from places import data_folder
from ravine.generalize import FractionalMaxPool, average_out
from ravine.generalize.views import TenCrop, flip, same
from ravine.training.data import DataOptions, open_data
from ravine.training.preprocessing import Preprocessing

WIDTH, HIDDEN = 16, 128
# Of Fashion-MNIST this many: with all 60,000 there is little left to gain.
FEW = {"fashion-mnist": 5_000}
EPOCHS = {"fashion-mnist": 40, "cifar10-15k": 20}
TITLES = {"fashion-mnist": "Fashion-MNIST, 5,000 images", "cifar10-15k": "CIFAR-10, 15,000 images"}
AUGMENT = {"fashion-mnist": ["flip", "shift"], "cifar10-15k": ["flip", "crop", "color"]}
VIEWS = {"": None, "two flips": (same, flip), "ten crops": (TenCrop(),)}


class Residual(nn.Module):
    """Two convolutions beside the identity; the second starts at zero, so that no normalization is needed."""

    def __init__(self, width: int, normalization: bool) -> None:
        super().__init__()
        end = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(end.weight)
        self.branch = nn.Sequential(*convolution(width, width, normalization), nn.ReLU(), end)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same."""
        return torch.relu(x + self.branch(x))


def convolution(inputs: int, outputs: int, normalization: bool) -> list[nn.Module]:
    made = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return [made, nn.BatchNorm2d(outputs)] if normalization else [made]


def network(channels: int, *, normalization: bool = False, fractional: bool = False) -> nn.Sequential:
    """Three stages of convolution, halving and residual blocks; two linear layers."""
    layers: list[nn.Module] = []
    for stage, blocks in enumerate((0, 2, 2)):
        width = WIDTH * 2**stage
        halve = FractionalMaxPool(1.8) if fractional else nn.MaxPool2d(2)
        layers += [*convolution(channels, width, normalization), halve, nn.ReLU()]
        layers += [Residual(width, normalization) for _ in range(blocks)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


@dataclass(frozen=True)
class Way:
    """One thing changed: settings of the recipe, or of the network."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    network: dict[str, bool] = field(default_factory=dict)


def ways(data: str) -> list[Way]:
    augment = {"augment": AUGMENT[data]}
    return [
        Way("none"),
        Way("L2, λ = 5e-4", {"optimizer": {"weight_decay": 1e-3}}),
        Way("dropout 0.5", {"regularize": {"dropout": 0.5}}),
        Way("feature dropout 0.1", {"regularize": {"feature_dropout": 0.1}}),
        Way("DropConnect 0.5", {"regularize": {"drop_connect": 0.5}}),
        Way("fractional pooling 1.8", network={"fractional": True}),
        Way("stochastic depth 0.5", {"regularize": {"stochastic_depth": 0.5}}),
        Way("batch norm", network={"normalization": True}),
        Way("augmentation", augment),
    ]


class Score(NamedTuple):
    """Accuracies: of the images trained on, and of the test images."""

    train: float
    test: float


def prepared(name: str, place: Path) -> Path:
    """The data set as it is used here: a folder, or a file with fewer training images."""
    folder = data_folder(name)
    if name not in FEW:
        return folder
    path = place / f"{name}.npz"
    if not path.exists():
        dataset = open_data(folder)
        # The set is in random order, so its first images are a fair draw.
        parts = {"train": dataset.parts["train"][: FEW[name]], "test": dataset.parts["test"]}
        arrays = {f"x_{part}": dataset.fetch(items).byte().numpy() for part, items in parts.items()}
        answers = {f"y_{part}": dataset.targets[items].numpy() for part, items in parts.items()}
        place.mkdir(parents=True, exist_ok=True)
        numpy.savez(path, **arrays, **answers)
    return path


def scores(data: str, way: Way, seed: int, place: Path) -> Iterator[tuple[str, Score]]:
    """Train, or read what was trained, and judge; the augmented network with views too."""
    source = prepared(data, place)
    folder = place / data / f"{way.name}-{seed}".replace(" ", "_")
    channels = 1 if data == "fashion-mnist" else 3
    shape = (1, 28, 28) if channels == 1 else (3, 32, 32)
    torch.manual_seed(seed)
    model = network(channels, **way.network)
    model(torch.zeros(2, *shape))  # tells the lazy layer its size
    if (folder / "result.json").exists():
        model = ravine.load(folder, model)
    else:
        recipe = {
            "seed": seed,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "clip_norm": 1.0},
            "stop": {"epochs": EPOCHS[data]},
            "data": {"batch_size": 64},
        }
        recipe["optimizer"] |= way.settings.get("optimizer", {})
        settings = [{key: value for key, value in way.settings.items() if key != "optimizer"}]
        model = ravine.train(model, source, recipe, settings=settings, out=folder).model
    result = json.loads((folder / "result.json").read_text())
    yield way.name, Score(result["train"]["accuracy"], result["test"]["accuracy"])
    for name, views in VIEWS.items() if way.name == "augmentation" else ():
        if views is not None:
            test = viewed(model.eval(), source, folder, views)
            yield f"augmentation, {name}", Score(result["train"]["accuracy"], test)


@torch.inference_mode()
def viewed(model: nn.Module, source: Path, folder: Path, views: Any) -> float:
    """Test accuracy with the probabilities averaged over views."""
    dataset, preprocessing = open_data(source, DataOptions()), Preprocessing.load(folder)
    right = 0
    for items in dataset.parts["test"].split(500):
        images = preprocessing(dataset.fetch(items))
        mean = average_out(model, images, "views", views=views, over="probabilities").mean
        right += int((mean.argmax(1) == dataset.targets[items]).sum())
    return right / len(dataset.parts["test"])


class Mean(NamedTuple):
    """A mean and the half of its interval."""

    value: float
    half: float


def mean(values: Sequence[float]) -> Mean:
    count = len(values)
    if count < 2:
        return Mean(values[0], math.nan)
    reach = student.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return Mean(statistics.mean(values), float(reach))


class Row(NamedTuple):
    """A way's means, all in percent."""

    name: str
    train: Mean
    test: Mean
    gain: Mean


def measure(data: str, seeds: int, place: Path) -> list[Row]:
    found: dict[str, list[Score]] = {}
    for way in ways(data):
        for seed in range(seeds):
            for name, score in scores(data, way, seed, place):
                found.setdefault(name, []).append(score)
                print(f"{data}  {name:<26}seed {seed}  {score.train:.4f}  {score.test:.4f}", flush=True)
    plain = found["none"]
    return [
        Row(
            name,
            mean([100 * score.train for score in several]),
            mean([100 * score.test for score in several]),
            mean([100 * (score.test - base.test) for score, base in zip(several, plain, strict=True)]),
        )
        for name, several in found.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| | training | test | gain on none |", "| --- | --- | --- | --- |"]
    for name, train, test, gain in rows:
        told = "" if name == "none" else f"{gain.value:+.1f} ± {gain.half:.1f}"
        lines.append(f"| {name} | {train.value:.1f} % | {test.value:.1f} ± {test.half:.1f} % | {told} |")
    return "\n".join(lines)


def draw(path: Path, measured: dict[str, list[Row]]) -> None:
    """Gains as dots with their intervals, a color for each data set."""
    from ravine.show.figures.theme import HUES, blank
    from ravine.show.page import write_figure

    names = [row.name for row in next(iter(measured.values())) if row.name != "none"]
    figure = blank("Gain", "gain in test accuracy, percentage points", "", height=520)
    for offset, (data, rows) in enumerate(measured.items()):
        gains = {row.name: row.gain for row in rows}
        figure.add_scatter(
            x=[gains[name].value for name in names],
            y=[place + 0.12 - 0.24 * offset for place in range(len(names))],
            error_x={"array": [gains[name].half for name in names], "thickness": 1.5, "width": 4},
            mode="markers",
            marker={"color": HUES[offset], "size": 9},
            name=TITLES[data],
        )
    figure.add_vline(x=0, line={"width": 1})
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    figure.update_layout(showlegend=True)
    write_figure(path, figure, "What each regularizer is worth", "Means of 5 seeds; 95 % intervals.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/regularizers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", type=Path, metavar="HTML")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = {data: measure(data, options.seeds, options.runs) for data in options.data}
    for data, rows in measured.items():
        print(f"\n{TITLES[data]}\n\n{table(rows)}")
    if options.draw:
        draw(options.draw, measured)


if __name__ == "__main__":
    main()
