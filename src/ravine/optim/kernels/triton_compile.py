"""Triton functions from text. Triton is imported here, when the first kernel is wanted."""

import functools
import hashlib
import linecache
import tempfile
import threading
from pathlib import Path
from typing import Any

_making = threading.Lock()


def compiled(text: str) -> Any:
    """The function of a text such as `triton_source` prints; Triton compiles it when it is first run."""
    import triton

    with _making:
        return _made(text, bool(triton.knobs.runtime.interpret))


@functools.cache
def _made(text: str, interpreted: bool) -> Any:
    import triton
    import triton.language as tl

    _find_cache()
    place = f"<ravine kernel {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    # Triton reads a function's source through `inspect`, which looks here first.
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    names: dict[str, Any] = {"__name__": __name__, "triton": triton, "tl": tl}
    # The interpreter cannot call what was compiled before it was turned on, but what lies beneath.
    names["add_up"] = tl.sum.fn if interpreted else tl.sum
    before = set(names)
    exec(compile(text, place, "exec"), names)
    (name,) = names.keys() - before - {"__builtins__"}
    return names[name]


@functools.cache
def _find_cache() -> "tempfile.TemporaryDirectory[str] | None":
    """Let Triton keep its kernels in a folder of this process where its own cannot be written."""
    import triton

    try:
        folder = Path(triton.knobs.cache.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError:
        temporary = tempfile.TemporaryDirectory(prefix="ravine-triton-")
        triton.knobs.cache.dir = temporary.name
        return temporary
