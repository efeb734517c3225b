"""What members give together, as a section of the report and as lines for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import figures
from .metric import count, duration, gain_text, interval_of, interval_text, metric_named, significant
from .page import caption_block, escape, figure_block
from .run import NothingToDrawError, Run

_TOGETHER = {
    "selected": "The ensemble of those with a weight is the weighted mean of their predictions.",
    "soup": "The soup is one network with the mean of the weights of those that are in it.",
    "average": "The average is one network with the mean of the weights that one run had after these epochs.",
}
_MEAN = "The ensemble is the mean of its members' predictions."
_GAINED = (
    "Intervals of 95% over the items, the same ones for all. They do not tell of other trainings: those of "
    "other seeds may gain more or less."
)
_BELIEVED = (
    "A temperature divides the logarithms of the probabilities: it was fitted on the validation part and "
    "changes no first guess. Predictions are without it."
)
_FIGURES = (
    (
        figures.score_by_number,
        "Its mean over the orders in which members may come; shaded: one standard deviation.",
    ),
    (figures.disagreement, "Members that err alike gain nothing together; those that differ do."),
    (
        figures.scaled_calibration,
        "On the dashed line, answers given with 80% confidence are right 80% of the time. Larger dots stand "
        "for more items.",
    ),
)


def ensemble(run: Run) -> str:
    """The section of an ensemble; nothing for a single run."""
    told = run.result.get("ensemble")
    if not told:
        return ""
    gained = [[over, gain] for over, _, gain in _gains(run, told)]
    blocks = [
        _table("Members", f"{_TOGETHER.get(told['how'], _MEAN)} {_cost(told)}", *_members(run, told)),
        _table("What it gains", _GAINED, ["", "gained"], gained, wide="calibration" not in told),
    ]
    if "calibration" in told:
        believed = list(_calibration(told["calibration"]))
        heads = ["", "as it is", *(["with temperature"] if len(believed[0]) > 2 else [])]
        blocks.append(_table("Calibration", _BELIEVED, heads, believed, wide=False))
    for draw, caption in _FIGURES:
        try:
            blocks.append(figure_block(draw(run), caption))
        except NothingToDrawError:
            continue
    return f"<section><h2>The ensemble</h2><div class='grid'>{''.join(blocks)}</div></section>"


def how_made(run: Run) -> str:
    """How an ensemble came to be, in a sentence."""
    told = run.result["ensemble"]
    taken, looked_at = sum(member["weight"] > 0 for member in told["members"]), len(told["members"])
    number = str(taken) if taken == looked_at else f"{taken} of {looked_at}"
    members = _OF_ONE_RUN.get(told["how"], "{} runs").format(number)
    return f"{_kind(told)} of {members}, trained in {duration(told['seconds']['all'])} in all."


def lines(run: Run) -> list[str]:
    """Each member's score, the ensemble's, what it gains, and how far it may be believed."""
    told, metric = run.result["ensemble"], run.headline
    names = [*(_name(member) for member in told["members"]), _kind(told).lower()]
    width = max(map(len, names))
    scores = [metric.text(member["scores"][metric.name]) for member in told["members"]]
    own = run.result[told["part"]]
    ends = interval_of(own, metric.name)
    interval = f"  (95% interval {interval_text(metric, ends)})" if ends else ""
    scores.append(f"{metric.text(own[metric.name])}{interval}")
    lines = [f"{metric.title} on the {told['part']} part"]
    lines += [f"  {name:<{width}}  {score}" for name, score in zip(names, scores, strict=True)]
    lines += [f"gained on {over}{name}: {gain}" for over, name, gain in _gains(run, told)]
    believed = told.get("calibration")
    if believed:
        error = f"expected calibration error {believed['before']['calibration_error']:.1%}"
        if "after" in believed:
            after = believed["after"]["calibration_error"]
            error += f", {after:.1%} at temperature {believed['temperature']:.3g}"
        lines.append(error)
    return lines


# An average and a soup are one network, made of the members' weights.
ONE_NETWORK = ("soup", "average")
_OF_ONE_RUN = {
    "snapshot": "{} snapshots of one run",
    "geometric": "{} snapshots of one run in fast geometric cycles",
    "average": "one run's weights after {} epochs",
}


def _kind(told: Mapping[str, Any]) -> str:
    return {"soup": "Soup", "average": "Average"}.get(told["how"], "Ensemble")


def _name(member: Mapping[str, Any]) -> str:
    return str(member["name"]) + ("" if member["weight"] else " (left out)")


def _cost(told: Mapping[str, Any]) -> str:
    seconds = told["seconds"]
    spent = f"All training took {duration(seconds['all'])}"
    if told["how"] in _OF_ONE_RUN:
        spent += ", that of one run alone"
    else:
        times = seconds["all"] / seconds["one"] if seconds["one"] else float("nan")
        spent += f", {times:.3g} times that of one member"
    at_test = sum(member["weight"] > 0 for member in told["members"]) if told["how"] not in ONE_NETWORK else 1
    return f"{spent}; a prediction costs {at_test} network{'' if at_test == 1 else 's'}."


def _members(run: Run, told: Mapping[str, Any]) -> tuple[list[str], Iterator[list[str]]]:
    """The heads and the rows of the table: a row a member, the last of all together."""
    shown = ["loss", *([] if run.headline.name == "loss" else [run.headline.name])]
    weighed = len({member["weight"] for member in told["members"]}) > 1
    heads = ["", "network", *(["weight"] if weighed else []), "trained in"]
    heads += [f"{told['part']} {metric_named(name).title}" for name in shown]

    def rows() -> Iterator[list[str]]:
        for number, member in enumerate(told["members"]):
            best = " · best on validation" if number == told["best"] else ""
            network = f"{member['model']}, {count(member['parameters'])} parameters"
            weight = [f"{member['weight']:.2f}" if member["weight"] else "left out"] if weighed else []
            scores = [_score(member["scores"], name) for name in shown]
            yield [member["name"] + best, network, *weight, duration(member["seconds"]), *scores]
        own = run.result[told["part"]]
        total = f"{count(run.result['parameters'])} parameters"
        scores = [_score(own, name, with_interval=True) for name in shown]
        yield [
            _kind(told).lower(),
            total,
            *([""] if weighed else []),
            duration(told["seconds"]["all"]),
            *scores,
        ]

    return heads, rows()


def _score(scores: Mapping[str, Any], name: str, *, with_interval: bool = False) -> str:
    metric, ends = metric_named(name), interval_of(scores, name)
    text = metric.text(scores[name])
    return f"{text} ({interval_text(metric, ends)})" if with_interval and ends else text


def _gains(run: Run, told: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """On whom, the name of that one member, and what."""
    yield "the mean member", "", gain_text(run.headline, told["gained"]["mean"])
    if "best" in told["gained"]:
        name = told["members"][told["best"]]["name"]
        yield "the best on validation", f" ({name})", gain_text(run.headline, told["gained"]["best"])


def _calibration(believed: Mapping[str, Any]) -> Iterator[list[str]]:
    sides = [believed[side] for side in ("before", "after") if side in believed]
    yield ["negative log-likelihood (nats)", *(significant(side["loss"]) for side in sides)]
    yield ["Brier score (0 to 2)", *(significant(side["brier"]) for side in sides)]
    yield ["expected calibration error (15 bins)", *(f"{side['calibration_error']:.1%}" for side in sides)]
    if believed["temperature"] is not None:
        yield ["temperature", "1", significant(believed["temperature"])]


def _table(
    title: str,
    caption: str,
    heads: list[str],
    rows: "Iterator[list[str]] | list[list[str]]",
    wide: bool = True,
) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    return (
        f"<figure class='card text{' wide' if wide else ''}'>{caption_block(escape(title), escape(caption))}"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        "</figure>"
    )
