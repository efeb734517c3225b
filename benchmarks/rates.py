"""Sixteen learning rates times five seeds of the digits MLP: 80 models as one fleet, against the loop.

Both train an MLP of 64-64-64-10 with Adam for 30 epochs in batches of 64 on the same items. The loop is
torch's fused Adam on whole tensors, one model after the other, on one thread and on two: the quicker counts.
The fleet evaluates and records every epoch as well; its construction, which opens the data, is in its time.
Both are tried once before, on a model and an epoch, so that what they load counts for neither.

    python benchmarks/rates.py [--draw rates.html]
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import loop_over_models
from loop_over_models import perceptron
from ravine.lab import Fleet
from running import verdict

RATES = [10 ** (-4 + 4 * step / 15) for step in range(16)]
SEEDS, EPOCHS, BATCH, RATIO = 5, 30, 64, 5.0
SETTINGS = {
    "precision": "fp32",
    "augment": [],
    "data": {"batch_size": BATCH},
    "model": {"width": 64, "depth": 2, "normalization": "none", "initialization": "he"},
    "optimizer": {"name": "adam", "average": 0.0, "weight_decay": 0.0},
    "schedule": {"name": "none"},
    "loss": {"label_smoothing": 0.0},
}


def fleet(rates: Sequence[float], epochs: int) -> tuple[float, Fleet]:
    members = [{"seed": seed, "optimizer": {"lr": rate}} for rate in rates for seed in range(SEEDS)]
    started = time.perf_counter()
    made = Fleet("mlp", "digits", members, settings=[SETTINGS, {"stop": {"epochs": epochs}}])
    made.run()
    return time.perf_counter() - started, made


def accuracies(made: Fleet) -> list[list[float]]:
    """By rate: the last validation accuracy of each seed; 0 of what went bad."""
    last = [member.rows[-1]["validation.accuracy"] if member.rows else 0.0 for member in made.members]
    return [last[at : at + SEEDS] for at in range(0, len(last), SEEDS)]


def draw(path: Path, found: Sequence[Sequence[float]]) -> None:
    """Accuracy over the rate: the mean of the seeds, and from the worst to the best of them."""
    from ravine.show.figures.theme import BLUE, blank, line, log_axis, tint
    from ravine.show.page import write_figure

    figure = blank("Accuracy", "learning rate (logarithmic)", "validation accuracy", height=460)
    low, high = [min(own) for own in found], [max(own) for own in found]
    figure.add_scatter(
        x=[*RATES, *reversed(RATES)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=tint(BLUE, 0.18),
        line={"width": 0},
        name="worst to best of 5 seeds",
        hoverinfo="skip",
    )
    figure.add_trace(line(RATES, [sum(own) / len(own) for own in found], "mean", BLUE, mode="lines+markers"))
    log_axis(figure, RATES, "x")
    figure.update_yaxes(tickformat=".0%")
    figure.update_layout(showlegend=True)
    write_figure(path, figure, "Learning rates", "80 digits MLPs, Adam, 30 epochs, trained as one fleet.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draw", type=Path, metavar="HTML")
    options = parser.parse_args()
    fleet(RATES[:1], 1)
    seconds, made = fleet(RATES, EPOCHS)
    feed = made.members[0].setup.feeds["train"].batches
    network, rates = partial(perceptron, 64, 64, 64, 10), [rate for rate in RATES for _ in range(SEEDS)]
    inputs, targets = feed.inputs.flatten(1), feed.targets
    loop_over_models.seconds(network, rates[:1], inputs, targets, 1, BATCH, 1)
    alone = min(
        loop_over_models.seconds(network, rates, inputs, targets, EPOCHS, BATCH, threads)
        for threads in (1, 2)
    )
    for rate, own in zip(RATES, accuracies(made), strict=True):
        print(f"{rate:9.2e}   {sum(own) / SEEDS:6.1%}   {min(own):6.1%} to {max(own):6.1%}")
    print("; ".join(choice.why for choice in made.choices.values()))
    print(f"{len(made.members)} models: loop {alone:.1f} s, fleet {seconds:.1f} s")
    print(f"ratio {alone / seconds:.1f}   at least {RATIO:g}   {verdict(alone >= RATIO * seconds)}")
    if options.draw:
        draw(options.draw, accuracies(made))


if __name__ == "__main__":
    main()
