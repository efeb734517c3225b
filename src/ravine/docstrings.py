"""What a docstring in Google's form says of arguments."""

import functools
import inspect
import re
from collections.abc import Mapping


@functools.cache
def meanings(docstring: str | None) -> Mapping[str, str]:
    """What the sections `Args:` and `Attributes:` say of each name, on one line each; types are left out."""
    found: dict[str, str] = {}
    text = inspect.cleandoc(docstring or "")
    for section in re.findall(r"^(?:Args|Attributes):\n((?: .*\n?|\n)*)", text, flags=re.MULTILINE):
        for key, meaning in re.findall(
            r"^ {4}(\w+)(?: \([^)]*\))?: (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE
        ):
            found[key] = " ".join(meaning.split())
    return found


def summary(docstring: str | None) -> str:
    """The first paragraph, on one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
