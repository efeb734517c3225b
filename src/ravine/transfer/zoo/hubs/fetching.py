"""A pretrained network's folder: a local one, or one fetched from the Hugging Face hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import ModelError
from .libraries import library, reason, told

# No pickles, no code, and nothing of the copies for other programs that lie in folders of their own.
_FILES = ("config.json", "preprocessor_config.json", "README.md", "model*.safetensors*")
_OTHERS = ("*/*",)

_REPOSITORY = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")


@dataclass(frozen=True)
class Place:
    """Where a network's files are.

    Attributes:
        name: as a person wrote it, with its hub.
        folder: with `config.json` and safetensors.
        source: the folder, or the network's page on the hub.
        config: what is in `config.json`.
    """

    name: str
    folder: Path
    source: str
    config: dict[str, Any]


def fetched(hub: str, name: str, repository: str | None = None) -> Place:
    """The folder of a network, from the hub unless it is a local one.

    Args:
        hub: `hf` or `timm`, for messages.
        name: a local folder, or a repository on the hub.
        repository: on the hub, where it is not called like the network.

    Raises:
        ModelError: there is none, the hub cannot be reached, or it has no `config.json` or no safetensors.
    """
    shown = f"{hub}:{name}"
    folder = Path(name).expanduser()
    source = name
    if not name or not folder.is_dir():
        if not _REPOSITORY.fullmatch(name):
            raise ModelError(f"{shown}: there is no such folder, and it is no name on the hub")
        repository = repository or name
        folder = _downloaded(shown, hub, repository)
        source = f"https://huggingface.co/{repository}"
    config = read_json(folder / "config.json", shown)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{shown} has no .safetensors: weights in pickled files are not opened, as those could run "
            "foreign code. Save it again as safetensors"
        )
    return Place(shown, folder, source, config)


def read_json(path: Path, shown: str) -> dict[str, Any]:
    """What is in a JSON file of a network's folder.

    Raises:
        ModelError: there is no such file, or it holds no record.
    """
    if not path.is_file():
        raise ModelError(f"{shown} has no {path.name}: it is no folder of a pretrained network")
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{shown}: {path.name} cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"{shown}: {path.name} holds no record of settings")
    return record


def offline(shown: str, error: BaseException, instead: str) -> ModelError:
    """What to say where a hub cannot be reached."""
    return ModelError(
        f"{shown} is not on this machine, and the hub cannot be reached ({reason(error)}): without a "
        f"connection, use {instead}"
    )


def _downloaded(shown: str, hub: str, repository: str) -> Path:
    client, errors = library("huggingface_hub"), library("huggingface_hub.errors")
    page = f"https://huggingface.co/{repository}"
    with told(f"{shown} cannot be fetched"):
        try:
            return Path(client.snapshot_download(repository, allow_patterns=_FILES, ignore_patterns=_OTHERS))
        except errors.GatedRepoError as error:
            raise ModelError(
                f"{shown} is for people who accepted its conditions: do so at {page}, then log in with: hf "
                "auth login"
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise ModelError(
                f"{shown} is neither a local folder nor on the hub, or it is private there: see {page}"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            raise offline(shown, error.__cause__ or error, f"a local folder: {hub}:FOLDER") from error
