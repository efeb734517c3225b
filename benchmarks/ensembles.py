"""What ensembles gain and cost (C26 to C28): Ravine's five ways, TorchEnsemble, and a plain joblib loop.

One small CNN on 10,000 images of Fashion-MNIST and on the 15,000 of CIFAR-10. Every way trains networks of
this kind with Adam and a cosine schedule, on all images and with the same epochs a run; snapshots and
averages are of one such run. The gain is on one run, Ravine's first independent member, paired over the test
items, with a bootstrap interval. Seconds are wall time on `--threads` threads or processes: of the peers, of
training alone; of Ravine's ways, of everything from the file to the finished ensemble's folder.

    pip install -c constraints.txt --no-deps torchensemble==0.2.0
    python benchmarks/ensembles.py [--data fashion-mnist cifar10-15k] [--members 8] [--epochs 16]
        [--ways snapshot average]
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from places import data_folder
from ravine.lab.ensemble import train_ensemble
from ravine.lab.ensemble.plan import OF_ONE_RUN
from ravine.models import make
from ravine.training import metrics
from ravine.training.data import open_data

OWN = ("independent", "bagging", "snapshot", "geometric", "average")
PEERS = ("voting", "snapshots", "joblib")
FEW = {"fashion-mnist": 10_000, "cifar10-15k": 15_000}
BATCH, RATE, WIDTH = 64, 2e-3, 16


class Part(NamedTuple):
    """Images in [-1, 1] and their classes."""

    images: Tensor
    targets: Tensor


class Told(NamedTuple):
    """A way's logits on the test part, and the seconds of its training."""

    name: str
    outputs: Tensor
    seconds: float


class Network(nn.Module):
    """The network of all ways, as a class: TorchEnsemble asks for one."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.layers = make("cnn", (channels, side, side), 10, {"width": WIDTH})

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, 10)."""
        out: Tensor = self.layers(x)
        return out


def parts_of(name: str, place: Path) -> tuple[Path, Part, Part]:
    """The data as a file for Ravine, and as tensors for the others."""
    dataset = open_data(data_folder(name))
    parts = {"train": dataset.parts["train"][: FEW[name]], "test": dataset.parts["test"]}
    images = {part: dataset.fetch(items) for part, items in parts.items()}
    path = place / f"{name}.npz"
    arrays = {f"x_{part}": given.numpy() for part, given in images.items()}
    answers = {f"y_{part}": dataset.targets[items].numpy() for part, items in parts.items()}
    numpy.savez(path, **arrays, **answers)
    made = [Part(images[part].float() / 127.5 - 1, dataset.targets[parts[part]]) for part in parts]
    return path, made[0], made[1]


def ravine(how: Any, path: Path, place: Path, members: int, epochs: int) -> tuple[Told, Told]:
    """The ensemble, and its first member as a run of its own."""
    settings = {
        "precision": "fp32",
        "augment": [],
        "data": {"batch_size": BATCH, "validation": 0.0},
        "model": {"width": WIDTH},
        "optimizer": {"name": "adam", "lr": RATE, "weight_decay": 0.0, "average": 0.0},
        "loss": {"label_smoothing": 0.0},
        "stop": {"epochs": epochs, "monitor": "train.loss"},
    }
    if how not in OF_ONE_RUN:  # which have schedules of their own
        settings["schedule"] = {"name": "cosine"}
    started = time.perf_counter()
    folder = train_ensemble(path, members, how, model="cnn", settings=[settings], out=place / how)
    taken = time.perf_counter() - started
    told = json.loads((folder / "result.json").read_text())["ensemble"]["seconds"]
    first = load_file(folder / "members" / "00" / "predictions.safetensors")["test.outputs"]
    outputs = load_file(folder / "predictions.safetensors")["test.outputs"]
    return Told(f"Ravine, {how}", outputs, taken), Told("one run", first, told["one"])


