"""Fine-tuning (T28): measured, decided, trained, and compared with training from scratch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ...errors import ModelError, RecipeError
from ...memory import memory_told
from ...registry import names
from ...training import run
from ...training.progress import Progress
from ...training.recipe import Layer
from ...training.run_folder import RunFolder
from ...training.settings import PRETRAINED
from ...training.setup import Setup
from ...training.signals import StopRequest
from ..fleet.choice import seconds_in_turn
from ..fleet.member import Member
from . import advice
from .advice import How
from .probes import Depth, probe

RECIPE = "finetune"
RECORD, SCRATCH = "transfer.json", "scratch"

Asked = Literal["auto", "head", "top", "all"]


def finetune(
    data: Any,
    source: str,
    how: Asked = "auto",
    *,
    recipe: run.RecipeLike = RECIPE,
    settings: Sequence[Layer] = (),
    out: str | Path | None = None,
    trust: bool = False,
    progress: Progress = run.SILENT,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train on from a pretrained network, and leave a run folder.

    Of images to classify, each depth of the network is probed first. "auto" then tries the entries of the
    table of advice for a while on 70 % of the training part, and takes the one that predicts the rest best.
    At the end a network of the same kind is trained from scratch for as long, in OUT/scratch.

    Args:
        data: as for `ravine.train`.
        source: the pretrained network: its name in the zoo, a file, a run folder, `hf:`, `timm:` or
            `torchvision:NAME`.
        how: "head": the new last layer alone; "top": the layers above the depth whose features tell the
            classes apart best; "all"; or "auto". A language model is trained whole.
        recipe: as for `ravine.train`.
        settings: further settings that win over the recipe's.
        out: the run folder to make; by default `runs/DATA-DATE-TIME`.
        trust: as for `ravine.train`.
        progress: whom to tell of the training.
        tell: called with a sentence for each thing that was measured or decided.

    Returns:
        the run folder, with `transfer.json`: the probes, the ways that were tried, and the decision.

    Raises:
        ModelError: the network cannot be opened, or does not fit the data; a language model's head alone.
        RunError: `out` exists, or cannot be written.
        RavineError: as `ravine.train`.
    """
    if out is not None:
        RunFolder.refuse_existing(Path(out))
    chosen: list[Layer] = [{"transfer": {"source": source}}, *settings]
    if _train_of(chosen) and how != "auto":
        raise RecipeError([f"transfer.train: --how {how} says it, too; give one of them"])
    with memory_told():
        setup = run.make_setup(None, data, recipe, settings=chosen, trust=trust)
    started = time.perf_counter()
    found, tried, way = _decided(setup, how, chosen, data, recipe, trust, tell)
    measuring = time.perf_counter() - started
    with memory_told():
        setup = run.make_setup(None, data, recipe, settings=[*chosen, way], trust=trust, like=setup)
    record: dict[str, Any] = {
        "card": setup.card and setup.card.to_json(),
        "asked": how,
        "train": setup.recipe.transfer.train,
        "body": setup.recipe.transfer.body,
        "items": setup.facts["items"]["train"],
        "classes": len(setup.facts["classes"]),
        "depths": [asdict(depth) for depth in found],
        "tried": [asdict(candidate) for candidate in tried],
        "measuring": round(measuring, 2),
    }
    trained = run.start(setup, data, out, records={RECORD: record}, progress=progress)
    seconds = trained.result["timing"]["training"]
    tell(f"from scratch for as long, {seconds:.0f} s, to compare")
    record["scratch"] = _from_scratch(setup, data, recipe, settings, trained.folder, seconds, trust)
    RunFolder(trained.folder).write_json(RECORD, record)
    return trained.folder


def _decided(
    setup: Setup,
    how: Asked,
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
        f"{best.accuracy:.1%} on those of {best.name}, the best"
    )
    if how != "auto":
        return found, [], advice.settings_of(how, setup, found)
    if _train_of(chosen):
        return found, [], {}
    ways: tuple[How, ...] = ("head", "top", "all")
    epochs = advice.epochs_of(setup)
    tried = advice.test(
        [(way, advice.settings_of(way, setup, found)) for way in ways],
        data, recipe, chosen, epochs, trust=trust,
    )  # fmt: skip
    for candidate in tried:
        tell(f"{candidate.how}: {candidate.accuracy:.1%} of the held-out items")
    taken = max(tried, key=lambda candidate: (candidate.accuracy, -candidate.loss))
    tell(f"trained: {taken.how}")
    return found, tried, advice.settings_of(taken.how, setup, found)


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
    same: list[Layer] = [
        *settings,
        {"transfer": {"source": ""}, "model": model, "data": {"image_size": setup.recipe.data.image_size}},
    ]
    with memory_told():
        scratch = run.make_setup(None, data, recipe, settings=same, trust=trust, like=setup)
    member = Member("scratch", {}, scratch, folder / SCRATCH, StopRequest())
    an_epoch = max(1e-6, seconds_in_turn([member])) * len(scratch.feeds["train"])
    epochs = max(1, round(seconds / an_epoch))
    with memory_told():
        scratch = run.make_setup(
            None, data, recipe, settings=[*same, {"stop": {"epochs": epochs}}], trust=trust, like=scratch
        )
    done = run.start(scratch, data, folder / SCRATCH)
    part = "test" if "test" in done.result else "validation"
    return {
        **done.result.get(part, {}),
        "epochs": epochs,
        "seconds": done.result["timing"]["training"],
        "model": model["name"] if alike else "auto",
    }


def _train_of(layers: Sequence[Layer]) -> str:
    """What a person said of `transfer.train` themselves."""
    said = [layer["transfer"].get("train", "") for layer in layers if "transfer" in layer]
    return next((name for name in reversed(said) if name), "")
