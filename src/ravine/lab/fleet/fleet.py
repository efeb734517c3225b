"""Many trainings as one: K members, each its own recipe, none touched by the others."""

import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ... import files
from ...errors import NotFiniteError, RunError, nearest
from ...memory import collection_postponed, is_memory_error, memory_told
from ...randomness import addressed
from ...training import checkpoint
from ...training.loop import CHECKPOINT_SHARE
from ...training.recipe import Layer
from ...training.run import RecipeLike
from ...training.signals import StopNow, StopRequest
from . import processes, ray_workers, sharing
from .choice import Choice, choose
from .grouping import groups, why_not
from .member import Member
from .prepare import ModelLike, epochs_of, layers_of, prepare
from .processes import Processes, UnableError, obstacle, start_takes
from .ray_workers import RayWorkers
from .stacked import StackedGroup
from .worker import Anew, Order, Share, Telling

Tell = Callable[[str], None]

Watching = Callable[[int, int], None]

Engine = Literal["auto", "ray"]

WORKERS = "workers"
"""Where a fleet's folder has those of its workers, while they train."""


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
    in turn. On a CPU a long training is shared out among processes, one a core (as many as
    `torch.get_num_threads()`), where that is quicker; elsewhere than on Linux only where what the fleet is
    made of can be sent to them: a model by name or by a function that can be imported. With `engine="ray"` it
    is shared out among Ray workers, one a CPU of the cluster, on machines that need no disk in common: each
    reads the data by their path or name, and sends its checkpoints to this process. Whichever way, each
    member is trained as its recipe would be alone: to rounding without noise, in distribution with noise. A
    member that goes bad is failed alone; one that ends early costs no more.

    Attributes:
        members: in the order given. Each has its `state`, its evaluations `rows` and the reason it `failed`.
        choices: how each group ran and why, in words, by the names of its members; with several workers, how
            the part of it ran that each of them had.
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
        engine: Engine = "auto",
        tell: Tell = nobody,
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
            engine: "auto" trains here or in processes, whichever is quicker; "ray" in Ray workers of the
                cluster that this process is connected to, or else of the one that `ray.init()` finds or
                starts.
            tell: called with a sentence for each thing that a person should know.
            watch: called after each member's epoch, or from workers a few times a second, with how many are
                done of how many at most.

        Raises:
            RavineError: as `ravine.train`, for any member, before anything is trained; or there is no such
                engine, it is not installed, or it cannot train these members.
        """
        began = time.perf_counter()
        if engine not in get_args(Engine):
            known = " and ".join(get_args(Engine))
            raise RunError(
                f"no engine is called {engine!r}{nearest(str(engine), get_args(Engine))}; there are {known}"
            )
        self._ray = engine == "ray"
        if self._ray:
            ray_workers.require()
        self._stop = StopRequest()
        self._tell = tell
        self._keep = epochs_of(keep)
        self._watch = watch
        self._folder = None if folder is None else Path(folder)
        layers = layers_of(members)
        with collection_postponed():
            setups = prepare(model, data, recipe, layers, settings, trust=trust)
        if self._ray:
            ray_workers.refuse(setups)
        place = self._folder or Path("fleet")
        self.members = [
            Member(f"{number:02d}", dict(layer), setup, place / "members" / f"{number:02d}", self._stop)
            for number, (layer, setup) in enumerate(zip(layers, setups, strict=True))
        ]
        self.choices: dict[tuple[str, ...], Choice] = {}
        self._order = Order(model, data, recipe, settings, trust, self._keep).for_elsewhere()
        self._shares: list[list[str]] = []
        self._put: Callable[..., object] = checkpoint.save
        self._saved_at, self._saving_took = time.perf_counter(), 0.0
        self._making_took = self._saved_at - began

    @property
    def signum(self) -> int:
        """The signal that stopped it; 0 where none did."""
        return self._stop.signum

    def network(self, number: int) -> nn.Module:
        """A member as a plain module with its best weights, in evaluation mode and memory of its own."""
        member = self.members[number]
        network = copy.deepcopy(member.setup.model)
        network.load_state_dict(member.best)
        return network.eval()

    def run(self) -> None:
        """Train every member to its end; from the newest checkpoint, where there is one.

        Raises:
            StopNow: a signal came; a checkpoint holds everything.
            RunError: the disk is full; the checkpoint before is whole; or the checkpoint is of other members;
                or a worker was killed again and again.
            MemoryLimitError: one member alone does not fit into the memory.
        """
        self._restore()
        # Ray hears signals in a way of its own: within, they are heard as everywhere.
        with ray_workers.connected() if self._ray and self._left else nullcontext(), self._running():
            shared = self._trained_in_workers()
        if not shared:
            self.run_here()

    def run_here(self) -> None:
        """Train every member to its end in this process, from where it is; else as `run`."""
        with self._running():
            for group in groups(self._left):
                with memory_told():
                    self._train(group)
        self.save()

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Within, signals are heard; one that stops it leaves a checkpoint."""
        with self._stop, addressed(self.members[0].setup.recipe.seed, "run"):
            try:
                yield
            except StopNow as stopped:
                if stopped.whole:  # else a full-batch step of a member was left in its midst
                    self.save()
                raise

    @property
    def _left(self) -> list[Member]:
        """The members that train on."""
        return [member for member in self.members if not member.done]

    def _trained_in_workers(self) -> bool:
        """Train all members in Ray workers; or in processes, if that is quicker and nothing is in the way."""
        if not (shares := self._shared_out()):
            return False
        self._shares = [[member.name for member in share] for share in shares]
        self.save()
        own = self._folder and nullcontext(self._folder / WORKERS)
        with own or tempfile.TemporaryDirectory(prefix="ravine-") as place:
            try:
                try:
                    self._in_workers(shares, Path(place))
                finally:
                    self._take_in(Path(place))
            except UnableError as error:
                self._tell(f"all members are trained in one process: {error}")
                self._choose_anew()
                return False
        self._tell_progress()
        self.save()
        return True

    def _shared_out(self) -> list[list[Member]]:
        """The members of each worker, as they were before a kill, too; empty where all are trained here."""
        left = {member.name: member for member in self._left}
        if not left:
            return []
        if self._shares:
            shares = [[left[name] for name in names if name in left] for names in self._shares]
            if self._ray or (len(shares) <= sharing.cores() and not obstacle(self._order)):
                workers = "Ray workers" if self._ray else "processes"
                self._tell(f"{len(left)} members go on in {len(shares)} {workers}")
                return [share for share in shares if share]
            self._tell(f"there are no {len(shares)} processes any more: how members run is chosen anew")
            self._choose_anew()
        shared = self._sharing(groups([*left.values()]))
        if isinstance(shared, str):
            if shared:
                self._tell(f"all members are trained in one process: {shared}")
            return []
        self._choose_anew()
        self.choices |= shared.choices
        for told in shared.told:
            self._tell(told)
        return shared.shares

    def _sharing(self, found: list[list[Member]]) -> sharing.Sharing | str:
        """The groups dealt out to workers; or why they are not, empty where that would not be quicker."""
        if self._ray:
            count = ray_workers.count(sum(map(len, found)))
            return sharing.spread(found, count, _way, "Ray workers")
        takes = start_takes(self._making_took)
        return sharing.share_out(found, self._chosen, _way, takes, lambda: obstacle(self._order))

    def _choose_anew(self) -> None:
        """Forget how the members run that train on."""
        left = {member.name for member in self._left}
        self._shares = []
        self.choices = {names: how for names, how in self.choices.items() if not left & set(names)}

    def _in_workers(self, shares: Sequence[list[Member]], place: Path) -> None:
        """Train shares in workers, whose checkpoints are at `place`."""
        sent = [self._share(share, place / str(number)) for number, share in enumerate(shares)]
        counts = [_epochs(share) for share in shares]
        others = sum(member.state.epoch for member in self.members if member.done)

        def watch(number: int, done: int, planned: int) -> None:
            counts[number] = done, planned
            self._watch(*(others + sum(each) for each in zip(*counts, strict=True)))

        crew = RayWorkers if self._ray else Processes
        crew(sent, self._stop, self._tell, watch).run()

    def _share(self, members: list[Member], folder: Path) -> Share:
        """What a worker needs to train some of the members."""
        names = [member.name for member in members]
        if processes.METHOD == "fork" and not self._ray:
            return Share(names, folder, lambda told: self._part(members, folder, told))
        self._write(folder, members, [])
        first, data = self.members[0], members[0].setup.dataset
        assert data is not None
        anew = Anew(
            self._order,
            [member.layer for member in members],
            names,
            [member.folder.path for member in members],
            None if members[0] is first else first.setup.recipe.split_seed,
            folder,
            torch.get_default_dtype(),
            data.fingerprint,
        )
        return Share(names, folder, anew)

    def _part(self, members: list[Member], folder: Path, told: Telling) -> "Fleet":
        """A fleet of some of the members, in a process that has them as they are here."""
        part = copy.copy(self)
        part.members, part._folder, part._shares = members, folder, []
        part._tell, part._watch = lambda text: told.send("tell", text), told.watch
        part._saved_at = time.perf_counter()
        part._restore()
        return part

    def _take_in(self, place: Path) -> None:
        """The members as workers left them."""
        with collection_postponed():
            for folder in sorted(place.glob("*/checkpoints")):
                if loaded := checkpoint.load_newest(folder, self._tell):
                    self._take(*loaded)

    def _chosen(self, group: list[Member]) -> Choice:
        """How a group runs: as when there were more of it, so that it goes on bit for bit."""
        names = tuple(member.name for member in group)
        known = [choice for told, choice in self.choices.items() if set(names) <= set(told)]
        if not known:
            known = [_way(group)]
            self.choices[names] = known[0]
        return known[-1]

    def _train(self, group: list[Member]) -> None:
        """Train a group to its end; where the memory does not hold all of it, in halves."""
        try:
            self._train_together(group)
        except (MemoryError, RuntimeError) as error:
            left = [member for member in group if not member.done]
            if len(left) < 2 or not is_memory_error(error):
                raise
            self._tell(f"{len(left)} members at once do not fit into the memory: they go on in two halves")
            for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                self._train(half)

    def _train_together(self, group: list[Member]) -> None:
        choice = self._chosen(group)
        self._tell(f"{len(group)} {'member' if len(group) == 1 else 'members'} {choice.how}: {choice.why}")
        if choice.how == "in turn":
            for member in group:
                self._alone(member)
        else:
            self._stacked(group, compiled=choice.how == "compiled")

    def _stacked(self, group: list[Member], *, compiled: bool) -> None:
        """Train the members of one stack; those that are done leave it."""
        while group:
            # What members are left after others is not worth compiling anew.
            whole = tuple(member.name for member in group) in self.choices
            stacked = StackedGroup(group, compiled=compiled and whole)
            while not any(member.done for member in group):
                with stacked.threads():
                    stacked.train_epoch(self._due, self._between)
                    stacked.foresee()
                # A signal may come meanwhile: all members are at one place then, as those of a stack must be.
                for member in group:
                    if not member.failed:
                        member.foresee()
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
        self._watch(*_epochs(self.members))

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
        self._write(self._folder, self.members, self._shares)
        # What is left there of workers is in the members, from where it was written now.
        shutil.rmtree(self._folder / WORKERS, ignore_errors=True)
        self._saved_at = time.perf_counter()
        self._saving_took = self._saved_at - started

    def _write(self, folder: Path, members: Sequence[Member], shares: list[list[str]]) -> None:
        """A checkpoint of some of the members, and by which of them processes share them."""
        tensors: dict[str, Tensor] = {}
        states = []
        for member in members:
            own, state = member.snapshot()
            tensors |= {f"{member.name}/{name}": tensor for name, tensor in own.items()}
            kept = [
                [epoch, checkpoint.flatten(f"{member.name}/kept.{epoch}", weights, tensors)]
                for epoch, weights in member.kept.items()
            ]
            more = {"name": member.name, "rows": member.rows, "failed": member.failed, "kept": kept}
            states.append({**state, **more})
        known = {
            "members": states,
            "choices": [{"members": names, **asdict(choice)} for names, choice in self.choices.items()],
            "shares": shares,
            "data": self._data(),
        }
        step = sum(member.state.step for member in members)
        self._put(folder / "checkpoints", step, tensors, known)

    def _restore(self) -> None:
        if self._folder is None:
            return
        files.make_folder(self._folder)  # or it is known now, and not at the first checkpoint
        loaded = checkpoint.load_newest(self._folder / "checkpoints", self._tell)
        if loaded is None:
            return
        tensors, state = loaded
        if len(state["members"]) != len(self.members):
            raise RunError(
                f"the checkpoint in {self._folder} is of {len(state['members'])} members, not of "
                f"{len(self.members)}"
            )
        if state.get("data", self._data()) != self._data():
            raise RunError(
                f"the data have changed since the fleet in {self._folder} was begun: bring the old ones "
                "back, or begin another in another folder"
            )
        self._shares = state["shares"]
        self._take(tensors, state)
        self._take_in(self._folder / WORKERS)

    def _data(self) -> str | None:
        """What tells the members' data from others; None for batches from Python."""
        dataset = self.members[0].setup.dataset
        return None if dataset is None else dataset.fingerprint

    def _take(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The members of a checkpoint, and how they run."""
        by_name = {member.name: member for member in self.members}
        for kept in state["members"]:
            member = by_name[kept["name"]]
            if (kept["state"]["step"], kept["state"]["epoch"]) < (member.state.step, member.state.epoch):
                continue  # it is older than what was taken before
            prefix = f"{member.name}/"
            own = {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
            try:
                member.restore(own, kept)
            except RunError as error:
                raise RunError(
                    f"the fleet in {self._folder} was begun with other settings or networks: go on with the "
                    f"same ones, or begin another in another folder (member {member.name})"
                ) from error
            member.rows, member.failed = kept["rows"], kept["failed"]
            member.kept = {epoch: checkpoint.unflatten(told, tensors) for epoch, told in kept["kept"]}
        for told in state["choices"]:
            choice = Choice(told["how"], told["why"], told["seconds"])
            self.choices[tuple(told["members"])] = choice


def _way(group: list[Member]) -> Choice:
    """How a group runs in this process, by a look at it."""
    alone = why_not(group[0])
    return Choice("in turn", alone) if alone else choose(group)


def _epochs(members: Sequence[Member]) -> tuple[int, int]:
    """How many epochs of the members are done, of how many at most."""
    planned = [0 if each.done else int(each.setup.recipe.stop.epochs) for each in members]
    done = [each.state.epoch for each in members]
    return sum(done), sum(map(max, planned, done))
