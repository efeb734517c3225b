"""One function a figure: most take a run (`ravine.show.run.read_run`), all return a Plotly figure."""

from .ablation import gaps
from .classes import class_balance, class_scores, confusion_matrix
from .curves import gap, loss_curves, metric_curves
from .ensemble import disagreement, scaled_calibration, score_by_number
from .local_model import best_weights, first_weights, local_model
from .pictures import worst_mistakes
from .range_test import range_test
from .reliability import calibration
from .steps import gradient_norm, schedule, timing, update_ratios
from .transfer import probes
from .values import loss_by_position, predicted_against_true, residuals

__all__ = [
    "best_weights",
    "calibration",
    "class_balance",
    "class_scores",
    "confusion_matrix",
    "disagreement",
    "first_weights",
    "gap",
    "gaps",
    "gradient_norm",
    "local_model",
    "loss_by_position",
    "loss_curves",
    "metric_curves",
    "predicted_against_true",
    "probes",
    "range_test",
    "residuals",
    "scaled_calibration",
    "schedule",
    "score_by_number",
    "timing",
    "update_ratios",
    "worst_mistakes",
]
