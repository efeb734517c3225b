"""The recipe: every setting of a run, validated, as TOML.

A recipe is made in layers: the schema's defaults, a named recipe (`recipes/*.toml`, which has a part for
each kind of data), a user's file, and `--set key=value`. The sections `[model]`, `[optimizer]` and
`[schedule]` name a registered part; their other keys are that part's own keyword arguments.
"""

import functools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RecipeError, nearest
from ..registry import entries, unknown
from .data.dataset import Kind

Auto = Literal["auto"]
Layer = Mapping[str, Any]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# Nothing gets through where everything is dropped; a residual branch may be left out at all times.
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
IMAGE_SIZES = range(4, 4097)


class Section(BaseModel):
    """A section whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class PartSection(BaseModel):
    """A section that names a registered part; further keys are that part's settings."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def settings(self) -> dict[str, Any]:
        """The part's own keyword arguments."""
        return dict(self.model_extra or {})


class DataSection(Section):
    """How the data are read, split, prepared and batched."""

    target: str = Field("auto", description="the column (table) or array to predict")
    task: Literal["auto", "classification", "regression"] = Field("auto", description="what is predicted")
    image_size: Annotated[int, Field(ge=IMAGE_SIZES[0], le=IMAGE_SIZES[-1])] | Auto = Field(
        "auto", description="side of the square that photographs are brought to, in pixels"
    )
    preprocess: str = Field("normalize", description="none, center, normalize, pca or whiten")
    batch_size: Annotated[int, Field(ge=1)] | Auto = Field("auto", description="items a batch")
    validation: Fraction = Field(0.1, description="share of the training items held out to steer by")
    test: Fraction = Field(0.2, description="share of all items kept for the final score, if none is given")
    split: Annotated[int, Field(ge=0, lt=2**63)] | Auto = Field(
        "auto", description="seed of the cut into parts; auto: that of the run"
    )
    bootstrap: bool = Field(
        False, description="train on a bootstrap sample: as many items, drawn with replacement"
    )
    skip_bad: bool = Field(
        False, description="leave unreadable files out, and count them, instead of refusing"
    )
    memory_gb: Annotated[float, Field(gt=0)] = Field(1.0, description="larger sets stream from the disk")
    workers: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="threads that decode streamed images"
    )


class ModelSection(PartSection):
    """The network: its name and its own settings."""

    name: str = Field("auto", description="a model's name, or package.module:factory; auto picks by the data")


class TransferSection(Section):
    """A pretrained network to start from, and what of it trains."""

    source: str = Field(
        "",
        description="its name in the zoo, a file, a run folder, hf:, timm: or torchvision:NAME; empty: none",
    )
    train: str = Field(
        "all", description="all; head: the new last layer alone; or the first module that trains, by its name"
    )
    depth: str = Field(
        "",
        description="the module whose features the new head is put on, the layers above left out; empty: all",
    )
    body: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="rate of the pretrained layers, as share of the head's"
    )
    decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor to the rate from each stretch of layers to the one below"
    )
    cache: bool = Field(
        True, description="work the features of a frozen body out once, where that is the same"
    )


class OptimizerSection(PartSection):
    """The update rule, and what surrounds it."""

    name: str = Field("adamw", description="an optimizer's name, or package.module:name of a rule or class")
    clip_norm: Annotated[float, Field(ge=0)] = Field(
        0.0, description="longest gradient, as a 2-norm; 0: no limit"
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(1, description="batches whose gradients make one step")
    average: Fraction = Field(0.0, description="decay of the moving average of the weights (Polyak); 0: none")


class ScheduleSection(PartSection):
    """How the learning rate moves."""

    name: str = Field("cosine", description="a schedule's name")


PENALTIES = ("l1", "l2", "max_norm")


class RegularizeSection(Section):
    """Noise in the network, in training alone and averaged out at test time; penalties on its weights."""

    dropout: Rate = Field(0.0, description="share of the inputs of linear layers that are dropped")
    feature_dropout: Rate = Field(0.0, description="share of the maps into convolutions that are dropped")
    drop_connect: Rate = Field(0.0, description="share of the weights of linear layers that are dropped")
    stochastic_depth: Annotated[float, Field(ge=0, le=1, strict=True)] = Field(
        0.0, description="how often the last residual branch is left out"
    )
    l1: Strength = Field(
        0.0, description="this times Σ|w| of the weights, not of biases and gains, is added to the loss"
    )
    l2: Strength = Field(
        0.0, description="this times Σw² of the weights, not of biases and gains, is added to the loss"
    )
    max_norm: Strength = Field(
        0.0, description="longest vector of a unit's incoming weights, after every step; 0: no limit"
    )

    @property
    def noise(self) -> dict[str, float]:
        """The rate of each kind of noise, as `generalize.regularize` takes them."""
        return self.model_dump(exclude=set(PENALTIES))


class PredictSection(Section):
    """What is averaged at test time, for the final scores, predict and export alike."""

    average: Literal["expectation", "samples", "flip", "ten-crop"] = Field(
        "expectation",
        description="expectation: one pass without noise; samples of the noise; or views of the image",
    )
    samples: Annotated[int, Field(ge=1)] = Field(16, description="draws of the noise, for samples")


class LossSection(Section):
    """What is minimised."""

    label_smoothing: Fraction = Field(0.0, description="share of the target spread over all classes")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare classes weigh more"
    )


