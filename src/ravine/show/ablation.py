"""What each regularizer of a run is worth, as a section of the report and as lines for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from . import figures
from .metric import gain_text, significant
from .page import caption_block, escape, figure_block
from .run import NothingToDrawError, Run

_HOW = (
    "The same training, seed and all, once more without each. The interval of a gain is that of the items it "
    "was measured on; another seed may say otherwise where it is near zero."
)


def ablation(run: Run) -> str:
    """The section of a run that was ablated; nothing for others."""
    if not run.ablation:
        return ""
    try:
        drawn = figure_block(
            figures.gaps(run), "The longer the line, the larger the gap. Less gap alone is no gain."
        )
    except NothingToDrawError:  # there is no validation part
        drawn = ""
    heads = "".join(f"<th>{escape(head)}</th>" for head in _heads(run))
    rows = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in _rows(run)
    )
    return (
        "<section><h2>What each regularizer is worth</h2><div class='grid'>"
        f"<figure class='card text wide'>{caption_block('Without each', _HOW)}<div class='scroll'><table>"
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></figure>{drawn}"
        "</div></section>"
    )


def lines(run: Run) -> list[str]:
    """A line for each regularizer: what it gained, and the gap with and without it."""
    gap = _gap(run.ablation["run"])
    told = []
    for row in run.ablation["without"]:
        if "failed" in row:
            told.append(f"{row['name']}: without it {row['failed']}")
            continue
        other = _gap(row)
        gaps = "" if gap is None or other is None else f"; gap {gap:.3f}, without {other:.3f}"
        told.append(
            f"{row['name']}: {gain_text(run.headline, row['gained'])} on the {row['part']} part{gaps}"
        )
    return told


def _heads(run: Run) -> list[str]:
    return [
        "training loss",
        "validation loss",
        "gap",
        f"{_part(run)} {run.headline.title}",
        "gained by having it",
    ]


def _part(run: Run) -> str:
    return str(run.ablation["without"][0]["part"])


def _rows(run: Run) -> Iterator[list[str]]:
    yield ["as trained", *_losses(run, run.ablation["run"]), ""]
    for row in run.ablation["without"]:
        gained = f"without it {row['failed']}" if "failed" in row else gain_text(run.headline, row["gained"])
        yield [f"without {row['name']}", *_losses(run, row), gained]


def _losses(run: Run, scores: Mapping[str, Any]) -> list[str]:
    losses = [_number(scores.get(part), "loss") for part in ("train", "validation")]
    told = ["–" if loss is None else significant(loss) for loss in losses]
    gap, value = _gap(scores), _number(scores.get(_part(run)), run.headline.name)
    return [*told, "–" if gap is None else f"{gap:.3f}", run.headline.text(value)]


def _gap(scores: Mapping[str, Any]) -> float | None:
    train, validation = (_number(scores.get(part), "loss") for part in ("train", "validation"))
    return None if train is None or validation is None else validation - train


def _number(scores: Mapping[str, Any] | None, name: str) -> float | None:
    value = (scores or {}).get(name)
    return float(value) if isinstance(value, int | float) else None
