"""What a pretrained network was worth, as a section of the report and as lines for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import figures
from .page import caption_block, escape, figure_block
from .run import NothingToDrawError, Run

_DEPTHS = (
    "A linear classifier on the features of each depth, on training items it was not fitted to; and how "
    "alike features and classes are (linear CKA). Where the last depth is not the best, the network was "
    "trained for something else."
)
_TRIED = (
    "Each way was trained for a while, and judged on held-out items: 30 % of the training part, or the "
    "validation part where the data have one. "
    "The table of advice: little data and alike, the head; little and different, a head on a lower depth; "
    "more data, more of the layers, and the less alike, the nearer their rates."
)
_TOLD = ("training items", "trained", "rate of the pretrained layers", "from scratch")
WAYS = {
    "head": "the new head alone",
    "lower": "a head on the best lower depth",
    "top": "the layers above the best depth",
    "all": "all layers",
    "one rate": "all layers, at one rate",
}


def transfer(run: Run) -> str:
    """The section of a run that started from a pretrained network and was measured; nothing for others."""
    if not run.transfer:
        return ""
    try:
        drawn = figure_block(figures.probes(run), _DEPTHS)
    except NothingToDrawError:
        drawn = ""
    explained = _TRIED if run.transfer["tried"] else ""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(told)}</td></tr>" for name, told in _rows(run))
    return (
        "<section><h2>What it started from</h2><div class='grid'>"
        f"<figure class='card text wide'>{caption_block('The decision', explained)}"
        f"<table class='environment'><tbody>{rows}</tbody></table></figure>{drawn}</div></section>"
    )


def lines(run: Run) -> list[str]:
    """How much data there were, what was decided, and what the network gained by what it knew before."""
    return [f"{name}: {told}" for name, told in _rows(run) if name in _TOLD]


def _rows(run: Run) -> Iterator[tuple[str, str]]:
    told = run.transfer
    card = told.get("card") or {}
    yield "pretrained network", _described(card)
    if licence := card.get("licence"):
        yield "its licence", str(licence)
    classes = told["classes"] if run.result.get("task") == "classification" else 0
    each = f", {told['items'] / classes:.0f} a class" if classes else ""
    yield "training items", f"{told['items']:,}{each}"
    for way in told["tried"]:
        where = f", {way['depth']}" if way.get("depth") else ""
        yield f"tried: {WAYS[way['how']]}{where}", f"{way['accuracy']:.1%} of the held-out items"
    asked = ", as measured" if told["tried"] else ""
    yield "trained", f"{_ways(told)}{asked}"
    if told["train"] != "head":
        yield (
            "rate of the pretrained layers",
            "the head's" if told["body"] == 1 else f"{told['body']:g} of the head's",
        )
    scratch = told.get("scratch") or {}
    if "epochs" in scratch:  # older runs may have none to tell of
        by = f"; by the recipe {scratch['by']}, as the run's own cannot" if "by" in scratch else ""
        yield "from scratch", f"{_against(run, scratch)}{by}"


def _described(card: Mapping[str, Any]) -> str:
    known = [str(card.get(key)) for key in ("data", "score") if card.get(key)]
    return f"{card.get('name', '')} ({', '.join([str(card.get('architecture', '')), *known])})"


def _ways(told: Mapping[str, Any]) -> str:
    train, depth = str(told["train"]), told.get("depth")
    way = WAYS.get(train, f"{train} and what follows it")
    return f"{way}, without the layers above {depth}" if depth else way


def _against(run: Run, scratch: Mapping[str, Any]) -> str:
    part = "test" if "test" in run.result else "validation"
    name = run.headline.name
    after = f"{scratch['epochs']} epoch{'s' * (scratch['epochs'] > 1)} in {scratch['seconds']:.1f} s"
    own, other = run.result.get(part, {}).get(name), scratch.get(name)
    if own is None or other is None:
        return f"{scratch['model']}, {after}"
    metric, timing = run.headline, run.result["timing"]
    return (
        f"{metric.title} {metric.text(other)} on the {part} part after {after}; from the pretrained network "
        f"{metric.text(own)} in {timing['training'] + timing.get('features', 0.0):.1f} s"
    )
