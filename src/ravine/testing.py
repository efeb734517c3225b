"""Checks for update rules of one's own.

from ravine.testing import check_rule

print(check_rule(sign_momentum))
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .optim.base import RuleOptimizer
from .optim.engines import interprets, triton_obstacle
from .optim.kernels import rounding
from .optim.kernels.surroundings import Surroundings
from .optim.kernels.trace import trace
from .optim.rule import Rule

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SHAPES: tuple[tuple[int, ...], ...] = (
    *((), (0,), (1,), (2,), (7,), (8,), (9,), (31,), (33,), (1023,), (1025,)),
    *((5, 3), (2, 3, 4, 5)),
)
"""Tails of every length that vectors have; the last two are transposed and channels-last."""

STEPS = 6
SAVED, RATE_CHANGED, NOT_FINITE = 2, 3, 4
"""The steps before which the state is saved, the rate is changed, gradients cease to be finite."""

SLACK = 8.0
"""Roundings of each input that an engine's arithmetic may amount to."""


@dataclass(frozen=True)
class RuleCheck:
    """What `check_rule` found, all of it good; `str()` tells it in a line an engine.

    Attributes:
        name: of the rule or class.
        engines: those that agree with the rule in float64.
        absent: those that could not be tried, and why.
        dtypes: of the parameters that were tried.
    """

    name: str
    engines: tuple[str, ...]
    absent: Mapping[str, str]
    dtypes: tuple[torch.dtype, ...]

    def __str__(self) -> str:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)
        lines = [f"{self.name}: {STEPS} steps, {len(SHAPES)} shapes, {kinds}"]
        lines += [f"  {engine:<6} agrees with the rule in float64" for engine in self.engines]
        lines += [f"  {engine:<6} not tried: {reason}" for engine, reason in self.absent.items()]
        return "\n".join(lines)


def check_rule(
    rule: Rule | type[RuleOptimizer],
    *,
    engines: Sequence[str] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    **arguments: Any,
) -> RuleCheck:
    """Test a rule against itself in float64, in every engine there is.

    Each engine takes a few steps with parameters of each dtype and of sizes that leave every kind of tail.
    Before each step the rule is run in float64, by torch's operators, from where the engine stands; what
    differs by more than rounding its inputs would explain is an error. In between the learning rate is
    changed and some gradients are made infinite and not-a-number. Also tried: gradients are left as they
    are; the state has the parameters' shape and float32 at least; a checkpoint goes on exactly.

    Args:
        rule: a rule, or a class of `ravine.optim` that steps element by element.
        engines: of "eager", "cpu" and "gpu"; by default all that run here. Triton's interpreter
            (TRITON_INTERPRET=1) runs "gpu" without one.
        dtypes: of the parameters.
        **arguments: the optimizer's, such as lr; hyperparameters without default must be given.

    Raises:
        AssertionError: with engine, dtype, shape, step, element and both values.
        TypeError: this is no rule and no such class, or it lacks an argument.
        RuntimeError: an engine that was asked for cannot run here.
    """
    subject = _Subject(rule.optimizer if isinstance(rule, Rule) else rule, arguments)
    name = rule.name if isinstance(rule, Rule) else rule.__name__
    obstacles = subject.obstacles()
    chosen = tuple(engines) if engines is not None else tuple(e for e, why in obstacles.items() if not why)
    for engine in chosen:
        if obstacles.get(engine, "there is no such engine"):
            raise RuntimeError(f"{engine}: {obstacles.get(engine, 'there is no such engine')}")
    for engine in chosen:
        for dtype in dtypes:
            try:
                _Trial(subject, name, engine, dtype).run()
            except Exception as error:
                if isinstance(error, AssertionError) or not subject.cannot_compile:
                    raise
                # What the rule does with symbols says more than what it does with tensors.
                raise AssertionError(f"{name} cannot run: {subject.cannot_compile}") from error
    absent = {engine: why for engine, why in obstacles.items() if why and engines is None}
    return RuleCheck(name, chosen, absent, tuple(dtypes))


