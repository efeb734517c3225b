"""One run from beginning to end: open the data, make the parts, train, score; or go on with one."""

import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import Interrupted, RecipeError, RunError
from ..memory import memory_told
from ..randomness import addressed
from ..transfer.zoo.card import Pretrained
from . import augmented_sheet, checkpoint, given, pretrained, recipe_text, watch
from .data import DataOptions, Dataset, Splits, embedded, open_data
from .data.splits import cut, to_json
from .finish import finish
from .loop import Loop
from .progress import Progress, Silent
from .quiet import turned_off
from .recipe import Layer, Recipe, file_layer, merge, named_layer, named_recipes, validate
from .resolve import resolve
from .run_folder import RunFolder
from .settings import GIVEN
from .setup import Setup, prepare
from .signals import StopNow, StopRequest
from .trust import needed, refuse_code

RecipeLike = str | Path | Layer | None
SILENT = Silent()


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its final scores, and the trained network with the best weights."""

    folder: Path
    result: dict[str, Any]
    model: nn.Module


def train(
    model: nn.Module | str | None,
    data: Any,
    recipe: RecipeLike = None,
    *,
    settings: Sequence[Layer] = (),
    out: str | Path | None = None,
    trust: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Train a network on a data set and leave a run folder.

    Args:
        model: any module; or a model's name or "package.module:factory"; None lets the recipe choose.
        data: a path or the name of an embedded set; or batches, as an iterable of (inputs, targets) or as
            {"train": ..., "validation": ..., "test": ...} of iterables.
        recipe: a built-in recipe's name, a TOML file, or the settings as nested dictionaries.
        settings: further settings that win over the recipe's.
        out: the run folder to make; by default `runs/DATA-DATE-TIME`.
        trust: a recipe file may name the network or the optimizer by `module:name`, which runs that code.
        progress: whom to tell.

    Raises:
        RecipeError: mistakes in the recipe, all at once.
        DataError: the data cannot be used.
        ModelError: the model cannot be made or does not fit the data.
        RunError: `out` exists, or cannot be written.
        NotFiniteError: a loss, gradient or weight went bad.
        MemoryLimitError: memory ran out.
        Interrupted: SIGINT or SIGTERM came; the run can be resumed.
    """
    began = time.perf_counter()
    if out is not None:
        RunFolder.refuse_existing(Path(out))
    with memory_told():
        setup = make_setup(model, data, recipe, settings=settings, trust=trust)
    return start(setup, data, out, progress=progress, began=began)


def start(
    setup: Setup,
    data: Any,
    out: str | Path | None = None,
    *,
    records: Mapping[str, Any] = {},
    progress: Progress = SILENT,
    began: float | None = None,
) -> Run:
    """Train what `make_setup` made of these data, and leave a run folder.

    Args:
        setup: that nothing has trained yet.
        data: as for `train`; what resumes the run opens it again.
        out: as for `train`.
        records: what else the run folder is to hold from the start, by the files' names, as JSON.
        progress: as for `train`.
        began: when making it did, by `time.perf_counter`; by default now.

    Raises:
        RavineError: as `train`, but for mistakes in the recipe.
    """
    began = time.perf_counter() if began is None else began
    source = str(data) if isinstance(data, str | Path) else None
    with memory_told():
        folder = new_folder(Path(out) if out else default_path(setup.facts["data"]), setup, source, records)
        with folder.locked(), StopRequest() as stop:
            return _go_on(Loop(setup, folder, progress, stop), began, fresh=True)


def make_setup(
    model: nn.Module | str | None,
    data: Any,
    recipe: RecipeLike = None,
    *,
    settings: Sequence[Layer] = (),
    trust: bool = False,
    like: Setup | None = None,
) -> Setup:
    """Everything that a training of `model` on `data` would start with; nothing is written.

    The arguments, and what is raised, are those of `train`; `like` is another run on the same data, read in
    the same way, whose items are shared where they are prepared in the same way too.
    """
    name, layers = layers_of(recipe)
    if layers and not (trust or isinstance(recipe, Mapping)):
        refuse_code(layers[0], str(recipe), [_chosen(model), *settings])
    if isinstance(model, str):
        # Before the recipe, so that settings without a name are this model's; after it, so that it wins.
        layers = [_chosen(model), *layers, _chosen(model)]
    layers += settings
    if isinstance(model, nn.Module):  # a run that is told to be another network's could not be loaded
        layers.append(_chosen(model))
    if isinstance(data, str | Path):
        if like is not None and like.dataset is not None:
            return _from_dataset(like.dataset, name, layers, model, like)
        first = validate([*_named(name, "image"), *layers], code=True)
        return _from_source(data, first, name, layers, model)
    return given.prepare(validate([*_for_batches(name), *layers], code=True), data, model, merge(layers))


