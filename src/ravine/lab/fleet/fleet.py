"""Many trainings as one: K members, each its own recipe, none touched by the others."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import NotFiniteError, RunError
from ...randomness import addressed
from ...training import checkpoint
from ...training.loop import CHECKPOINT_SHARE
from ...training.recipe import Layer
from ...training.run import RecipeLike
from ...training.signals import StopNow, StopRequest
from .choice import Choice, choose
from .grouping import groups, why_not
from .member import Member
from .prepare import ModelLike, prepare
from .stack import detached
from .stacked import StackedGroup

Telling = Callable[[str], None]


Watching = Callable[[int, int], None]


def nobody(text: str) -> None:
    """Tell nobody."""


def unwatched(done: int, planned: int) -> None:
    """Nobody watches."""


class Fleet:
    """Many models trained as one.

        fleet = Fleet("mlp", "digits", [{"seed": seed, "optimizer": {"lr": rate}} for ...])
        fleet.run()
        print([member.state.best_value for member in fleet.members])
        network = fleet.network(0)

    Members that are alike but for numbers (seed, rates, momentum, decay, dropout rates, clipping limits,
    averages, penalties) are stacked: one step trains them all. Others, and those for which it is quicker, run
    in turn. Either way each member is trained as its recipe would be alone: to rounding without noise, in
    distribution with noise. A member that goes bad is failed alone; one that ends early costs no more.

    Attributes:
        members: in the order given. Each has its `state`, its evaluations `rows` and the reason it `failed`.
        choices: how each group ran and why, in words, by the names of its members.
    """

    def __init__(
        self,
        model: ModelLike,
        data: Any,
        members: int | Sequence[Layer],
        recipe: RecipeLike = None,
        *,
        settings: Sequence[Layer] = (),
        trust: bool = False,
        folder: str | Path | None = None,
        keep: Collection[int] = (),
        tell: Telling = nobody,
        watch: Watching = unwatched,
    ) -> None:
        """Open the data once and make every member.

        Args:
            model: a model's name; a function without arguments that makes a network; None for the recipe's.
            data: as for `ravine.train`.
            members: the settings of each, over the recipe's, as nested dictionaries; or how many, which then
                differ by their seeds.
            recipe: as for `ravine.train`.
            settings: further settings of all members.
            trust: as for `ravine.train`.
            folder: where checkpoints are kept, from which `run` goes on after a kill; None keeps none.
            keep: epochs, counted from 1, after which each member's weights are kept, in `members[...].kept`.
            tell: called with a sentence for each thing that a person should know.
            watch: called after each member's epoch, with how many are done of how many at most.

        Raises:
            RavineError: as `ravine.train`, for any member, before anything is trained.
        """
        self._stop = StopRequest()
        self._tell = tell
        self._keep = frozenset(keep)
        self._watch = watch
        self._folder = None if folder is None else Path(folder)
        layers = [{"seed": seed} for seed in range(members)] if isinstance(members, int) else list(members)
        if not layers:
            raise RunError("a fleet needs a member")
        setups = prepare(model, data, recipe, layers, settings, trust=trust)
        place = self._folder or Path("fleet")
        self.members = [
            Member(f"{number:02d}", dict(layer), setup, place / "members" / f"{number:02d}", self._stop)
            for number, (layer, setup) in enumerate(zip(layers, setups, strict=True))
        ]
        self.choices: dict[tuple[str, ...], Choice] = {}
        self._saved_at, self._saving_took = time.perf_counter(), 0.0

    @property
    def signum(self) -> int:
        """The signal that stopped it; 0 where none did."""
        return self._stop.signum

    def network(self, number: int) -> nn.Module:
        """A member as a plain module with its best weights, in evaluation mode and memory of its own."""
        member = self.members[number]
        network = detached(member.setup.model)
        network.load_state_dict(member.best)
        return network.eval()

    def run(self) -> None:
        """Train every member to its end; from the newest checkpoint, where there is one.

        Raises:
            StopNow: a signal came; a checkpoint holds everything.
            RunError: the disk is full; the checkpoint before is whole; or the checkpoint is of other members.
            MemoryLimitError: one member alone does not fit.
        """
        self._restore()
        with self._stop, addressed(self.members[0].setup.recipe.seed, "run"):
            try:
                for group in groups([member for member in self.members if not member.done]):
                    self._train(group)
            except StopNow:
                self.save()
                raise
        self.save()

    def _train(self, group: list[Member]) -> None:
        names = tuple(member.name for member in group)
        choice = self.choices.get(names)
        if choice is None:
            alone = why_not(group[0]) or ("" if len(group) > 1 else "no other is like it")
            choice = Choice("in turn", alone) if alone else choose(group)
            self.choices[names] = choice
        self._tell(f"{len(group)} {'member' if len(group) == 1 else 'members'} {choice.how}: {choice.why}")
        if choice.how == "stacked":
            self._stacked(group)
        else:
            for member in group:
                self._alone(member)

    def _stacked(self, group: list[Member]) -> None:
        """Train the members of one stack; those that are done leave it."""
        while group:
            stacked = StackedGroup(group)
            while not any(member.done for member in group):
                stacked.train_epoch(self._due, self._between)
                stacked.foresee()
                for member in group:
                    self._finish_epoch(member)
                self._tell_progress()
                if self._due():
                    self._between()
            group = [member for member in group if not member.done]

    def _alone(self, member: Member) -> None:
        try:
            while not member.done:
                member.train_epoch()
                self._finish_epoch(member)
                self._tell_progress()
                if self._due():
                    self._between()
        except NotFiniteError as error:
            member.fail(error)

    def _finish_epoch(self, member: Member) -> None:
        if not member.failed:
            member.finish_epoch(self._keep)

    def _tell_progress(self) -> None:
        planned = [0 if each.done else int(each.setup.recipe.stop.epochs) for each in self.members]
        done = [each.state.epoch for each in self.members]
        self._watch(sum(done), sum(map(max, planned, done)))

    def _due(self) -> bool:
        """Whether to stop, or to save: by the recipe's interval, and never more than a share of the time."""
        if self._stop.signum:
            return True
        if self._folder is None:
            return False
        seconds = self.members[0].setup.recipe.log.checkpoint_seconds
        wait = max(seconds, self._saving_took / CHECKPOINT_SHARE)
        return time.perf_counter() - self._saved_at >= wait

    def _between(self) -> None:
        if self._stop.signum:
            raise StopNow
        self.save()

    def save(self) -> None:
        """Bring everything that is needed to go on to the disk; nothing without a folder."""
        if self._folder is None:
            return
        started = time.perf_counter()
        tensors: dict[str, Tensor] = {}
        states = []
        for member in self.members:
            own, state = member.snapshot()
            tensors |= {f"{member.name}/{name}": tensor for name, tensor in own.items()}
            kept = [
                [epoch, checkpoint.flatten(f"{member.name}/kept.{epoch}", weights, tensors)]
                for epoch, weights in member.kept.items()
            ]
            states.append({**state, "rows": member.rows, "failed": member.failed, "kept": kept})
        choices = [{"members": names, **asdict(choice)} for names, choice in self.choices.items()]
        step = sum(member.state.step for member in self.members)
        checkpoint.save(self._folder / "checkpoints", step, tensors, {"members": states, "choices": choices})
        self._saved_at = time.perf_counter()
        self._saving_took = self._saved_at - started

    def _restore(self) -> None:
        if self._folder is None:
            return
        loaded = checkpoint.load_newest(self._folder / "checkpoints", self._tell)
        if loaded is None:
            return
        tensors, state = loaded
        if len(state["members"]) != len(self.members):
            raise RunError(
                f"the checkpoint in {self._folder} is of {len(state['members'])} members, not of "
                f"{len(self.members)}"
            )
        for member, kept in zip(self.members, state["members"], strict=True):
            prefix = f"{member.name}/"
            own = {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
            member.restore(own, kept)
            member.rows, member.failed = kept["rows"], kept["failed"]
            member.kept = {epoch: checkpoint.unflatten(told, tensors) for epoch, told in kept["kept"]}
        for told in state["choices"]:
            self.choices[tuple(told["members"])] = Choice(told["how"], told["why"])
