"""A recipe as commented TOML: what `ravine recipe` prints and what a run folder keeps."""

import re
from collections.abc import Mapping
from typing import Any

import tomli_w
from pydantic import BaseModel

from . import settings
from .recipe import PART_SECTIONS, Recipe


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, a comment behind each key; the text is itself a valid recipe file.

    An optimizer named by an address is imported for its comments.
    """
    lines = [_line(key, getattr(recipe, key), _comment(recipe, key)) for key in _plain(recipe)]
    for key in Recipe.model_fields:
        section = getattr(recipe, key)
        if isinstance(section, BaseModel):
            lines += ["", f"[{key}]  # {(type(section).__doc__ or '').strip()}", *_section(key, section)]
    return "\n".join(lines) + "\n"


def _plain(model: BaseModel) -> list[str]:
    return [key for key in type(model).model_fields if not isinstance(getattr(model, key), BaseModel)]


def _section(kind: str, section: Any) -> list[str]:
    lines = [_line(key, getattr(section, key), _comment(section, key)) for key in _plain(section)]
    if kind not in PART_SECTIONS:
        return lines
    readable = settings.is_readable(kind, section.name)
    meanings: Mapping[str, str] = settings.descriptions(kind, section.name) if readable else {}
    chosen = (settings.defaults(kind, section.name) if readable else {}) | section.settings
    return lines + [_line(key, value, meanings.get(key, "")) for key, value in chosen.items()]


def _comment(model: BaseModel, key: str) -> str:
    return type(model).model_fields[key].description or ""


def _line(key: str, value: Any, comment: str) -> str:
    """`key = value`, with the comment aligned behind it."""
    assignment = f"{_key(key)} = {_value(value)}"
    return f"{assignment:<32}# {comment}" if comment else assignment


def _value(value: Any) -> str:
    """A value on one line; tomli_w alone would spread lists, and tables, over several."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").removesuffix("\n")


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _value(key)
