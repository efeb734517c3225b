"""`ravine export`."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Run, Trust

# Made-up items on which the file's outputs are compared with `predict`'s.
CHECKED = 16


def export(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="NAME.pt2 (torch.export) or NAME.onnx.")],
    trust: Trust = False,
) -> None:
    """Write RUN's network as one file that needs no Ravine.

    Preprocessing is part of it. Its outputs are compared with those of predict before it counts.
    """
    from ..training.ensemble import fitted_preprocessing
    from ..training.examples import example_items
    from ..training.export import export as write
    from ..training.load import context_of, load_predictor
    from .output import make_place

    predictor = load_predictor(run, trust=trust)
    make_place(file)
    example = example_items(fitted_preprocessing(predictor), CHECKED, context_of(run))
    done = write(predictor, example, file, predictor.preprocessing.spec)
    typer.echo(f"{file}  {done['bytes'] / 1e6:,.2f} MB")
    for side in ("input", "output"):
        typer.echo(f"{side:<7}({', '.join(map(str, done[side]))})")
    typer.echo(f"largest difference from predict {done['difference']:.2g}")
