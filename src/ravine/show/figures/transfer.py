"""What each depth of a pretrained network knows of the data."""

from typing import TYPE_CHECKING

from ..run import NothingToDrawError, Run
from .theme import AMBER, BLUE, GREY, blank, label, line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def probes(run: Run) -> "Figure":
    """Accuracy of a linear probe, and similarity with the classes, from the input to the head.

    Beside it what a network trained from scratch reached.

    Raises:
        NothingToDrawError: no depth was probed.
    """
    depths = run.transfer.get("depths") or []
    if not depths:
        raise NothingToDrawError(f"{run.folder} was not probed")
    names = [label(str(depth["name"]), 28) for depth in depths]
    axes = "depth, from the input to the head", "accuracy, similarity"
    figure = blank("What each depth knows", *axes, wide=True, height=420)
    accuracy = [depth["accuracy"] for depth in depths]
    figure.add_trace(line(names, accuracy, "accuracy of a linear classifier", BLUE, mode="lines+markers"))
    alike = [depth["similarity"] for depth in depths]
    figure.add_trace(line(names, alike, "similarity with the classes", GREY, mode="lines+markers"))
    scratch = (run.transfer.get("scratch") or {}).get("accuracy")
    if scratch is not None:
        figure.add_hline(
            y=scratch, line={"color": AMBER, "dash": "dash"}, annotation={"text": "trained from scratch"}
        )
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_layout(showlegend=True)
    return figure
