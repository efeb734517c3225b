"""A look before time is spent: is what is about to be trained healthy (T35)?"""

import torch
from torch import Tensor

from ..modes import evaluating
from . import watch
from .data.dataset import outputs_of
from .evaluate import class_numbers
from .objective import objective
from .recipe import LossSection
from .setup import Setup


def findings(setup: Setup, inputs: Tensor, targets: Tensor) -> list[watch.Notice]:
    """What there is to say about a model that is about to be trained; nothing is changed.

    What one batch tells: the first loss against what chance gives, whether a tiny subset can be fitted, and
    units that are dead from the start. And the noise that its optimizer is to bear.

    Args:
        setup: the run.
        inputs: of the first training batch.
        targets: likewise; a mixed item counts as one of the class with the greatest share, because shares
            cannot be learnt by heart to a loss of 0.
    """
    model = setup.model
    if setup.task == "classification":
        targets = class_numbers(targets)
    loss_of = objective(setup.task, LossSection(), None, setup.device)
    with evaluating(model), torch.no_grad():
        outputs = model(inputs).float()
        loss = loss_of(outputs, targets).item()
    count = outputs_of(setup.dataset) if setup.dataset is not None else outputs.shape[-1]
    first = watch.first_loss(loss, setup.task, count, targets)
    share = 0.5 if setup.task == "language" else 0.1
    fit = watch.fits_subset(model, loss_of, inputs, targets, first.chance, share=share)
    told = [first.notice, fit.notice, *watch.dead_notices(model, watch.dead_units(model, inputs))]
    if setup.noise:
        misled = f"{setup.recipe.optimizer.name} may be misled by noise in the loss, which was allowed: "
        told.append(watch.Notice("warning", misled + "; ".join(setup.noise)))
    return told
