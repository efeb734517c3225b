"""What the page of a network on its hub says of it, for people."""

from pathlib import Path
from typing import Any

from .fetching import Place
from .libraries import library


def said(place: Place) -> dict[str, Any]:
    """The licence, the data and the source of a network by its README; what it does not say is empty.

    Returns:
        the card's `licence`, `data` and `source`.
    """
    record = _read(place.folder / "README.md")
    licence = record.get("license_name") or record.get("license")
    base = _line(record.get("base_model"))
    return {
        "licence": " ".join(filter(None, (_line(licence), _line(record.get("license_link"))))),
        "data": _line(record.get("datasets")),
        "source": f"{place.source}, made from {base}" if base else place.source,
    }


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = library("huggingface_hub").metadata_load(path)
    except (ValueError, library("yaml").YAMLError):
        return {}  # written by hand, and no reason to refuse the network
    return record or {}


def _line(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")
