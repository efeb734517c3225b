"""Transfer against training from scratch (C39), the table of advice (C40), a lower rate below the head (C41).

Three pairs: the ImageNet MobileNet on sign digits, Ravine's CIFAR-10 network on Fashion-MNIST, and its
Fashion-MNIST network on CIFAR-10. For each, and for several numbers of training images a class, the same
network is trained from scratch and transferred, the three seeds as one fleet: a new head alone, on the last
features and on those of the depth below that a probe finds best; the layers above that depth; all at 0.3 of
the head's rate; and all at the head's rate. Test accuracy, the mean of the seeds and their range.

    python benchmarks/transfer.py [--pairs signs fashion cifar] [--seeds 3] [--draw transfer.html]

It takes hours: with --keep FILE a run that was stopped goes on where it was.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ravine.lab import Fleet
from ravine.lab.transfer.advice import settings_of
from ravine.lab.transfer.probes import probe
from ravine.training.evaluate import outputs_over
from ravine.training.run import make_setup
from subsets import arrays, mobilenet, signs

COUNTS = (10, 30, 100, 300, 1000)
WAYS = ("scratch", "head", "lower", "top", "all", "one rate")


class Pair(NamedTuple):
    """A network to start from, data, and how many images a class there may be."""

    told: str
    source: Callable[[], str]
    data: Callable[[Path, int], Path]
    counts: tuple[int, ...]


PAIRS = {
    "signs": Pair("ImageNet to sign digits", mobilenet, signs, COUNTS[:3]),
    "fashion": Pair(
        "CIFAR-10 to Fashion-MNIST",
        lambda: "ravine-cifar10",
        lambda place, count: arrays("fashion-mnist", place, count),
        COUNTS,
    ),
    "cifar": Pair(
        "Fashion-MNIST to CIFAR-10",
        lambda: "ravine-fashion",
        lambda place, count: arrays("cifar10-15k", place, count),
        COUNTS,
    ),
}


def settings_by_way(pair: Pair, data: Path) -> dict[str, dict[str, Any]]:
    """What sets each way apart."""
    start = {"transfer": {"source": pair.source()}}
    setup = make_setup(None, data, "finetune", settings=[start])
    found = probe(setup)
    model = {"name": setup.recipe.model.name, **setup.recipe.model.settings}
    size = {"data": {"image_size": setup.recipe.data.image_size}}
    ways: dict[str, dict[str, Any]] = {"scratch": {"model": model, **size}}
    for how in ("head", "lower", "top", "all", "one rate"):
        way = settings_of(how, setup, found)  # type: ignore[arg-type]
        ways[how] = {**way, "transfer": {**start["transfer"], **way["transfer"]}}
    return ways


def accuracies(data: Path, settings: Mapping[str, Any], seeds: int) -> list[float]:
    """Test accuracy of each seed, trained with `settings`."""
    members = [{**settings, "seed": seed} for seed in range(seeds)]
    fleet = Fleet(None, data, members, "finetune", settings=[{"data": {"split": 0}}])
    fleet.run()
    found = []
    for member in fleet.members:
        setup = member.setup
        setup.model.load_state_dict(member.best)
        setup.model.eval()
        told = outputs_over(setup.model, setup.feeds["test"], setup.task, lambda: None)
        right = (told.outputs.argmax(1) == told.targets).float().mean()
        found.append(float(right))
    return found


def draw(path: Path, found: Mapping[str, Mapping[int, Mapping[str, list[float]]]]) -> None:
    """Accuracy over the number of images, for each pair: from scratch and transferred."""
    from plotly.subplots import make_subplots

    from ravine.show.figures.theme import AMBER, BLUE, GREEN, GREY
    from ravine.show.page import write_figure

    figure = make_subplots(1, len(found), subplot_titles=[PAIRS[name].told for name in found])
    styles = {
        "scratch": ("from scratch", GREY),
        "head": ("the head alone", AMBER),
        "all": ("all layers, 0.3 of the rate below the head", BLUE),
        "one rate": ("all layers, one rate", GREEN),
    }
    for column, counts in enumerate(found.values(), 1):
        for way, (told, color) in styles.items():
            values = [counts[count][way] for count in counts]
            means = [sum(own) / len(own) for own in values]
            figure.add_scatter(
                x=list(counts),
                y=means,
                name=told,
                legendgroup=told,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": color},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [max(own) - mean for own, mean in zip(values, means, strict=True)],
                    "arrayminus": [mean - min(own) for own, mean in zip(values, means, strict=True)],
                },
                row=1,
                col=column,
            )
        figure.update_xaxes(type="log", title="training images a class", tickvals=list(counts), col=column)
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(title="test accuracy", col=1)
    figure.update_layout(height=440, template="plotly_white", legend={"orientation": "h", "y": -0.25})
    write_figure(
        path, figure, "Transfer", "Test accuracy by the number of training images; 3 seeds, their range."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="images a class")
    parser.add_argument("--keep", type=Path, metavar="JSON", help="what was found, and is not measured again")
    parser.add_argument("--draw", type=Path, metavar="HTML")
    options = parser.parse_args()
    torch.set_num_threads(2)
    kept = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    found: dict[str, dict[int, Mapping[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in options.pairs:
            pair = PAIRS[name]
            print(f"\n{pair.told}\n| images a class | {' | '.join(WAYS)} |\n|{' --- |' * (len(WAYS) + 1)}")
            for count in sorted(set(pair.counts) & set(options.counts)):
                own = kept.setdefault(f"{name} {count}", {})
                if set(WAYS) - set(own):
                    data = pair.data(Path(place), count)
                    ways = settings_by_way(pair, data)
                    for way in (way for way in WAYS if way not in own):
                        own[way] = accuracies(data, ways[way], options.seeds)
                        if options.keep:
                            options.keep.write_text(json.dumps(kept, indent=1))
                found.setdefault(name, {})[count] = own
                cells = [
                    f"{sum(own[way]) / len(own[way]):.1%} ({min(own[way]):.1%} to {max(own[way]):.1%})"
                    for way in WAYS
                ]
                print(f"| {count} | {' | '.join(cells)} |", flush=True)
    if options.draw:
        draw(options.draw, found)


if __name__ == "__main__":
    main()
