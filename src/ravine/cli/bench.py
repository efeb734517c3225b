"""`ravine bench`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Optimizers, such as adam or sgd+momentum; by default all."),
    ] = None,
    on: Annotated[
        Literal["large", "many", "both"],
        typer.Option("--set", help="The tensors: 128 large ones, 120 small ones, or both sets."),
    ] = "both",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns that each contender has.")] = 11,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of Ravine and torch.  [as torch has]")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure there too.")
    ] = None,
) -> None:
    """Time the optimizers beside torch's on this machine.

    A ratio below 1 means that Ravine's step takes less time.
    """
    import torch

    from .. import __version__
    from ..files import write_json
    from ..lab.bench import SETS, Table, chosen, device_named, measure, using_threads
    from .output import make_place, wide_console

    wanted = list(chosen(names or ()))
    place = device_named(device)
    if json is not None:
        make_place(json)
    screen = wide_console()
    table = Table(wanted)
    records = []
    with using_threads(threads) as count:
        where = torch.cuda.get_device_name() if device == "cuda" else f"{count} CPU thread{'s' * (count > 1)}"
        for problem in SETS.values() if on == "both" else [SETS[on]]:
            screen.print(f"{problem.description}, {where}", style="bold", markup=False)
            screen.print(table.head(), style="dim", markup=False)
            for configuration in wanted:
                result = measure(configuration, problem, rounds=rounds, device=place)
                records.append(result.record())
                screen.print(table.line(result), markup=False)
            screen.print()
    if json is not None:
        versions = {"ravine": __version__, "torch": torch.__version__}
        facts = {"versions": versions, "device": where, "threads": count, "rounds": rounds}
        write_json(json, {**facts, "results": records})
        screen.print(f"figures {json}", markup=False, soft_wrap=True)
