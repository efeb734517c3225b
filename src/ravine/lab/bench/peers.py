"""Who steps: Ravine's optimizers, torch's with the same rule, and those of other packages that are here."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.optim import Optimizer

from ...optim.base import RuleOptimizer
from . import problems
from .configurations import Configuration
from .problems import GradientFeed, Gradients, ProblemSet
from .timing import Contender

Kind = TypeVar("Kind", bound=Optimizer)

# What a package calls its implementations, by the arguments that ask for them; a class has those whose
# argument it takes.
IMPLEMENTATIONS: Mapping[str, Mapping[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
}
# A class of the same name has the same rule. These have it under another name, with these settings.
OTHER_NAMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "nadamw": ("NAdam", {"weight_decay": 1e-2, "decoupled_weight_decay": True}),
}
# optax has functions, with other names and defaults.
OPTAX: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sgd": ("sgd", {}),
    "sgd+momentum": ("sgd", {"momentum": 0.9}),
    "sgd+nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("adagrad", {}),
    "rmsprop": ("rmsprop", {"decay": 0.99}),
    "rmsprop+momentum": ("rmsprop", {"decay": 0.99, "momentum": 0.9}),
    "rmsprop+centered": ("rmsprop", {"decay": 0.99, "centered": True}),
    "rmsprop+centered+momentum": ("rmsprop", {"decay": 0.99, "centered": True, "momentum": 0.9}),
    "adam": ("adam", {}),
    "adamw": ("adamw", {"weight_decay": 1e-2}),
    "amsgrad": ("amsgrad", {}),
    "adadelta": ("adadelta", {}),
    "adamax": ("adamax", {}),
    "nadam": ("nadam", {}),
    "nadamw": ("nadamw", {"weight_decay": 1e-2}),
    "radam": ("radam", {}),
    "adan": ("adan", {}),
    "lion": ("lion", {"weight_decay": 0.0}),
    "schedule_free_sgd": ("contrib.schedule_free_sgd", {}),
    "schedule_free_adamw": ("contrib.schedule_free_adamw", {}),
}
LR = 1e-3


class Stepped(Generic[Kind]):
    """An optimizer of torch's kind, Ravine's included, with parameters of its own."""

    def __init__(
        self,
        part: Callable[..., Kind],
        settings: Mapping[str, Any],
        problem: ProblemSet,
        gradients: Gradients,
    ) -> None:
        self.parameters = problems.parameters(problem, gradients[0][0].device)
        self.optimizer = part(self.parameters, **settings)
        if hasattr(self.optimizer, "train"):  # schedule-free ones step in this mode only
            self.optimizer.train()
        self._feed = GradientFeed(gradients)

    def prepare(self) -> None:
        """Give every parameter its next gradient."""
        self._feed(self.parameters)

    def step(self) -> None:
        """One step."""
        self.optimizer.step()


class Optax:
    """A transformation of optax, compiled with its update, old values given up for the new."""

    def __init__(self, configuration: Configuration, parameters: list[Tensor], gradients: Gradients) -> None:
        jax, optax = import_module("jax"), import_module("optax")
        import_module("optax.contrib")
        function, settings = OPTAX[configuration.name]
        transformation = attrgetter(function)(optax)(LR, **settings)

        def update(values: Any, state: Any, gradients: Any) -> Any:
            changes, state = transformation.update(gradients, state, values)
            return optax.apply_updates(values, changes), state

        def arrays(tensors: list[Tensor]) -> list[Any]:
            return [jax.numpy.array(tensor.detach().cpu().numpy()) for tensor in tensors]

        self._update = jax.jit(update, donate_argnums=(0, 1))
        self._ready = jax.block_until_ready
        self._gradients = [arrays(tensors) for tensors in gradients]
        self._values: Any = arrays(parameters)
        self._state = transformation.init(self._values)
        self._turn = 0

    def prepare(self) -> None:
        """Take the next gradients."""
        self._turn = 1 - self._turn

    def step(self) -> None:
        """One step, to its end."""
        self._values, self._state = self._update(self._values, self._state, self._gradients[self._turn])
        self._ready(self._values)


def ravine(configuration: Configuration, problem: ProblemSet, gradients: Gradients) -> Stepped[RuleOptimizer]:
    """Ravine's optimizer."""
    return Stepped(configuration.part, configuration.settings, problem, gradients)


def peers(
    configuration: Configuration, problem: ProblemSet, gradients: Gradients
) -> Iterator[tuple[str, Contender]]:
    """Every implementation of the rule that is here, as "PACKAGE IMPLEMENTATION"."""
    for package, theirs, settings in _classes(configuration):
        for implementation, argument in IMPLEMENTATIONS.items():
            if not _takes(theirs, argument):
                continue
            try:
                contender = Stepped(theirs, {**settings, **argument}, problem, gradients)
            except (RuntimeError, ValueError):  # one that this device does not have
                continue
            yield f"{package} {implementation}", contender
        if not _takes(theirs, {"foreach": None}):
            yield f"{package} for-loop", Stepped(theirs, settings, problem, gradients)
    if configuration.name in OPTAX and _here("jax", "optax") and _same_device(gradients):
        values = problems.parameters(problem, gradients[0][0].device)
        yield "optax jit", Optax(configuration, values, gradients)


def _classes(
    configuration: Configuration,
) -> Iterator[tuple[str, type[Optimizer], Mapping[str, Any]]]:
    """The packages' classes with this rule, and their settings."""
    same = (configuration.part.__name__, configuration.settings)
    name, settings = OTHER_NAMES.get(configuration.name, same)
    for package, module in (("torch", "torch.optim"), ("pytorch_optimizer", "pytorch_optimizer")):
        theirs = getattr(import_module(module), name, None) if _here(package) else None
        # pytorch_optimizer hands some of torch's classes on: those are torch's.
        if theirs is not None and theirs.__module__.startswith(package) and _takes(theirs, settings):
            yield package, theirs, settings


def _takes(part: type[Optimizer], settings: Mapping[str, Any]) -> bool:
    return set(settings) <= set(inspect.signature(part).parameters)


def _here(*packages: str) -> bool:
    return all(find_spec(package) for package in packages)


def _same_device(gradients: Gradients) -> bool:
    backend = {"cpu": "cpu", "cuda": "gpu"}.get(gradients[0][0].device.type)
    return bool(import_module("jax").default_backend() == backend)
