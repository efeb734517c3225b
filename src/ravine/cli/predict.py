"""`ravine predict`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Run, SkipBad, Trust

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.predict import Predictor

CONTINUED = 200


def predict(
    run: Run,
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="New images, rows, arrays or a text, as the run's own data."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Where to write.  [standard output]")
    ] = None,
    skip_bad: SkipBad = False,
    trust: Trust = False,
) -> None:
    """Predict classes and probabilities, or values, for new data.

    The answers are CSV. Of a language model they are the probabilities of the character that follows the
    text; how well it foretells the text, and a continuation, are said on standard error.
    """
    from ..training import predict as answers
    from ..training.data.content import some
    from ..training.data.read_inputs import read_inputs
    from ..training.load import context_of, load_predictor
    from .output import make_place

    predictor = load_predictor(run, trust=trust)
    spec = predictor.preprocessing.spec
    inputs = read_inputs(source, spec, skip_bad=skip_bad)
    if inputs.unreadable:
        left_out = some(inputs.unreadable, "left out, as they cannot be read")
        typer.echo(f"{len(inputs.unreadable):,} files {left_out}", err=True)
    raw = inputs.items
    if out is not None:
        make_place(out)
    if predictor.task == "language":
        context = context_of(run)
        _tell(predictor, raw, context)
        raw = raw[-context:].unsqueeze(0)
    outputs = answers.predict(predictor, raw)
    if out is None:
        answers.write_csv(sys.stdout, inputs.names, outputs, spec)
        return
    answers.write_csv(out, inputs.names, outputs, spec)
    typer.echo(f"{len(inputs.names):,} predictions in {out}", err=True)


def _tell(predictor: "Predictor", tokens: "Tensor", context: int) -> None:
    from ..training.text_model import generate, text_scores

    if len(tokens) > 1:
        scores = text_scores(predictor, tokens, context)
        said = f"{scores['loss']:.3f} nats ({scores['bits']:.3f} bits) a character"
        typer.echo(f"{len(tokens):,} characters: {said}", err=True)
    written = generate(predictor, tokens[-context:], CONTINUED, context, seed=0)[-CONTINUED:]
    classes = predictor.preprocessing.spec["classes"]
    text = "".join(classes[token] for token in written.tolist())
    typer.echo(f"it may go on like this:\n{text}", err=True)
