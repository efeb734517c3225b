"""Fine-tuning (T28): measured, decided, trained, and compared with training from scratch."""

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from ...errors import Interrupted, ModelError, RecipeError, RunError
from ...memory import memory_told
from ...registry import names
from ...training import run
from ...training.pretrained import ALL, HEAD, located
from ...training.progress import Progress
from ...training.recipe import Layer, merge, section
from ...training.run_folder import RunFolder
from ...training.settings import PRETRAINED
from ...training.setup import Setup
from ...training.signals import StopRequest
from ..fleet.choice import seconds_in_turn
from ..fleet.member import Member
from . import advice
from .probes import Depth, probe

RECIPE = "finetune"
RECORD, SCRATCH = "transfer.json", "scratch"

Asked = Literal["auto", "head", "top", "all"]

# How a person asks for what has no name of its own.
_SETTINGS = {
    "lower": ", as --how head --set transfer.depth={} asks for",
    "one rate": ", as --how all --set transfer.body=1 asks for",
}
_SAID = {"source": "--from", "asked": "--how", "settings": "settings"}


def finetune(
    data: Any,
    source: str | Path,
    how: Asked = "auto",
    *,
    recipe: run.RecipeLike = RECIPE,
    settings: Sequence[Layer] = (),
    out: str | Path | None = None,
    trust: bool = False,
    progress: Progress = run.SILENT,
    tell: Callable[[str], None] = lambda text: None,
    trained: Callable[[Path], object] = lambda folder: None,
) -> Path:
    """Train on from a pretrained network, and leave a run folder.

    Of images to classify, each depth of the network is probed first. "auto" then tries the entries of the
    table of advice for a while on 70 % of the training part, and takes the one that predicts the rest best.
    At the end a network of the same kind is trained from scratch for as long, in OUT/scratch: for as many
    epochs where all layers were trained, else for the seconds of the training and of cached features. What
    was stopped goes on from its last checkpoint when it is asked for again, with the same `out`.

    Args:
        data: as for `ravine.train`.
        source: the pretrained network: its name in the zoo, a file, a run folder, `hf:`, `timm:` or
            `torchvision:NAME`.
        how: "head": the new last layer alone; "top": the layers above the depth whose features tell the
            classes apart best; "all"; or "auto". A language model is trained whole.
        recipe: as for `ravine.train`.
        settings: further settings that win over the recipe's.
        out: the run folder to make, or to go on with; by default `runs/DATA-DATE-TIME`.
        trust: as for `ravine.train`.
        progress: whom to tell of the training.
        tell: called with a sentence for each thing that was measured or decided.
        trained: called with the run folder when the run is finished, before the comparison.

    Returns:
        the run folder, with `transfer.json`: the probes, the ways that were tried, and the decision.

    Raises:
        RecipeError: `how` is none of these; settings say something else than `source` and `how`.
        ModelError: no network is named, or it cannot be opened, or does not fit the data; a language model's
            head alone.
        RunError: `out` is something else, or was begun otherwise, or is all done, or cannot be written.
        Interrupted: SIGINT or SIGTERM came.
        RavineError: as `ravine.train`.
    """
    source = str(source)
    if not source:
        raise ModelError("no network is named to start from: ravine zoo list shows some")
    if how not in get_args(Asked):
        raise RecipeError([f"how: {how!r} is none of {', '.join(get_args(Asked))}"])
    said = [*_spoken(recipe), *settings]
    begun = _begun(source, how, recipe, settings)
    started = out is not None and _refuse_other(Path(out), begun)
    chosen = _chosen(source, how, said, settings)
    began = time.perf_counter()
    with memory_told():
        # The features of a head are worked out once, when it is measured how to train it.
        uncached = [{"transfer": {"cache": False}}] if how == HEAD else []
        setup = run.make_setup(None, data, recipe, settings=[*chosen, *uncached], trust=trust)
    place = Path(out) if out is not None else run.default_path(setup.facts["data"])
    begun_on = RunFolder(place).read_json("splits.json")["fingerprint"] if started else None
    if started and run.splits_of(setup)["fingerprint"] != begun_on:
        raise RunError(f"{place} was begun on other data: give those, or another --out")
    try:
        if not started:
            _train(setup, place, begun, said, chosen, data, recipe, trust, progress, tell, began)
        elif not RunFolder(place).finished:
            run.resume(place, trust=trust, progress=progress)
        trained(place)
        _compare(setup, place, data, recipe, settings, trust, tell)
    except (Interrupted, KeyboardInterrupt) as stop:
        if not place.exists():
            raise
        signum = stop.exit_code - 128 if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(
            signum,
            f"stopped; everything is kept in {place}. Go on with the same command and --out {place}",
        ) from None
    return place


