"""One standalone file of a trained network, preprocessing included: `.pt2` or `.onnx`.

The file is read back before it counts, and its outputs are compared with `predict`'s.
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from .. import files
from ..errors import ModelError, RavineError, nearest
from .averaged import OverSamples
from .predict import Predictor, predict

TOLERANCE = 1e-4
"""The largest difference from `predict`, relative to the largest output where that is above 1."""
ONNX_LIMIT = 2**31 - 2**20
"""Bytes of weights in one ONNX file: its format (protobuf) ends at 2 GiB."""
EXTRA_FILE = "ravine.json"

Runner = Callable[[Tensor], Tensor]


def export(predictor: Predictor, example: Tensor, path: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the predictor as one file that needs no Ravine, and check it.

    The input is raw items of any number, as `read_inputs` gives them; the output is what `predict` gives.
    Everything is in float32 on the CPU. The length of texts is free up to that of `example` where the
    model allows it, else it is that of `example`: the answer says which. What the classes and columns
    are called lies in the file as JSON: `.pt2` in the extra file "ravine.json", `.onnx` in the metadata.

    Args:
        predictor: what to export; it is left as it is.
        example: raw items (N, ...), real ones; for language (N, context) tokens.
        path: ends with .pt2 (torch.export) or .onnx (needs the extra `onnx`).
        spec: the preprocessing's.

    Returns:
        `format`, `bytes`, `difference` (the largest from `predict` on the example), `input` and `output`
        (their shapes, a free dimension by its name).

    Raises:
        RavineError: the extension is unknown, an extra is missing, or the outputs differ; no file is left.
        ModelError: the model cannot be exported.
        RunError: the path cannot be written.
    """
    writers = {".pt2": (_pt2, _run_pt2), ".onnx": (_onnx, _run_onnx)}
    if path.suffix.lower() not in writers:
        hint = nearest(path.suffix.lower(), writers)
        raise RavineError(f"cannot export to {path.name!r}: name it .pt2 (torch.export) or .onnx{hint}")
    if any(isinstance(module, OverSamples) for module in predictor.modules()):
        raise ModelError(
            "predict.average = 'samples' draws noise anew, which a file cannot do: export a run with another "
            "predict.average"
        )
    encode, load = writers[path.suffix.lower()]
    if path.suffix.lower() == ".onnx":
        _require_onnx()
        _refuse_too_large(predictor, path)
    whole = copy.deepcopy(predictor).cpu().float().eval().requires_grad_(False)
    # One item alone would be taken for a fixed size of 1.
    example = (example if len(example) > 1 else torch.cat((example, example))).cpu()
    program = _trace(whole, example)
    shapes = _shapes(program)
    trials = [example[:1], example]
    if "context" in shapes["input"]:
        trials.append(example[:, :1])
    told = {**shapes, **spec, "answers": _answers(spec)}
    content = encode(program, told)
    difference = 0.0

    def write(temporary: Path) -> None:
        nonlocal difference
        temporary.write_bytes(content)
        difference = _check(load(temporary.read_bytes()), whole, trials, path)

    files.write_through(path, write)
    return {
        "format": path.suffix[1:].lower(),
        "bytes": len(content),
        "difference": difference,
        **shapes,
    }


def _answers(spec: Mapping[str, Any]) -> str:
    if spec["task"] == "regression":
        return f"values of {spec['target_name']}"
    return "probabilities, in the order of the classes"


def _trace(whole: Predictor, example: Tensor) -> ExportedProgram:
    """The predictor as a graph with a free number of items."""
    free: dict[int, Any] = {0: Dim("items", min=1)}
    if whole.task == "language":
        free[1] = Dim.AUTO(min=1, max=example.shape[1])
    try:
        with torch.no_grad():
            return torch.export.export(whole, (example,), dynamic_shapes=(free,))
    except Exception as error:  # whatever a person's own model raises while it is traced
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the model cannot be exported: torch.export says {type(error).__name__}: {reason}. A model must "
            "not choose its way by the values of its inputs, nor depend on the number of items."
        ) from error


def _shapes(program: ExportedProgram) -> dict[str, list[int | str]]:
    """The shapes of input and output, a free dimension by its name."""
    nodes = {node.name: node for node in program.graph.nodes}
    names = ("items", "context")

    def shape(name: str) -> list[int | str]:
        sizes = nodes[name].meta["val"].shape
        return [int(size) if is_concrete_int(size) else names[axis] for axis, size in enumerate(sizes)]

    signature = program.graph_signature
    return {"input": shape(signature.user_inputs[0]), "output": shape(signature.user_outputs[0])}


def _check(run: Runner, whole: Predictor, raws: list[Tensor], path: Path) -> float:
    """Run the file on each of `raws`; the largest difference from `predict`."""
    allowed = TOLERANCE
    difference = 0.0
    for raw in raws:
        wanted = predict(whole, raw)
        try:
            given = run(raw)
        except Exception as error:  # each runtime has its own
            reason = str(error).strip().partition("\n")[0]
            raise RavineError(
                f"{path} was not written: the exported model fails on an input of shape {tuple(raw.shape)}: "
                f"{reason}"
            ) from error
        if given.shape != wanted.shape:
            raise RavineError(
                f"{path} was not written: for an input of shape {tuple(raw.shape)} the exported model gives "
                f"{tuple(given.shape)}, and predict {tuple(wanted.shape)}"
            )
        allowed = max(allowed, TOLERANCE * float(wanted.abs().max()))
        difference = max(difference, float((given - wanted).abs().nan_to_num(nan=float("inf")).max()))
    if difference > allowed:
        raise RavineError(
            f"{path} was not written: the exported model's outputs differ from predict's by "
            f"{difference:.3g}, more than {allowed:.3g}. Does it draw random numbers?"
        )
    return difference


def _pt2(program: ExportedProgram, told: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={EXTRA_FILE: json.dumps(told)})
    return buffer.getvalue()


def _run_pt2(content: bytes) -> Runner:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(raw: Tensor) -> Tensor:
        with torch.inference_mode():
            answers: Tensor = module(raw)
        return answers

    return run


def _require_onnx() -> None:
    import importlib.util

    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise RavineError(
            f"exporting to .onnx needs {', '.join(missing)}: pip install 'ravine[onnx]', or export to .pt2"
        )


def _refuse_too_large(predictor: Predictor, path: Path) -> None:
    size = sum(tensor.numel() for tensor in predictor.state_dict().values()) * 4
    if size > ONNX_LIMIT:
        raise RavineError(
            f"{path.name}: the weights take {size / 2**30:.1f} GiB, and one .onnx file holds less than 2; "
            "export to .pt2"
        )


def _onnx(program: ExportedProgram, told: Mapping[str, Any]) -> bytes:
    with _quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
        )
    assert made is not None
    for key, value in told.items():
        made.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    content: bytes = made.model_proto.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda raw: torch.from_numpy(session.run(None, {name: raw.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.onnx's notes on its own workings from the person, and nothing else."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # "torchvision is not installed. Skipping torchvision::nms"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
