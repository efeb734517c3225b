"""The command line: one file a command, thin.

Nothing heavy is imported before a command runs, so that `ravine --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from .. import __version__
from ..errors import Interrupted, RavineError
from ..memory import memory_told
from . import ablate, bench, ensemble, export, finetune, inspect, lr, predict, recipe, report, train, zoo

app = typer.Typer(
    name="ravine",
    help="Train neural networks well, and see why.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)
for command in (
    train.train,
    finetune.finetune,
    predict.predict,
    export.export,
    inspect.inspect,
    lr.lr,
    recipe.recipe,
    report.report,
    ablate.ablate,
    ensemble.ensemble,
    bench.bench,
):
    app.command()(command)
app.add_typer(zoo.zoo, name="zoo")


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ravine {__version__}")
        raise typer.Exit()


@app.callback()
def _ravine(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train neural networks well, and see why."""


class _Signalled(BaseException):
    """SIGINT or SIGTERM outside the training loop, which has its own way to stop."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it is asked to do, and its failures, are for a person to read.

    Args:
        arguments: without the program's name; by default those of the process.

    Returns:
        the exit code: 0, the `exit_code` of a `RavineError`, 2 for a wrong call, or 128 + the signal.
    """
    before = {number: signal.signal(number, _raise) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except _Signalled as stop:
        typer.echo(f"stopped by {signal.Signals(stop.signum).name}", err=True)
        code = 128 + stop.signum
    except BrokenPipeError:
        # The reader of our output has seen enough. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # as typer ends where the reader left earlier
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with memory_told():
            app(arguments, prog_name="ravine")
    except SystemExit as end:  # how typer ends, well or not
        return int(end.code or 0)
    except Interrupted as stop:
        typer.echo(stop, err=True)
        return stop.exit_code
    except RavineError as error:
        typer.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk or a permission that no command expected; no defect of Ravine's
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {place}{error.strerror or error}", err=True)
        return RavineError.exit_code
    return 0


def _raise(signum: int, frame: FrameType | None) -> None:
    raise _Signalled(signum)
