"""Many runs: measurements that train more than once, and many models trained as one.

`Fleet` is loaded when it is first used, because it takes most of the house along.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fleet.fleet import Fleet

__all__ = ["Fleet"]


def __getattr__(name: str) -> Any:
    if name == "Fleet":
        return import_module(".fleet.fleet", __name__).Fleet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