class StopSection(Section):
    """When training ends; the best weights are kept however it ends."""

    epochs: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="passes over the training part, at most"
    )
    effort: Annotated[float, Field(gt=0)] = Field(1.0, description="times the epochs that auto chooses")
    patience: Annotated[int, Field(ge=0)] = Field(
        0, description="evaluations without a better value after which training stops; 0: never"
    )
    monitor: str = Field("validation.loss", description="the value that decides which weights are best")


class LogSection(Section):
    """What is written besides the run folder's own files."""

    tensorboard: bool = Field(False, description="write TensorBoard events too (needs the extra)")
    checkpoint_seconds: Annotated[float, Field(ge=0)] = Field(30.0, description="time between checkpoints")


class Recipe(Section):
    """Every setting of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="decides every random choice")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:NUMBER or mps"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: mixed precision, weights in float32"
    )
    augment: tuple[str, ...] = Field(
        (), description="random changes of training images, in this order; mixes last"
    )
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    transfer: TransferSection = Field(default_factory=TransferSection)
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    regularize: RegularizeSection = Field(default_factory=RegularizeSection)
    loss: LossSection = Field(default_factory=LossSection)
    predict: PredictSection = Field(default_factory=PredictSection)
    stop: StopSection = Field(default_factory=StopSection)
    log: LogSection = Field(default_factory=LogSection)

    @property
    def split_seed(self) -> int:
        """What the cut into parts, and all that is fitted to the training part, is drawn by."""
        return self.seed if self.data.split == "auto" else self.data.split


PART_SECTIONS: dict[str, type[PartSection]] = {
    "model": ModelSection,
    "optimizer": OptimizerSection,
    "schedule": ScheduleSection,
}


def named_recipes() -> dict[str, str]:
    """The built-in recipes: name and one-line description (the first comment of the file)."""
    files = sorted(resources.files(__package__).joinpath("recipes").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): file.read_text().partition("\n")[0].lstrip("# ")
        for file in files
        if file.name.endswith(".toml")
    }


def named_layer(name: str, kind: Kind) -> Layer:
    """The settings of a built-in recipe for one kind of data.

    Raises:
        RecipeError: there is no recipe of that name.
    """
    return cast(Layer, _built_in(name).get("table" if kind == "array" else kind, {}))


@functools.cache
def _built_in(name: str) -> Layer:
    if name not in named_recipes():
        hint = nearest(name, named_recipes()) or f"; built in are {', '.join(named_recipes())}"
        raise RecipeError([f"no recipe file or built-in recipe {name!r}{hint}"])
    return tomllib.loads(resources.files(__package__).joinpath("recipes", f"{name}.toml").read_text())


def file_layer(path: Path) -> Layer:
    """The settings in a recipe file.

    Raises:
        RecipeError: the file cannot be read, or is not TOML; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError([f"{path} cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path} is not TOML: {error}"]) from error


def set_layer(assignments: Iterable[str]) -> Layer:
    """The settings of `--set key=value` arguments: dotted keys, values in TOML; a bare word is text.

    `.5`, `True` and `False`, which TOML does not know, mean what they mean in Python.

    Raises:
        RecipeError: an argument is no assignment; all such arguments are told.
    """
    layer: dict[str, Any] = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        path = [step.strip() for step in key.split(".")]
        if not equals or not all(path):
            problems.append(f"{assignment!r} is not key=value, such as optimizer.lr=0.01")
            continue
        section = layer
        for step in path[:-1]:
            section = section.setdefault(step, {})
            if not isinstance(section, dict):
                problems.append(f"{assignment!r}: {step!r} was given a value before, it is no section")
                break
        else:
            section[path[-1]] = _value(text.strip())
    if problems:
        raise RecipeError(problems)
    return layer


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if text in ("True", "False"):
            return text == "True"
        return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?", text) else text