class _Subject:
    """An optimizer class with its arguments."""

    def __init__(self, made: type[RuleOptimizer], arguments: Mapping[str, Any]) -> None:
        if not (isinstance(made, type) and issubclass(made, RuleOptimizer)) or made.redirects:
            raise TypeError(f"{made!r} is no rule, and no optimizer that steps element by element")
        self.made = made
        self.arguments = dict(arguments)
        optimizer = self.optimizer([torch.zeros(1, requires_grad=True)], "eager")
        self.cannot_compile = ""
        try:
            trace(optimizer.rule(optimizer.param_groups[0]), Surroundings().structure())
        except Exception as error:  # noqa: BLE001 - whatever a user's function does with symbols
            self.cannot_compile = str(error)

    def optimizer(self, parameters: Sequence[Tensor], engine: str) -> RuleOptimizer:
        make: Any = self.made
        optimizer: RuleOptimizer = make(parameters, **self.arguments, engine=engine)
        return optimizer

    def obstacles(self) -> dict[str, str]:
        """Why each engine cannot run here; an empty text for those that can."""
        if self.cannot_compile:
            reason = f"the rule cannot be compiled: {self.cannot_compile}"
            return {"eager": "", "cpu": reason, "gpu": reason}
        if interprets():
            gpu = triton_obstacle(torch.device("cpu"))
        elif torch.cuda.is_available():
            gpu = triton_obstacle(torch.device("cuda"))
        else:
            gpu = "there is no GPU here; TRITON_INTERPRET=1 runs it without one"
        return {"eager": "", "cpu": "", "gpu": gpu}


Columns = dict[str, Tensor]
"""Values of all parameters one after another, by what they are: "x", "dx", and the keys of the state."""