def seed_of(recipe: RecipeLike, settings: Sequence[Layer]) -> int:
    """The seed that a training has with this recipe and these settings over it.

    Raises:
        RecipeError: the recipe cannot be read, or its seed is none.
    """
    _, layers = layers_of(recipe)
    asked = merge([*layers, *settings])
    return validate([{"seed": asked["seed"]} if "seed" in asked else {}]).seed


def read(
    data: str | Path, recipe: RecipeLike = None, *, settings: Sequence[Layer] = ()
) -> tuple[Dataset, Splits]:
    """A data set and its parts, as a training under this recipe would have them.

    Raises:
        RecipeError: mistakes in the recipe, all at once.
        DataError: the data cannot be used.
    """
    name, layers = layers_of(recipe)
    layers += settings
    with memory_told():
        dataset = open_data(data, options_of(validate([*_named(name, "image"), *layers])))
    return dataset, cut_for(validate([*_named(name, dataset.kind), *layers]), dataset)


def read_again(folder: RunFolder) -> tuple[Dataset, Splits]:
    """The data of a run and its parts, as they were when it was trained.

    Raises:
        RunError: the data are not known, or have changed.
        DataError: they cannot be used any more.
    """
    source, recorded = folder.read_json("environment.json")["data"], folder.read_json("splits.json")
    if source is None:
        raise RunError(f"{folder.path} was trained on what a program gave it: its data cannot be read again")
    dataset, splits = read(source, folder.path / "recipe.toml")
    now = {"fingerprint": dataset.fingerprint, **to_json(dataset, splits)}
    if any(now[key] != recorded[key] for key in ("fingerprint", "validation", "test")):
        raise RunError(
            f"the data at {source} have changed since {folder.path} was trained; bring the old ones back"
        )
    return dataset, splits


