"""What is timed: the optimizers of the registry, and variants of some that have a rule of their own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import optim, registry  # optim: fills the registry
from ...errors import RavineError, nearest

KIND = "optimizer"


@dataclass(frozen=True)
class Configuration:
    """An optimizer with settings.

    Attributes:
        name: as the command line and the table call it.
        optimizer: its name in the registry.
        settings: arguments of its class; the others keep their defaults.
        matrices_only: whether it is timed on the matrices of a set, because a peer takes nothing else.
    """

    name: str
    optimizer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    matrices_only: bool = False

    @property
    def part(self) -> type[optim.base.RuleOptimizer]:
        """The class."""
        part: type[optim.base.RuleOptimizer] = registry.lookup(KIND, self.optimizer)
        return part

    @property
    def elementwise(self) -> bool:
        """Whether a step looks at each element by itself; methods for matrices do not."""
        return not self.part.redirects


# The registry's entries stand for themselves, with their defaults. Each of these follows its entry.
VARIANTS = (
    Configuration("sgd+momentum", "sgd", {"momentum": 0.9}),
    Configuration("sgd+nesterov", "sgd", {"momentum": 0.9, "nesterov": True}),
    Configuration("rmsprop+momentum", "rmsprop", {"momentum": 0.9}),
    Configuration("rmsprop+centered", "rmsprop", {"centered": True}),
    Configuration("rmsprop+centered+momentum", "rmsprop", {"centered": True, "momentum": 0.9}),
    Configuration("amsgrad", "adam", {"amsgrad": True}),
)


def configurations() -> dict[str, Configuration]:
    """All of them by name, in the registry's order."""
    every: dict[str, Configuration] = {}
    for name in registry.names(KIND):
        if getattr(registry.lookup(KIND, name), "full_batch", False):
            continue
        every[name] = Configuration(name, name, matrices_only=name == "muon")
        every |= {variant.name: variant for variant in VARIANTS if variant.optimizer == name}
    return every


def chosen(names: Iterable[str]) -> Sequence[Configuration]:
    """Those that a person named, each once; all, where none is named.

    Raises:
        RavineError: there is no such name; the message has the nearest one.
    """
    every = configurations()
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in every:
            hint = nearest(name, every) or "; valid are " + ", ".join(every)
            raise RavineError(f"unknown optimizer {name!r}{hint}")
    return [every[name] for name in wanted or every]
