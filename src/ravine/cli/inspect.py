"""`ravine inspect`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .options import Data, RecipeName, Seed, Settings, layers

if TYPE_CHECKING:
    from rich.console import Console

Found = Mapping[str, Any]
PARTS = ("train", "validation", "test")
# Of a text's vocabulary, at most so many of the most frequent characters are shown.
FREQUENT = 20


def inspect(
    data: Data,
    recipe: RecipeName = None,
    settings: Settings = None,
    seed: Seed = None,
) -> None:
    """Tell what is in DATA: counts, classes, gaps, duplicates.

    Files that cannot be read are left out and listed.
    """
    from ..training.data.inspect import inspect as look
    from ..training.run import read
    from .output import wide_console

    found = look(*read(data, recipe, settings=layers(settings, seed=seed, skip_bad=True)))
    screen = wide_console()
    for show in (_summary, _classes, _columns, _characters, _duplicates, _remarks):
        show(screen, found)


def _summary(screen: "Console", found: Found) -> None:
    from rich.markup import escape

    shape = "×".join(str(size) for size in found["item_shape"])
    screen.print(f"[bold]{escape(found['name'])}[/] · {found['kind']} · {found['task']}")
    items = found["items"]
    told = [f"{part} {items[part]:,}" for part in PARTS]
    origin = "the test part came with the data" if found["given_test"] else "cut here"
    unit = "characters" if found["kind"] == "text" else "items"
    _line(screen, unit, f"{items['total']:,}: {' + '.join(told)} ({origin})")
    if shape:
        _line(screen, "shape", shape)
    if found["task"] == "regression":
        _line(screen, "target", f"{found['target']['name']}: {_range(found['target'])}")
    elif found["task"] == "classification":
        _line(screen, "target", str(found["target"]["name"]))
    if "values" in found and not found.get("columns"):
        _line(screen, "values", _range(found["values"]))


def _classes(screen: "Console", found: Found) -> None:
    classes = found.get("classes")
    if not classes:
        return
    ratio = found["imbalance"]
    _line(screen, "classes", f"{len(classes)}; the largest has {ratio:.3g} times the items of the smallest")
    rows = [
        (
            name,
            *(f"{counts[part]:,}" for part in PARTS),
            f"{sum(counts.values()) / found['items']['total']:.1%}",
        )
        for name, counts in classes.items()
    ]
    _table(screen, ("class", *PARTS, "share"), rows)


def _columns(screen: "Console", found: Found) -> None:
    columns = found.get("columns")
    if not columns:
        return
    missing = found["missing"]
    gaps = f"{sum(missing.values()):,} values missing in {len(missing)}" if missing else "no value missing"
    _line(screen, "columns", f"{len(columns)}; {gaps}")
    rows = []
    for column in columns:
        gap = f"{missing[column['name']]:,}" if column["name"] in missing else ""
        if "categories" in column:
            names = ", ".join(column["categories"][:5]) + (", …" if len(column["categories"]) > 5 else "")
            rows.append(
                (column["name"], f"{len(column['categories'])} categories: {names}", "", "", "", "", gap)
            )
        else:
            numbers = (_number(column[key]) for key in ("min", "max", "mean", "std"))
            rows.append((column["name"], "number", *numbers, gap))
    _table(screen, ("column", "kind", "min", "max", "mean", "std", "missing"), rows, left=2)


def _characters(screen: "Console", found: Found) -> None:
    counts = found.get("characters")
    if not counts:
        return
    order = sorted(counts, key=lambda character: -counts[character])
    _line(screen, "vocabulary", f"{len(order)} characters, the most frequent first")
    total = sum(counts.values())
    rows = [(repr(name), f"{counts[name]:,}", f"{counts[name] / total:.1%}") for name in order[:FREQUENT]]
    _table(screen, ("character", "times", "share"), rows)


def _duplicates(screen: "Console", found: Found) -> None:
    same = found.get("duplicates")
    if same is None:
        return
    if not same["extra"]:
        _line(screen, "duplicates", "none")
        return
    _line(screen, "duplicates", f"{same['extra']:,} items repeat another exactly")
    if same["contradictions"]:
        _line(
            screen,
            "",
            f"warning: {same['contradictions']:,} groups of equal items differ in their answer",
            True,
        )
    for pair, count in same["across_parts"].items():
        if count:
            _line(screen, "", f"warning: {count:,} items are in {pair} alike, which flatters the score", True)
    for first, second in same["examples"]:
        _line(screen, "", f"{first} = {second}")


def _remarks(screen: "Console", found: Found) -> None:
    bad = found["unreadable"]
    if bad:
        _line(
            screen,
            "unreadable",
            f"{len(bad):,} left out: {', '.join(bad[:10])}{', …' if len(bad) > 10 else ''}",
            True,
        )
    for remark in found["notes"]:
        _line(screen, "note", remark)


def _line(screen: "Console", title: str, text: str, warning: bool = False) -> None:
    style = "yellow" if warning else ""
    screen.print(f"[dim]{title:<12}[/]", end="")
    screen.print(text, style=style, markup=False, soft_wrap=True)


def _table(screen: "Console", head: tuple[str, ...], rows: Sequence[tuple[str, ...]], left: int = 1) -> None:
    """Aligned columns, the first `left` of them text, the others numbers."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for position, title in enumerate(head):
        table.add_column(title, justify="left" if position < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    screen.print(Padding(table, (0, 0, 0, 2), expand=False))


def _range(values: Found) -> str:
    if values["min"] is None:
        return "all missing"
    low, high, mean, std = (_number(values[key]) for key in ("min", "max", "mean", "std"))
    return f"{low} to {high}, mean {mean}, standard deviation {std}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
