"""Ravine trains neural networks well, and shows why.

    import ravine

    run = ravine.train(model, data, {"stop": {"epochs": 20}})
    model = ravine.load(run.folder)

Everything is loaded when it is first used: `import ravine` alone imports neither torch nor plotly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import load, load_predictor, resume, train
    from .training.run import Run

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "load", "load_predictor", "resume", "train"]

_HOMES = {"train": ".api", "resume": ".api", "load": ".api", "load_predictor": ".api", "Run": ".training.run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    if name in ("generalize", "lab", "optim", "show", "training"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