def resume(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    trust: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """Go on with a run that was interrupted; on a CPU it ends bit-identical to an uninterrupted one.

    Args:
        run: the run folder.
        model: the network, where the run was given one as an object.
        data: the batches, where the run was given batches; or where the data are now, if they moved.
        trust: the run's recipe may name the network or the optimizer by `module:name`, which runs that code.
        progress: whom to tell.

    Raises:
        RunError: no run there, it is finished, its checkpoints are damaged, or the data have changed.
        RavineError: as `train`.
    """
    began = time.perf_counter()
    folder = RunFolder.open(Path(run))
    if folder.finished:
        raise RunError(f"{folder.path} is finished; draw its report again with: ravine report {folder.path}")
    recorded = folder.read_json("splits.json")
    source = folder.read_json("environment.json")["data"] if data is None else data
    layers = [file_layer(folder.path / "recipe.toml")]
    if not trust:
        refuse_code(layers[0], folder.path / "recipe.toml", [_chosen(model)])
    recipe = validate(layers, code=True)
    with memory_told():
        if isinstance(source, str | Path):
            if recipe.model.name == GIVEN and model is None:
                raise RunError(f"{folder.path} was trained on a network from Python: give one, as model=")
            setup = _from_source(source, recipe, None, layers, model)
        elif source is None:
            raise RunError(f"{folder.path} was trained on batches from Python: give them as data=")
        else:
            setup = given.prepare(recipe, source, model, layers[0])
        if recorded.get("fingerprint") != splits_of(setup).get("fingerprint"):
            raise RunError(
                f"the data at {source} have changed since {folder.path} was started; a resumed run would mix "
                "two data sets. Bring the old data back, or start a new run."
            )
        threads, now = folder.read_json("environment.json")["threads"], torch.get_num_threads()
        if threads != now:
            progress.notice(
                "warning",
                f"the run was started with {threads} threads and goes on with {now}: sums are rounded "
                "otherwise, so it will be as good as, but not bit-identical to, an uninterrupted run",
            )
        with folder.locked(), StopRequest() as stop:
            folder.clear_drafts()
            loop = Loop(setup, folder, progress, stop)
            loaded = checkpoint.load_newest(folder.checkpoints, lambda text: progress.notice("warning", text))
            if loaded is None or setup.whole is not None:  # else the checkpoint holds the whole network
                _refuse_other_weights(folder, setup)
            if loaded is not None:
                loop.restore(*loaded)
            folder.keep_rows(loop.state.rows)
            return _go_on(loop, began, fresh=loaded is None)


def _refuse_other_weights(folder: RunFolder, setup: Setup) -> None:
    """Refuse to go on from another network than a run was started from."""
    began = folder.read_json("environment.json").get("weights")
    if began is not None and began != pretrained.fingerprint(setup.network):
        raise RunError(
            f"{setup.recipe.transfer.source} has changed since {folder.path} was started from it. Bring the "
            "old one back, or start a new run."
        )


def _go_on(loop: Loop, began: float, *, fresh: bool) -> Run:
    """Train to the end and score. `began`: when this session of the run did."""
    # The caller's global random streams stay as they are.
    with addressed(loop.setup.recipe.seed, "run"):
        return _trained(loop, began, fresh)


def _trained(loop: Loop, began: float, fresh: bool) -> Run:
    setup, folder = loop.setup, loop.folder
    loop.progress.begin(
        {
            **setup.facts,
            "model": setup.recipe.model.name,
            "parameters": sum(parameter.numel() for parameter in setup.network.parameters()),
            "device": str(setup.device),
            "epochs": setup.recipe.stop.epochs,
            "steps_per_epoch": setup.steps_per_epoch,
            "monitor": setup.recipe.stop.monitor,
            "out": str(folder.path),
        }
    )
    if fresh:
        for note in setup.notes:
            loop.notice(watch.Notice("info", note))
        loop.look()
    took = time.perf_counter() - began
    if fresh and setup.working_out:  # apart: it stands for what training would have taken
        loop.state.seconds["features"] = setup.working_out
        took -= setup.working_out
    loop.state.seconds["start"] += took
    for row in folder.read_rows():
        loop.progress.evaluated(row, best=row["epoch"] == loop.state.best_epoch)
    try:
        result = finish(loop, loop.run())
    except StopNow:
        raise Interrupted(
            loop.stop.signum,
            f"stopped after {loop.state.epoch} epochs and {loop.state.step} steps; everything is kept. "
            f"Go on with: ravine train --resume {folder.path}{needed(setup.recipe)}",
        ) from None
    finally:
        folder.close()
    loop.progress.end(result, folder.path)
    return Run(folder.path, result, setup.network)


def layers_of(recipe: RecipeLike) -> tuple[str, list[Layer]]:
    """The name of the built-in recipe to start from, and what is laid over it."""
    if recipe is None:
        return "default", []
    if isinstance(recipe, Mapping):
        return "default", [recipe]
    if str(recipe) in named_recipes() or not Path(recipe).exists():
        return str(recipe), []
    return "default", [file_layer(Path(recipe))]


def _chosen(model: nn.Module | str | None) -> Layer:
    """What a caller's choice of the network means as settings."""
    return {} if model is None else {"model": {"name": model if isinstance(model, str) else GIVEN}}


def _named(name: str | None, kind: Any) -> list[Layer]:
    return [] if name is None else [named_layer(name, kind)]


def _for_batches(name: str) -> list[Layer]:
    """What a built-in recipe says of batches from Python, whose network and kind it does not know."""
    layer = named_layer(name, "table")
    return [{key: layer[key] for key in ("optimizer", "schedule") if key in layer}]


def _from_source(
    source: str | Path, first: Recipe, name: str | None, layers: list[Layer], model: nn.Module | str | None
) -> Setup:
    """Open and cut the data, then make the run with the recipe for their kind."""
    opened = _opened(first, layers, model)
    options = options_of(first)
    if opened is not None and opened.card.kind == "image" and options.image_size == "auto":
        options = replace(options, image_size=pretrained.side_of(opened.card))
    return _from_dataset(open_data(source, options), name, layers, model, opened=opened)


def _from_dataset(
    dataset: Dataset,
    name: str | None,
    layers: list[Layer],
    model: nn.Module | str | None,
    like: Setup | None = None,
    opened: Pretrained | None = None,
) -> Setup:
    recipe = validate([*_named(name, dataset.kind), *layers], code=True)
    asked = merge(layers)
    opened = opened or _opened(recipe, layers, model)
    if opened is not None:
        pretrained.refuse_kind(opened.card, dataset.kind)
        pretrained.refuse_other_model(opened.card, asked)
        known = pretrained.described(opened.card)
        source = pretrained.located(recipe.transfer.source)
        settled = [
            {"data": {"preprocess": "pretrained"}},
            *layers,
            {"model": known, "transfer": {"source": source}},
        ]
        recipe = validate([*_named(name, dataset.kind), *settled], code=True)
        asked = merge([*layers, {"model": known}])  # nothing else may be made of it
    cut_alike = like is not None and _cut(like.recipe) == _cut(recipe)
    splits = like.splits if like is not None and like.splits and cut_alike else cut_for(recipe, dataset)
    resolved = resolve(recipe, dataset, splits, asked=asked)
    setup = prepare(resolved, dataset, splits, model if isinstance(model, nn.Module) else None, like, opened)
    setup.notes += turned_off(recipe, resolved)
    setup.facts = _facts(dataset, splits)
    return setup


def _opened(recipe: Recipe, layers: Sequence[Layer], model: nn.Module | str | None) -> Pretrained | None:
    """The pretrained network that a recipe starts from, if there is one."""
    if not recipe.transfer.source:
        needs = "without a network to start from: give transfer.source, too"
        problems = []
        if recipe.transfer.train != pretrained.ALL:
            problems.append(f"transfer.train: nothing is frozen {needs}")
        if recipe.transfer.depth:
            problems.append(f"transfer.depth: there are no layers to leave out {needs}")
        if problems:
            raise RecipeError(problems)
        return None
    if model is not None:
        raise RecipeError(["transfer.source names a network to start from: leave the model out"])
    return pretrained.open_source(recipe.transfer.source)


def cut_for(recipe: Recipe, dataset: Dataset) -> Splits:
    """The parts that a recipe cuts a data set into."""
    data = recipe.data
    return cut(dataset, validation=data.validation, test=data.test, seed=recipe.split_seed)


def _cut(recipe: Recipe) -> tuple[float, float, int]:
    """What of a recipe decides how its data are cut."""
    return recipe.data.validation, recipe.data.test, recipe.split_seed


def options_of(recipe: Recipe) -> DataOptions:
    """How the data are to be read, as the recipe says."""
    data = recipe.data
    return DataOptions(data.target, data.task, data.image_size, data.skip_bad, data.memory_gb)


def _facts(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    return {
        "data": dataset.name,
        "kind": dataset.kind,
        "task": dataset.task,
        "classes": list(dataset.classes),
        "items": {part: len(splits.of(part)) for part in ("train", "validation", "test")},
    }


def splits_of(setup: Setup) -> dict[str, Any]:
    """What `splits.json` holds of a run: its data's fingerprint, and the items of each part."""
    if setup.dataset is None or setup.splits is None:
        return {"fingerprint": None}
    return {"fingerprint": setup.dataset.fingerprint, **to_json(setup.dataset, setup.splits)}


def _planned_rates(setup: Setup, points: int = 500) -> dict[str, list[float]]:
    """The learning rate that the schedule plans, at up to `points` steps from the first to the last."""
    epochs = setup.recipe.stop.epochs
    assert isinstance(epochs, int)
    last = epochs * setup.steps_per_epoch - 1
    steps = sorted({round(last * point / (points - 1)) for point in range(points)})
    rate = float(setup.optimizer.param_groups[0]["initial_lr"])
    return {"step": list(steps), "lr": [rate * setup.schedule.factor(step) for step in steps]}


def new_folder(path: Path, setup: Setup, source: str | None, records: Mapping[str, Any] = {}) -> RunFolder:
    """Make the run folder with all that is known before training; it appears whole or not at all."""
    with RunFolder.making(path) as folder:
        folder.write_text("recipe.toml", recipe_text.to_toml(setup.recipe))
        folder.write_json("environment.json", environment(setup, source))
        folder.write_json("splits.json", splits_of(setup))
        folder.write_json("schedule.json", _planned_rates(setup))
        for name, record in records.items():
            folder.write_json(name, record)
        if setup.preprocessing is not None:
            setup.preprocessing.save(folder.path)
        if setup.card is not None:
            folder.write_json("pretrained.json", setup.card.to_json())
        if pictures := augmented_sheet.sheet(setup):
            folder.write_tensors("augmented.safetensors", pictures)
    return RunFolder(path)


def environment(setup: Setup, source: str | None) -> dict[str, Any]:
    """Where and with what a run is made; `data` is what `resume` opens again."""
    here = source is not None and source not in embedded.NAMES and Path(source).expanduser().exists()
    return {
        "ravine": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(setup.device),
        "gpu": torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        **({} if setup.card is None else {"weights": pretrained.fingerprint(setup.network)}),
        "command": sys.argv,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "data": str(Path(source).expanduser().resolve()) if here and source else source,
    }


def default_path(data: str) -> Path:
    """Where a run on these data is left if nobody says where: `runs/DATA-DATE-TIME`."""
    name = re.sub(r"[^\w.-]+", "-", data)
    path = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")