def usual(train: Part, epochs: int, seed: int, threads: int) -> nn.Module:
    """The loop that everyone writes, for one network."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    channels, side = train.images.shape[1:3]
    model = Network(channels, side).to(memory_format=torch.channels_last)
    images = train.images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(BATCH):
            loss = functional.cross_entropy(model(images[chosen]), train.targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def loop(train: Part, test: Part, members: int, epochs: int, threads: int) -> Told:
    """`usual` for every member, in as many processes as there are threads."""
    started = time.perf_counter()
    models = joblib.Parallel(n_jobs=threads)(
        joblib.delayed(usual)(train, epochs, seed, 1) for seed in range(members)
    )
    taken = time.perf_counter() - started
    return Told("joblib, independent", mean_of(models, test.images), taken)


@torch.inference_mode()
def mean_of(models: list[nn.Module], images: Tensor) -> Tensor:
    """The logarithm of the mean probability."""
    shares = [torch.cat([model(piece).softmax(1) for piece in images.split(500)]) for model in models]
    return torch.stack(shares).mean(0).log()


def torch_ensemble(kind: str, train: Part, test: Part, members: int, epochs: int, threads: int) -> Told:
    """TorchEnsemble's voting, or its snapshots of one run."""
    from torchensemble import SnapshotEnsembleClassifier, VotingClassifier

    logging.disable(logging.INFO)
    torch.set_num_threads(threads)
    channels, side = train.images.shape[1:3]
    chosen = {"voting": VotingClassifier, "snapshot": SnapshotEnsembleClassifier}[kind]
    arguments = {"channels": channels, "side": side}
    more = {"n_jobs": threads} if kind == "voting" else {}
    model = chosen(estimator=Network, n_estimators=members, estimator_args=arguments, cuda=False, **more)
    model.set_criterion(nn.CrossEntropyLoss())
    model.set_optimizer("Adam", lr=RATE)
    if kind == "voting":
        model.set_scheduler("CosineAnnealingLR", T_max=epochs)
    else:  # its cycles must divide the epochs
        epochs = members * max(1, round(epochs / members))
    loader = DataLoader(TensorDataset(*train), batch_size=BATCH, shuffle=True)
    started = time.perf_counter()
    model.fit(loader, epochs=epochs, log_interval=10**9, save_model=False)
    taken = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        shares = torch.cat([model(piece) for piece in test.images.split(500)])
    return Told(f"TorchEnsemble, {kind}", shares.clamp_min(1e-12).log(), taken)


def row(told: Told, base: Told, targets: Tensor) -> str:
    scores = metrics.evaluate_outputs("classification", told.outputs, targets)
    start = f"| {told.name} | {scores['accuracy']:.1%} |"
    if told is base:
        return f"{start} | {scores['loss']:.3f} | {told.seconds:.0f} s |"
    found = metrics.differences("classification", told.outputs, base.outputs, targets, seed=0)
    low, high = found["accuracy_interval"]  # type: ignore[misc]
    gain = f"{100 * found['accuracy']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"  # type: ignore[operator]
    return f"{start} {gain} | {scores['loss']:.3f} | {told.seconds:.0f} s |"


def measure(name: str, ways: Collection[str], members: int, epochs: int, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path, train, test = parts_of(name, place)
        print(f"\n{name}, {len(train.images):,} images, {members} members, {epochs} epochs a run\n")
        print("| | test accuracy | gain in points | loss | training |\n| --- | --- | --- | --- | --- |")
        base = None
        for how in OWN:
            if how not in ways and how != "independent":
                continue
            torch.set_num_threads(threads)
            told, one = ravine(how, path, place, members if how in ways else 2, epochs)
            if base is None:
                base = one
                print(row(base, base, test.targets), flush=True)
            if how in ways:
                print(row(told, base, test.targets), flush=True)
        assert base is not None
        others: dict[str, Callable[[], Told]] = {
            "voting": lambda: torch_ensemble("voting", train, test, members, epochs, threads),
            "snapshots": lambda: torch_ensemble("snapshot", train, test, members, epochs, threads),
            "joblib": lambda: loop(train, test, members, epochs, threads),
        }
        for peer in (peer for peer in PEERS if peer in ways):
            print(row(others[peer](), base, test.targets), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(FEW), default=list(FEW))
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=(*OWN, *PEERS), default=(*OWN, *PEERS))
    options = parser.parse_args()
    for name in options.data:
        measure(name, options.ways, options.members, options.epochs, options.threads)


if __name__ == "__main__":
    main()