def section(layer: Layer, name: str) -> Mapping[str, Any]:
    """What a layer says of a section; nothing where that is no dictionary, which `validate` refuses."""
    said = layer.get(name)
    return said if isinstance(said, Mapping) else {}


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """One dictionary out of layers; a later layer wins, key by key.

    Where a layer names another part than the layers before it, their settings of the old part go: a
    learning rate chosen for Adam says nothing about SGD. The new part's suggested settings come instead.

    Raises:
        RecipeError: one is no dictionary.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise RecipeError(
                [f"{layer!r} is no dictionary of settings; they come in a list, as [{{'seed': 1}}]"]
            )
        for key, value in layer.items():
            if not isinstance(value, Mapping) or not isinstance(merged.get(key, {}), dict):
                merged[key] = value
                continue
            section = dict(merged.get(key, {}))
            if key in PART_SECTIONS and value.get("name", section.get("name")) != section.get("name"):
                kept = PART_SECTIONS[key].model_fields
                section = {name: item for name, item in section.items() if name in kept}
                section |= _suggested(key, value["name"])
            merged[key] = section | dict(value)
    return merged


def _suggested(kind: str, name: str) -> Mapping[str, object]:
    return next((entry.suggested for entry in entries(kind) if entry.name == name), {})


def validate(layers: Sequence[Layer], *, code: bool = False) -> Recipe:
    """The recipe that the layers make.

    Args:
        layers: from the weakest to the strongest.
        code: import an optimizer named by `package.module:name`, to check its settings too. Reading alone
            must not act: only where `trust.refuse_code` had a look.

    Raises:
        RecipeError: unknown keys (with the nearest valid name), wrong types, impossible values and
            unknown parts: all of them at once.
    """
    from . import augment, metrics, parts, settings  # noqa: F401  parts: fills the registry

    merged = merge(layers)
    problems: list[str] = []
    wrong: list[Sequence[Any]] = []
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        problems = _told(error.errors())
        wrong = [problem["loc"] for problem in error.errors()]
        recipe = Recipe.model_validate(_without(merged, wrong))
    read = {}
    for kind in PART_SECTIONS:
        section = getattr(recipe, kind)
        if (kind, "name") not in wrong:
            fields = tuple(type(section).model_fields)
            converted, found = settings.check(kind, section.name, section.settings, fields, code=code)
            problems += found
            read[kind] = section.model_copy(update=converted)
    problems += augment.mistakes(recipe.augment)
    if reason := unknown("preprocessing", recipe.data.preprocess):
        problems.append(f"data.preprocess: {reason}")
    try:
        metrics.direction(recipe.stop.monitor)
    except RecipeError as error:
        problems += error.problems
    if problems:
        raise RecipeError(problems)
    return recipe.model_copy(update=read)


def _without(merged: Mapping[str, Any], wrong: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """The settings but for those at the places in `wrong`; what else is in their sections stays."""
    kept = {key: dict(item) if isinstance(item, Mapping) else item for key, item in merged.items()}
    for key, *rest in wrong:
        section = kept.get(key)
        if rest and isinstance(section, dict):
            section.pop(rest[0], None)
        else:
            kept.pop(key, None)
    return kept


def _told(found: Sequence[Any]) -> list[str]:
    """A sentence a key for pydantic's findings; a key that may be of two types has a finding for each."""
    sentences: dict[str, list[str]] = {}
    for problem in found:
        steps = [step for step in problem["loc"] if isinstance(step, str)]
        path = [step for step in steps if step in _keys(steps)]
        key = ".".join(path)
        if problem["type"] == "extra_forbidden":
            fields = _fields(path[:-1])
            hint = nearest(path[-1], fields) or f"; valid are {', '.join(fields)}"
            sentences.setdefault(f"{key}: there is no such key{hint}", [])
        elif problem["type"] == "model_type":
            sentences.setdefault(f"{key} = {problem['input']!r}: {_as_section(key, problem['input'])}", [])
        else:
            reason = problem["msg"][0].lower() + problem["msg"][1:]
            if problem["type"] == "string_pattern_mismatch":
                reason = f"valid are {_fields(path[:-1])[path[-1]].description}"
            elif problem["type"] == "tuple_type":  # TOML knows lists
                reason = f"it is a list: write {key}=[{json.dumps(problem['input'])}]"
            sentences.setdefault(f"{key} = {problem['input']!r}: ", []).append(reason)
    return [begin + ", or ".join(reasons) for begin, reasons in sentences.items()]


def _as_section(key: str, value: Any) -> str:
    """What to write where a section was given a plain value."""
    if key in PART_SECTIONS and isinstance(value, str):
        return f"write {key}.name={value}"
    return f"{key} is a section; write {key}.KEY, where KEY is one of {', '.join(_fields([key]))}"


def _keys(steps: Sequence[str]) -> Sequence[str]:
    """The steps of a finding's place that are keys: a key of the recipe, and one of its section."""
    inside = steps and steps[0] in Recipe.model_fields and _fields(steps[:1])
    return steps[:2] if inside else steps[:1]


def _fields(path: Sequence[str]) -> dict[str, Any]:
    """The keys of the recipe, or of one of its sections; of a plain value none."""
    fields: dict[str, Any] = Recipe.model_fields
    for step in path:
        section: Any = fields[step].annotation
        fields = getattr(section, "model_fields", {})
    return fields
