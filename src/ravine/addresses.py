"""What a person's own code is called by: `package.module:name`."""

import importlib
import sys
from pathlib import Path

from .errors import RavineError, nearest


def is_address(name: str) -> bool:
    """Whether a name stands for code that has to be imported."""
    return ":" in name


def find(address: str) -> object:
    """What a module holds under a name; the module is imported, which runs its code.

    A module in the current folder is found too, as `python script.py` has it.

    Raises:
        RavineError: it is no address, the module cannot be imported, or has no such name; the text begins
            with the address.
    """
    module_name, _, attribute = address.partition(":")
    if not module_name or not attribute:
        raise RavineError(f"{address!r}: write package.module:name")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        where = f"in {here} or among the installed packages"
        raise RavineError(f"{address}: there is no module {missing!r} {where}") from error
    except Exception as error:
        raise RavineError(
            f"{address}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(here)
    found: object = getattr(module, attribute, None)
    if found is None:
        hint = nearest(attribute, vars(module))
        raise RavineError(f"{address}: module {module_name!r} has no {attribute!r}{hint}")
    return found
