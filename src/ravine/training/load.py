"""Trained networks out of run folders."""

from pathlib import Path

from torch import nn

from .. import models
from ..errors import RunError
from ..generalize.regularize import regularize
from ..randomness import addressed
from ..transfer.zoo.building import build
from ..transfer.zoo.card import Card, Pretrained
from . import ensemble
from .averaged import for_prediction
from .feeds import CONTEXT
from .predict import Predictor
from .preprocessing import Preprocessing
from .pretrained import fitted, headed
from .recipe import Recipe, file_layer, validate
from .run_folder import RunFolder
from .settings import GIVEN, PRETRAINED
from .trust import refuse_code


def load(run: str | Path, model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """The trained network of a run with its best weights, in evaluation mode: a plain `nn.Module`.

    It takes preprocessed inputs; `load_predictor` gives the whole way from raw items to probabilities. An
    ensemble's takes raw items, as its members prepare them themselves, and gives logarithms of their mean
    probabilities, or their mean values.

    Args:
        run: the run folder, or an ensemble's.
        model: a network of the same shape, where the run was given one as an object.
        trust: the run's recipe may name the network by `module:name`, which runs that code.

    Raises:
        RunError: no run there, no weights yet, or the run's network was an object and none is given; a
            network is given for an ensemble.
        TrustError: the network is code that is not trusted.
        ModelError: it cannot be made.
    """
    if model is None and ensemble.is_ensemble(Path(run)):
        return load_predictor(run, trust=trust).model
    folder = RunFolder.open(Path(run))
    if model is None:
        model = _made(folder, trust)
    weights = folder.read_tensors("model.safetensors")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"the weights of {run} do not fit the network: {error}") from error
    return model.eval()


def load_predictor(run: str | Path, *, trust: bool = False) -> Predictor:
    """The whole way from raw items to probabilities or values, as `ravine predict` goes it.

    Args:
        run: the run folder, or an ensemble's.
        trust: as for `load`.

    Raises:
        TrustError, ModelError: as `load`.
        RunError: as `load`; or the run was trained on batches from Python, whose preparation is unknown.
    """
    if ensemble.is_ensemble(Path(run)):
        record = ensemble.read_record(Path(run))
        members = [load_predictor(Path(run) / member.folder, trust=trust) for member in record.members]
        return ensemble.together(members, [member.weight for member in record.members])
    folder = RunFolder.open(Path(run))
    if not (folder.path / "preprocessing.json").is_file():
        raise RunError(f"{run} was trained on batches from Python: how raw items become inputs is not known")
    preprocessing = Preprocessing.load(folder.path)
    model = for_prediction(load(run, trust=trust), _recipe(folder), preprocessing.task)
    return Predictor(preprocessing, model, preprocessing.task).eval()


def context_of(run: str | Path) -> int:
    """How many characters the language model of a run looks at; those of an ensemble look at the same number.

    Raises:
        RunError: there is no run.
        RecipeError: its recipe is damaged.
    """
    if ensemble.is_ensemble(Path(run)):
        return context_of(Path(run) / ensemble.read_record(Path(run)).members[0].folder)
    return int(_recipe(RunFolder.open(Path(run))).model.settings.get("context", CONTEXT))


def _recipe(folder: RunFolder) -> Recipe:
    return validate([file_layer(folder.path / "recipe.toml")])


def _made(folder: RunFolder, trust: bool) -> nn.Module:
    """The recipe's network, untrained."""
    recipe = _recipe(folder)
    if not trust:
        refuse_code({"model": {"name": recipe.model.name}}, folder.path / "recipe.toml")
    if recipe.model.name == GIVEN:
        raise RunError(
            f"{folder.path} was trained on a network from Python; give one of its shape: load(run, model)"
        )
    preprocessing = Preprocessing.load(folder.path)
    spec, shape = preprocessing.spec, preprocessing.output_shape
    outputs = 1 if preprocessing.task == "regression" else len(spec["classes"])
    depth = recipe.transfer.depth
    with addressed(recipe.seed, "model"):
        if recipe.model.name == PRETRAINED:
            card = Card.from_json(folder.read_json("pretrained.json"), str(folder.path / "pretrained.json"))
            made, _ = fitted(Pretrained(card, build(card)), shape, outputs, spec["classes"], depth)
        else:
            made = models.make(recipe.model.name, shape, outputs, recipe.model.settings)
            if depth:
                headed(made, shape, outputs, depth)
    regularize(made, **recipe.regularize.noise)
    return made
