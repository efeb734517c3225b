"""Networks of transformers that classify images, and its language models."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten
from typing import Any, Literal

from torch import Tensor, nn

from ....errors import ModelError
from ..card import Card, Pretrained
from .fetching import Place, fetched, read_json
from .front_matter import said
from .image_processor import preparation, size_of
from .libraries import library, told

Kind = Literal["image", "text"]

# What transformers calls each kind: the class that opens it, and the table of its networks.
_IMAGE = ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES")
_TEXT = ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")

_LONGEST = 600


class _Logits(nn.Module):
    """Before a network of transformers: it takes one tensor, and gives its logits alone."""

    main_input_name: str

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, classes), or tokens (N, T) to logits (N, T, vocabulary)."""
        logits: Tensor = super().forward(**{self.main_input_name: inputs}, return_dict=True).logits
        return logits


def open_pretrained(name: str) -> Pretrained:
    """A network of transformers with its weights, in single precision.

    Args:
        name: on the hub, or a local folder.

    Raises:
        ModelError: as `open_hub`; or it is of another kind, brings code of its own, or its images were
            prepared in a way that is not known here.
    """
    place = fetched("hf", name)
    kind, auto = _kind(place.config, place.name)
    with _quiet(), told(f"{place.name} cannot be opened"):
        network, loaded = auto.from_pretrained(
            place.folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that they are listed, and refused
            output_loading_info=True,
        )
    _require_all(loaded, place.name)
    card = _image_card(place, network.config) if kind == "image" else _text_card(place, network.config)
    return Pretrained(card, _giving_logits(network))


def build_network(settings: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, as a card keeps it.

    Raises:
        ModelError: this version of transformers does not know it, or cannot build it.
    """
    _, auto = _kind(settings, "the network")
    with _quiet(), told("the network cannot be built by transformers"):
        configuration = type(library("transformers").AutoConfig.for_model(settings["model_type"]))
        network = auto.from_config(configuration.from_dict(dict(settings)), trust_remote_code=False)
    return _giving_logits(network)


def _giving_logits(network: nn.Module) -> nn.Module:
    """The network itself, so that its layers and weights keep their names; it gives tensors from now on."""
    own = type(network)
    network.__class__ = type(own.__name__, (_Logits, own), {"__module__": __name__})
    return network.float()


def _kind(config: Mapping[str, Any], shown: str) -> tuple[Kind, Any]:
    """What the network takes, and the class of transformers that opens it."""
    transformers, tables = library("transformers"), library("transformers.models.auto.modeling_auto")
    known = config.get("model_type")
    own = set(config.get("architectures") or ())
    pairs: tuple[tuple[Kind, tuple[str, str]], ...] = (("image", _IMAGE), ("text", _TEXT))
    for kind, (auto, table) in pairs:
        names = getattr(tables, table).get(known, ())
        if own & ({names} if isinstance(names, str) else set(names)):
            return kind, getattr(transformers, auto)
    if "auto_map" in config:
        raise ModelError(f"{shown} brings code of its own, which is not run")
    if known is None:
        raise ModelError(
            f"{shown} is no network of transformers: its config.json has no model_type. One of timm opens "
            "with timm:FOLDER"
        )
    raise ModelError(
        f"{shown} is a {', '.join(sorted(own)) or known}: transformers {transformers.__version__} has no "
        "image classifier or causal language model of that name, and others cannot be taken on"
    )


def _require_all(loaded: Mapping[str, Any], shown: str) -> None:
    """No weight is missing, left over or of another shape."""
    listed = {
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "of another shape": [
            f"{name} is {tuple(found)} and must be {tuple(wanted)}"
            for name, found, wanted in sorted(loaded["mismatched_keys"])
        ],
    }
    problems = "; ".join(f"{what}: {', '.join(names)}" for what, names in listed.items() if names)
    if problems:
        told_of = shorten(problems, _LONGEST, placeholder=" and more")
        raise ModelError(f"the weights of {shown} do not fit its network: {told_of}")


def _image_card(place: Place, config: Any) -> Card:
    channels = getattr(config, "num_channels", 3)
    prepared = preparation(
        read_json(place.folder / "preprocessor_config.json", place.name), channels, place.name
    )
    size = size_of(getattr(config, "image_size", None)) or prepared.size
    if size is None:
        raise ModelError(f"{place.name} does not say what size its images have, in preprocessor_config.json")
    classes = tuple(name for _, name in sorted(config.id2label.items()))
    named = classes != tuple(f"LABEL_{number}" for number in range(len(classes)))
    return Card(
        name=place.name,
        architecture="hf",
        settings=_settings(config),
        shape=(channels, *size),
        mean=prepared.mean,
        std=prepared.std,
        outputs=config.num_labels,
        classes=classes if named else (),
        **said(place),
    )


def _text_card(place: Place, config: Any) -> Card:
    config.use_cache = False  # what it would keep for the next word nobody asks for
    return Card(
        name=place.name,
        architecture="hf",
        settings=_settings(config),
        kind="text",
        shape=(),
        outputs=config.get_text_config().vocab_size,
        **said(place),
    )


def _settings(config: Any) -> dict[str, Any]:
    """All of a configuration, so that other defaults of another version change nothing."""
    settings: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    settings.pop("_name_or_path", None)
    return settings


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and the report that loading writes to the terminal."""
    logging = library("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
