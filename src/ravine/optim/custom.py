"""Optimizer classes made from rules: what `Rule.optimizer` gives."""

from collections.abc import Iterator, Sequence
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Unpack, cast

from torch import Tensor

from ..docstrings import meanings, summary
from .base import Number, Parameters, RuleOptimizer
from .kernels.surroundings import Surroundings
from .optimizers.checks import check, check_lr
from .optimizers.decay import coupled_or_decoupled
from .optimizers.values import numbers
from .options import DEFAULTS, Group, Options
from .rule import Rule


class Argument(NamedTuple):
    """An argument that every class made from a rule takes."""

    default: Any
    annotation: Any
    meaning: str
    kind: Any = Parameter.KEYWORD_ONLY


BY_POSITION = Parameter.POSITIONAL_OR_KEYWORD

COMMON = {
    "weight_decay": Argument(0.0, Number, "at least 0; an L2 penalty, or decoupled.", BY_POSITION),
    "decoupled_weight_decay": Argument(
        False, bool, "shrink x by lr·weight_decay instead of adding to the gradient (AdamW).", BY_POSITION
    ),
    "maximize": Argument(False, bool, "climb instead."),
    "capturable": Argument(False, bool, "keep step counts on the device, for graph capture."),
    "differentiable": Argument(False, bool, "let autograd see the step."),
}
RESERVED_STATE = ("average", "remainder", "step")


class CustomOptimizer(RuleOptimizer):
    """Base of the classes made from a rule.

    Attributes:
        source: the rule.
    """

    source: ClassVar[Rule]

    if TYPE_CHECKING:  # each class has a signature of its own, which no type checker can know

        def __init__(self, params: Parameters, *hyperparameters: Any, **options: Any) -> None: ...

    def rule(self, group: Group) -> Rule:
        """The rule that the class is made from."""
        return self.source

    def hyperparameters(self, group: Group, t: Any, *others: Any) -> Sequence[Any]:
        """The group's, in the rule's order."""
        return numbers(group, *self.source.hyperparameters)

    def surroundings(self, group: Group, lr: Any, *, first: bool) -> Surroundings:
        """Weight decay is coupled, or decoupled as in AdamW."""
        return coupled_or_decoupled(group, lr)


def made_from(rule: Rule) -> type[CustomOptimizer]:
    """The class of a rule; `Rule.optimizer` keeps it.

    Raises:
        TypeError: as `Rule.optimizer`.
    """
    _refuse_clashes(rule)
    signature = Signature(sorted(_parameters(rule), key=lambda each: each.kind))

    def initialize(self: CustomOptimizer, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        del values["self"]
        params, options = values.pop("params"), values.pop("options")
        _check(rule, values)
        RuleOptimizer.__init__(self, params, values, **options)

    # What `inspect.signature` and `typing.get_type_hints` read.
    initialize.__signature__ = signature  # type: ignore[attr-defined]
    initialize.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    del initialize.__annotations__["self"]
    name = "".join(word[:1].upper() + word[1:] for word in rule.name.split("_"))
    body = {"__init__": initialize, "__doc__": _docstring(rule), "source": rule}
    made = cast(type[CustomOptimizer], type(name, (CustomOptimizer,), body))
    # Where pickle finds the class again: as `optimizer` of the rule, which its module holds.
    made.__module__, made.__qualname__ = rule.__module__, f"{rule.__reduce__()}.optimizer"
    return made


def _parameters(rule: Rule) -> Iterator[Parameter]:
    yield Parameter("self", BY_POSITION)
    yield Parameter("params", BY_POSITION, annotation=Parameters)
    for name in rule.hyperparameters:
        default = rule.defaults.get(name, Parameter.empty)
        # One without a default may not follow one that has it: it is given by name.
        kind = BY_POSITION if name in ("lr", *rule.defaults) else Parameter.KEYWORD_ONLY
        yield Parameter(name, kind, default=default, annotation=Number)
    for name, each in COMMON.items():
        yield Parameter(name, each.kind, default=each.default, annotation=each.annotation)
    yield Parameter("options", Parameter.VAR_KEYWORD, annotation=Unpack[Options])


def _refuse_clashes(rule: Rule) -> None:
    for key in rule.state:
        if key in RESERVED_STATE:
            raise TypeError(
                f"the rule {rule.name!r} keeps a state {key!r}, as every optimizer does: rename it"
            )
    for name in rule.hyperparameters:
        if name in ("self", "params", "options", *COMMON, *DEFAULTS):
            raise TypeError(
                f"the rule {rule.name!r} has a hyperparameter {name!r}, as every optimizer has: rename it"
            )
    for name, default in rule.defaults.items():
        _check_number(f"the default of {name} in the rule {rule.name!r}", default)


def _check(rule: Rule, values: dict[str, Any]) -> None:
    for name in (*rule.hyperparameters, "weight_decay"):
        _check_number(name, values[name])
    check_lr(values["lr"])
    check("weight_decay value", values["weight_decay"])


def _check_number(what: str, value: Any) -> None:
    if not isinstance(value, int | float | Tensor):
        raise TypeError(f"{what} must be a number, or a tensor of one value a member, not {value!r}")


def _docstring(rule: Rule) -> str:
    """The rule's own first paragraph, its state, and what each argument means."""
    told = {"lr": "learning rate, at least 0.", **meanings(rule.__doc__)}
    lines = [summary(rule.__doc__) or f"The rule `{rule.name}` as an optimizer.", ""]
    if rule.state:
        lines += [f"The state is {', '.join(repr(key) for key in rule.state)}.", ""]
    lines += ["Args:", "    params: parameters, named parameters or groups."]
    lines += [f"    {name}: {told.get(name, 'a number of the rule.')}" for name in rule.hyperparameters]
    lines += [f"    {name}: {each.meaning}" for name, each in COMMON.items()]
    lines += ["    **options: as in `ravine.optim.options.Options`."]
    return "\n".join(lines)
