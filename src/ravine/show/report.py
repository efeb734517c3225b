"""report.html: everything a person wants to see of one run, on one page that works offline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import figures
from .ablation import ablation
from .augmented import augmented
from .ensemble import ensemble
from .figures.pictures import mistakes
from .overfitting_text import overfitting
from .page import caption_block, escape, figure_block, write_page
from .report_text import environment, header, noticed, recipe, sample, scores
from .run import NothingToDrawError, Run, read_run
from .transfer import transfer

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def write_report(run_folder: Path) -> Path:
    """Draw the report of a run, finished or interrupted, into its folder.

    Returns:
        The path of `report.html`.

    Raises:
        RunError: the folder is no run, one of its files is damaged, or the report cannot be written.
    """
    run = read_run(run_folder)
    body = "\n".join(
        part
        for part in (
            header(run),
            noticed(run),
            ensemble(run),
            transfer(run),
            _section("How it learned", _LEARNING, run),
            ablation(run),
            augmented(run),
            _section("How it stepped", _STEPPING, run),
            _section("How well it predicts", _PREDICTING, run, before=scores(run)),
            _mistakes(run),
            sample(run),
            recipe(run),
            environment(run),
        )
        if part
    )
    return write_page(run.folder / "report.html", f"{run.name} · Ravine", body)


@dataclass(frozen=True)
class _Drawing:
    """A figure of the report, what this run shows in it, and how to read it."""

    draw: Callable[[Run], "Figure"]
    caption: str
    finding: Callable[[Run], str] | None = None

    def told(self, run: Run) -> str:
        """The finding and the caption, as HTML."""
        found = self.finding(run) if self.finding else ""
        return f"<span class='finding'>{escape(found)}</span> {self.caption}" if found else self.caption


_LEARNING = (
    _Drawing(
        figures.loss_curves,
        "Both should fall. Where validation turns up while training still falls, the run overfits.",
        overfitting,
    ),
    _Drawing(figures.metric_curves, "The score after each evaluation, on both parts."),
    _Drawing(
        figures.gap,
        "Validation loss minus training loss. Near zero there is room for a larger model; "
        "where it grows, for regularization or more data. What each regularizer does to it: "
        "<code>ravine ablate</code>.",
    ),
)
_STEPPING = (
    _Drawing(figures.schedule, "As it was at each evaluation."),
    _Drawing(
        figures.update_ratios,
        "How far one step moves each weight tensor, relative to its size. "
        "Shaded: the usual range around 0.001. Thin: single tensors, first layers lightest.",
    ),
    _Drawing(figures.gradient_norm, "A sudden rise tells of a learning rate that is too high."),
    _Drawing(figures.timing, "Wall time of the whole run."),
    _Drawing(
        figures.first_weights,
        "Training items along the gradient, without noise. The linear model tells where down is, the "
        "quadratic one how far: its lowest point is the best first learning rate of plain gradient descent.",
    ),
    _Drawing(
        figures.best_weights,
        "The same where training ended. The narrower the bowl, the smaller the steps that it bears; where "
        "the models leave the function early, neither is to be trusted far.",
    ),
)
_PREDICTING = (
    _Drawing(
        figures.confusion_matrix,
        "Rows are the truth. Blue is right; mistakes are orange, on a scale of their own.",
    ),
    _Drawing(figures.class_scores, "The weakest classes stand at the top."),
    _Drawing(
        figures.calibration,
        "On the dashed line, answers given with 80% confidence are right 80% of the time; "
        "below it the model is too sure of itself.",
    ),
    _Drawing(figures.class_balance, "How often each class occurs in the parts that scores are taken on."),
    _Drawing(
        figures.predicted_against_true, "One point an item; on the dashed line the prediction is exact."
    ),
    _Drawing(
        figures.residuals,
        "A cloud without shape around zero is what is left when nothing more can be learned.",
    ),
    _Drawing(figures.loss_by_position, "More context should make the next character easier to foretell."),
)


def _section(title: str, drawings: Sequence[_Drawing], run: Run, before: str = "") -> str:
    """The figures of one subject that this run has something for, or nothing at all."""
    blocks = []
    for drawing in drawings:
        try:
            figure = drawing.draw(run)
        except NothingToDrawError:  # an interrupted run, or a run of another task: draw what there is
            continue
        blocks.append(figure_block(figure, drawing.told(run)))
    if not blocks and not before:
        return ""
    return f'<section><h2>{title}</h2><div class="grid">{before}{"".join(blocks)}</div></section>'


def _mistakes(run: Run) -> str:
    try:
        shown = mistakes(run)
    except NothingToDrawError:
        return ""
    stamps = "".join(
        f'<div><img class="{"small" if mistake.size < 80 else ""}" src="{mistake.picture}"'
        f' alt="{escape(mistake.truth)}, taken for {escape(mistake.prediction)}">'
        f'<p><span class="wrong">{escape(mistake.prediction)}</span> {mistake.probability:.0%}<br>'
        f"is {escape(mistake.truth)}</p></div>"
        for mistake in shown
    )
    caption = (
        "What the model said, and how sure it was; below it, the truth. "
        "The worst come first: look there for wrong labels."
    )
    return (
        f'<section><h2>Worst mistakes</h2><div class="grid"><figure class="card wide">'
        f"{caption_block(f'{len(shown)} of the test part', caption)}"
        f'<div class="mistakes">{stamps}</div></figure></div></section>'
    )