def _begun(source: str, how: Asked, recipe: run.RecipeLike, settings: Sequence[Layer]) -> dict[str, Any]:
    """What a fine-tuning is begun with, as its record keeps it."""
    name, layers = run.layers_of(recipe)
    told = {"source": located(source), "asked": how, "settings": [name, *layers, *settings]}
    kept: dict[str, Any] = json.loads(json.dumps(told, default=str))
    return kept


def _chosen(source: str, how: Asked, said: Sequence[Layer], settings: Sequence[Layer]) -> list[Layer]:
    """What a person said, as settings; what they said twice is refused."""
    sources = [named for layer in said if (named := section(layer, "transfer").get("source"))]
    if sources and located(sources[-1]) != located(source):
        raise RecipeError([f"transfer.source: --from {source} says it, too; give one of them"])
    if how != "auto" and (_train_of(settings) or _train_of(said) not in ("", how)):
        raise RecipeError([f"transfer.train: --how {how} says it, too; give one of them"])
    # From the start, so that nothing is refused for the sake of layers that do not train.
    head = [_as_said(advice.HEAD_ALONE, said)] if how == HEAD else []
    return [{"transfer": {"source": source}}, *settings, *head]


def _spoken(recipe: run.RecipeLike) -> list[Layer]:
    """What a person's recipe says; that of a run from scratch says nothing of the layers to train."""
    return [
        {key: value for key, value in layer.items() if key != "transfer" or value.get("source")}
        if section(layer, "transfer").get("train") == ALL
        else layer
        for layer in run.layers_of(recipe)[1]
    ]


def _train_of(layers: Sequence[Layer]) -> str:
    """What settings say of the layers to train; empty where they say nothing."""
    return str(section(merge(layers), "transfer").get("train", ""))


def _as_said(way: Layer, said: Sequence[Layer]) -> Layer:
    """A way's settings, with those that a person gave in their place.

    A head trains in the recipe's steps where these do not go with L-BFGS.
    """
    given = merge(said)
    if way["transfer"]["train"] == HEAD and not advice.allows_lbfgs(given):
        way = {**advice.BY_STEPS, "transfer": way["transfer"]}
    own = {key: value for key, value in given.items() if key in way and key != "transfer"}
    return merge([way, own])


def _refuse_other(place: Path, begun: Mapping[str, Any]) -> bool:
    """Whether this fine-tuning was begun at a place, and is to go on.

    Raises:
        RunError: something else is there, or it is done.
    """
    if not (place / RECORD).is_file():
        RunFolder.refuse_existing(place)
        return False
    record = RunFolder.open(place).read_json(RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("asked"), str):
        raise RunError(f"{place / RECORD} is damaged: remove {place}, or give another --out")
    if "scratch" in record:
        RunFolder.refuse_existing(place)
    source = str(record.get("source"))
    if Path(source).is_absolute() and not Path(source).exists():
        raise RunError(f"{source}, which {place} was begun from, is not there any more: bring it back")
    other = [key for key, value in begun.items() if record.get(key) != value]
    if other:
        raise RunError(
            f"{place} was begun with other {' and '.join(_SAID[key] for key in other)}: go on with the same "
            "command, or give another --out"
        )
    return True


def _train(
    setup: Setup,
    place: Path,
    begun: Mapping[str, Any],
    said: Sequence[Layer],
    chosen: Sequence[Layer],
    data: Any,
    recipe: run.RecipeLike,
    trust: bool,
    progress: Progress,
    tell: Callable[[str], None],
    began: float,
) -> None:
    """Measure, decide and train."""
    started = time.perf_counter()
    found, tried, way = _decided(setup, begun["asked"], said, chosen, data, recipe, trust, tell)
    measuring = time.perf_counter() - started
    if way:
        with memory_told():
            setup = run.make_setup(None, data, recipe, settings=[*chosen, way], trust=trust, like=setup)
    record = {
        "card": setup.card and setup.card.to_json(),
        **begun,
        "train": setup.recipe.transfer.train,
        "depth": setup.recipe.transfer.depth,
        "body": setup.recipe.transfer.body,
        "items": setup.facts["items"]["train"],
        "classes": len(setup.facts["classes"]),
        "depths": [asdict(depth) for depth in found],
        "tried": [asdict(candidate) for candidate in tried],
        "measuring": round(measuring, 2),
    }
    run.start(setup, data, place, records={RECORD: record}, progress=progress, began=began + measuring)