@dataclass
class _Trial:
    """One engine with parameters of one dtype."""

    subject: _Subject
    name: str
    engine: str
    dtype: torch.dtype
    parameters: list[Tensor] = field(default_factory=list)

    def run(self) -> None:
        device = torch.device("cuda" if self.engine == "gpu" and not interprets() else "cpu")
        random = torch.Generator().manual_seed(0)
        self.parameters = [
            _laid_out(torch.randn(shape, generator=random, dtype=torch.float64).to(device, self.dtype))
            for shape in SHAPES
        ]
        for parameter in self.parameters:
            parameter[torch.rand(parameter.shape, generator=random).to(device) < 0.1] = 0
            parameter.requires_grad_()
        optimizer = self.subject.optimizer(self.parameters, self.engine)
        saved: dict[str, Any] = {}
        values: list[Tensor] = []
        gradients = []
        for step in range(1, STEPS + 1):
            if step == RATE_CHANGED:
                optimizer.param_groups[0]["lr"] *= 0.5
            if step == SAVED + 1:
                saved = copy.deepcopy(optimizer.state_dict())
                values = [parameter.detach().clone() for parameter in self.parameters]
            gradients.append(self._gradients(random, finite=step < NOT_FINITE))
            self._step(optimizer, gradients[-1], step)
        self._check_checkpoint(saved, values, gradients[SAVED:])

    def _gradients(self, random: torch.Generator, *, finite: bool) -> list[Tensor]:
        """Normally distributed and of many magnitudes; some zero, in the end some not finite."""
        made = []
        for parameter in self.parameters:
            shape = parameter.shape
            values = torch.randn(shape, generator=random, dtype=torch.float64)
            values *= 10 ** (4 * torch.rand(shape, generator=random, dtype=torch.float64) - 3)
            values[torch.rand(shape, generator=random) < 0.1] = 0
            if not finite and values.numel() > 3:
                values.view(-1)[:3] = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
            gradient = torch.empty_like(parameter)
            made.append(gradient.copy_(values))
        return made

    def _step(self, optimizer: RuleOptimizer, gradients: list[Tensor], step: int) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        before = self._columns(optimizer)
        counters = self._counters(optimizer)
        expected = self._reference(optimizer, before, counters)
        spread = self._spread(optimizer, before, counters, expected)
        with np.errstate(
            all="ignore"
        ):  # Triton's interpreter is NumPy's arithmetic, which warns of infinities
            optimizer.step()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            assert parameter.grad is not None
            if not torch.allclose(parameter.grad, gradient, 0, 0, equal_nan=True):
                raise AssertionError(f"{self._place(parameter, step)}: the gradient was changed")
        self._check_state(optimizer, step)
        found = self._columns(optimizer)
        # What x came from first: that is where it begins.
        for key, values in reversed(expected.items()):
            self._compare(key, found[key], values, spread[key], step)

    def _columns(self, optimizer: RuleOptimizer) -> Columns:
        """All values in float64, as the rule sees them."""
        entries = [optimizer.state.get(parameter, {}) for parameter in self.parameters]
        columns: dict[str, list[Any]] = {
            "x": [
                rounding.widen(parameter.detach(), entry["remainder"]) if "remainder" in entry else parameter
                for parameter, entry in zip(self.parameters, entries, strict=True)
            ],
            "dx": [parameter.grad for parameter in self.parameters],
        }
        for key in self._keys(optimizer):
            columns[key] = [entry[key] for entry in entries]
        return {key: _joined(values) for key, values in columns.items()}

    def _keys(self, optimizer: RuleOptimizer) -> list[str]:
        """The state that has a value an element."""
        entry = optimizer.state.get(self.parameters[0], {})
        return [key for key in entry if key not in (*optimizer.counters, "step", "remainder")]

    def _counters(self, optimizer: RuleOptimizer) -> dict[str, Any]:
        entry = optimizer.state.get(self.parameters[0], {})
        return {key: copy.deepcopy(entry[key]) for key in (*optimizer.counters, "step") if key in entry}

    def _reference(self, optimizer: RuleOptimizer, before: Columns, counters: Mapping[str, Any]) -> Columns:
        """One step in float64 from the same values: one long vector, by torch's operators."""
        x = before["x"].clone().requires_grad_()
        twin = self.subject.optimizer([x], "eager")
        twin.param_groups[0].update(
            {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
        )
        x.grad = before["dx"].clone()
        state = {key: values.clone() for key, values in before.items() if key not in ("x", "dx")}
        twin.state[x].update(state | copy.deepcopy(dict(counters)))
        twin.step()
        kept = {key: value for key, value in twin.state[x].items() if isinstance(value, Tensor)}
        return {"x": x.detach()} | {key: value for key, value in kept.items() if value.shape == x.shape}

    def _spread(
        self, optimizer: RuleOptimizer, before: Columns, counters: Mapping[str, Any], expected: Columns
    ) -> Columns:
        """How far each result moves when the inputs move by what rounding may do to them."""
        wide = torch.promote_types(self.dtype, torch.float32)
        shift = SLACK * torch.finfo(wide).eps
        spread = {key: shift * values.abs() for key, values in expected.items()}
        # To and fro in turn: a norm of all together must not hide it.
        turns = 1.0 - 2 * (torch.arange(len(before["x"]), dtype=torch.float64) % 2)
        for moved in before:
            for sign in (-shift, shift):
                values = before | {moved: before[moved] * (1 + sign * turns)}
                other = self._reference(optimizer, values, counters)
                for key in spread:
                    spread[key] = spread[key] + (other[key] - expected[key]).abs()
        stored = torch.finfo(self.dtype)
        spread["x"] = spread["x"] + stored.eps * expected["x"].abs() + stored.tiny
        return {key: values.nan_to_num(0, 0, 0) + torch.finfo(wide).tiny for key, values in spread.items()}

    def _compare(self, key: str, found: Tensor, expected: Tensor, allowed: Tensor, step: int) -> None:
        alike = (found == expected) | ((found - expected).abs() <= allowed)
        alike |= found.isnan() & expected.isnan()
        if alike.all():
            return
        number = int((~alike).nonzero()[0])
        for parameter in self.parameters:
            if number < parameter.numel():
                break
            number -= parameter.numel()
            found, expected, allowed = (each[parameter.numel() :] for each in (found, expected, allowed))
        element = [int(index) for index in torch.unravel_index(torch.tensor(number), parameter.shape)]
        raise AssertionError(
            f"{self._place(parameter, step)}, element {element}: {key} is {float(found[number])!r}, "
            f"and by the rule in float64 {float(expected[number])!r}; "
            f"rounding explains {float(allowed[number]):.1e}"
        )

    def _check_state(self, optimizer: RuleOptimizer, step: int) -> None:
        wide = torch.promote_types(self.dtype, torch.float32)
        for parameter in self.parameters:
            for key in self._keys(optimizer):
                value = optimizer.state[parameter][key]
                if value.shape != parameter.shape or value.dtype != wide:
                    raise AssertionError(
                        f"{self._place(parameter, step)}: the state {key!r} has shape {tuple(value.shape)} "
                        f"and dtype {value.dtype}, not {tuple(parameter.shape)} and {wide}"
                    )

    def _check_checkpoint(
        self, saved: dict[str, Any], values: list[Tensor], gradients: list[list[Tensor]]
    ) -> None:
        """Load what was saved in mid-training, and come to the same end."""
        loaded = [value.clone().requires_grad_() for value in values]
        optimizer = self.subject.optimizer(loaded, self.engine)
        optimizer.load_state_dict(saved)
        for each in gradients:
            for parameter, gradient in zip(loaded, each, strict=True):
                parameter.grad = gradient
            with np.errstate(all="ignore"):
                optimizer.step()
        for parameter, other in zip(self.parameters, loaded, strict=True):
            if not torch.allclose(parameter, other, 0, 0, equal_nan=True):
                raise AssertionError(
                    f"{self._place(parameter, STEPS)}: a checkpoint of step {SAVED} went on to another end"
                )

    def _place(self, parameter: Tensor, step: int) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name}, engine {self.engine!r}, {dtype}, shape {tuple(parameter.shape)}, step {step}"


def _laid_out(tensor: Tensor) -> Tensor:
    """Matrices transposed in memory, batches of images with the channels last."""
    if tensor.dim() == 2:
        return tensor.t().contiguous().t()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _joined(values: Sequence[Any]) -> Tensor:
    return torch.cat([value.detach().double().cpu().reshape(-1) for value in values])