def _compare(
    setup: Setup,
    place: Path,
    data: Any,
    recipe: run.RecipeLike,
    settings: Sequence[Layer],
    trust: bool,
    tell: Callable[[str], None],
) -> None:
    """Train from scratch for as long, and record how that went."""
    folder = RunFolder(place)
    timing = folder.read_json("result.json")["timing"]
    # Where features are cached, most of the work is working them out.
    seconds = timing["training"] + timing.get("features", 0.0)
    tell(f"from scratch for as long, {seconds:.1f} s, to compare")
    try:
        found = _from_scratch(setup, data, recipe, settings, place, seconds, trust)
    except RecipeError as error:  # of what a frozen body may have, and one that trains may not
        tell(f"by the recipe {RECIPE}, as what was asked for cannot train from scratch")
        said = section(merge([*_spoken(recipe), *settings]), "data")
        # A batch of all items belongs to the optimizer that cannot.
        cut = {key: value for key, value in said.items() if key != "batch_size"}
        own = [{"seed": setup.recipe.seed, "device": setup.recipe.device, "data": cut}]
        found = {
            **_from_scratch(setup, data, RECIPE, own, place, seconds, trust),
            "by": RECIPE,
            "refused": error.problems,
        }
    folder.write_json(RECORD, {**folder.read_json(RECORD), "scratch": found})


def _decided(
    setup: Setup,
    how: Asked,
    said: Sequence[Layer],
    chosen: Sequence[Layer],
    data: Any,
    recipe: run.RecipeLike,
    trust: bool,
    tell: Callable[[str], None],
) -> tuple[list[Depth], list[advice.Candidate], Layer]:
    """The probes, the ways that were tried, and the settings of the one to take."""
    if setup.task != "classification" or setup.facts["kind"] != "image":
        if how in ("head", "top"):
            raise ModelError(f"--how {how} is for images to classify: train all, with --how all")
        return [], [], {}
    found = probe(setup)
    best = max(found, key=lambda depth: depth.accuracy)
    tell(
        f"a linear classifier reaches {found[-1].accuracy:.1%} on the last features, "
        f"{best.accuracy:.1%} on those of {best.name}, the best, where features and classes are alike by "
        f"{best.similarity:.2f} (linear CKA)"
    )
    if how in ("auto", HEAD) and not advice.allows_lbfgs(merge(said)):
        tell("a head trains in the recipe's steps: what was asked for does not go with L-BFGS")
    if how == "auto" and _train_of(said) == HEAD:
        how = "head"
    if how != "auto":
        return found, [], _as_said(advice.settings_of(how, setup, found), said)
    if _train_of(said):
        return found, [], {}
    each_way = advice.entries(setup, found, merge(said), tell)
    ways = {each: _as_said(advice.settings_of(each, setup, found), said) for each in each_way}
    epochs = advice.epochs_of(setup)
    tried = advice.test([*ways.items()], data, recipe, chosen, epochs, trust=trust)
    for candidate in tried:
        tell(f"{candidate.how}: {candidate.accuracy:.1%} of the held-out items")
    taken = max(tried, key=lambda candidate: (candidate.accuracy, -candidate.loss))
    tell(f"trained: {taken.how}{_SETTINGS.get(taken.how, '').format(taken.depth)}")
    return found, tried, ways[taken.how]


def _from_scratch(
    setup: Setup,
    data: Any,
    recipe: run.RecipeLike,
    settings: Sequence[Layer],
    folder: Path,
    seconds: float,
    trust: bool,
) -> dict[str, Any]:
    """A network of the same kind without what it knew, trained on the same data for about as many seconds."""
    assert setup.card is not None
    alike = setup.card.architecture in names("model") and setup.recipe.model.name != PRETRAINED
    model: Layer = (
        {"name": setup.recipe.model.name, **setup.recipe.model.settings} if alike else {"name": "auto"}
    )
    asked = section(merge([*run.layers_of(recipe)[1], *settings]), "data")
    # There is nothing that it was pretrained with.
    prepared = {"preprocess": "normalize"} if asked.get("preprocess") == "pretrained" else {}
    own = {"image_size": setup.recipe.data.image_size, **prepared}
    same: list[Layer] = [
        *settings,
        {"transfer": {"source": "", "train": ALL, "depth": ""}, "model": model, "data": own},
    ]
    place = folder / SCRATCH
    if RunFolder(place).finished:
        result = RunFolder(place).read_json("result.json")
    elif place.exists():
        result = run.resume(place, trust=trust).result
    else:
        with memory_told():
            scratch = run.make_setup(None, data, recipe, settings=same, trust=trust, like=setup)
            record = RunFolder(folder).read_json(RECORD)
            whole = record["train"] == ALL and not record.get("depth")
            if alike and whole:  # an epoch takes as long
                epochs = RunFolder(folder).read_json("result.json")["epochs"]
            else:
                an_epoch = max(
                    1e-6, seconds_in_turn([Member("scratch", {}, scratch, place, StopRequest())])
                ) * len(scratch.feeds["train"])
                epochs = max(1, round(seconds / an_epoch))
            same.append({"stop": {"epochs": epochs}})
            scratch = run.make_setup(None, data, recipe, settings=same, trust=trust, like=scratch)
        result = run.start(scratch, data, place).result
    part = "test" if "test" in result else "validation"
    return {
        **result.get(part, {}),
        "epochs": result["epochs"],
        "seconds": result["timing"]["training"],
        "model": model["name"] if alike else "auto",
    }
