"""Tables with a target column: CSV and Parquet, by pyarrow."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...errors import DataError, nearest
from ...registry import register
from .dataset import Column, Dataset
from .options import DataOptions
from .targets import encode

CSV = (".csv", ".tsv")
SUFFIXES = (*CSV, ".parquet", ".pq")
USUAL_TARGETS = (
    "target", "label", "labels", "class", "classes", "y", "species", "outcome", "output", "response",
    "diagnosis", "quality",
)  # fmt: skip
DELIMITERS = ",;\t|"
Table = Any  # a pyarrow.Table; pyarrow has no types


@register("data", "table", "a CSV or Parquet file with a target column: numbers, categories, missing values")
def read_table(path: Path, options: DataOptions) -> Dataset:
    """Read a table; rows are counted from 1, below the line of names.

    Numbers, booleans, dates and times become numbers and text becomes categories; text of many
    different values and identifiers are left out, with a note. The target is `options.target`, or a
    column of a usual name such as target, label, class, y, or else the last one.

    Raises:
        DataError: the table is ragged, or has text where numbers are or a value that is not finite;
            the target is absent, constant, or missing in a row.
    """
    from .columns import tidy, understand

    table = load(path)
    target, notes = _target_column(table.column_names, options.target, path)
    columns, values = [], []
    for name in table.column_names:
        if name == target:
            continue
        cells = tidy(name, table[name], str(path))
        column, reason = understand(name, cells)
        if column is None:
            notes.append(f"the column {name!r} is left out: {reason}")
        else:
            columns.append(column)
            values.append(_values(column, cells, path))
    if not columns:
        raise DataError(f"{path} has no column to predict {target!r} from. " + "; ".join(notes))
    answers = _answers(tidy(target, table[target], str(path)), target, path)
    task, targets, classes = encode(answers, options.task, f"the target {target!r} of {path}")
    if len(classes) > 2 and len(classes) > len(answers) // 2:
        raise DataError(
            f"the target {target!r} of {path} has {len(classes)} different values in {len(answers)} rows: "
            f"too many for classes. Name another target, or use task=regression for numbers."
        )
    if options.task == "auto":
        notes.append(f"{target!r} is taken for " + (f"{len(classes)} classes" if classes else "values"))
    return Dataset(
        name=path.resolve().stem,
        kind="table",
        task=task,
        inputs=torch.from_numpy(np.stack(values, axis=1)),
        targets=targets,
        parts={"train": torch.arange(len(answers))},
        classes=classes,
        columns=tuple(columns),
        target_name=target,
        notes=tuple(notes),
        options={"reader": "table"},
    )


def _values(column: Column, cells: Any, path: Path) -> npt.NDArray[np.float32]:
    from .columns import values_of

    return values_of(column, cells, str(path))


def read_rows(path: Path, columns: Sequence[Column]) -> Tensor:
    """The rows of a table as float32 (N, columns), for columns known from training.

    Other columns are ignored; categories that training did not know are missing values.

    Raises:
        DataError: a column is missing, or has text where numbers must be; as `read_table`.
    """
    from .columns import tidy

    categories = [column.name for column in columns if column.categories is not None]
    table = load(path, text_columns=categories)
    absent = [column.name for column in columns if column.name not in table.column_names]
    if absent:
        raise DataError(
            f"{path} lacks {len(absent)} of the columns that the model was trained on: "
            f"{', '.join(map(repr, absent))}{nearest(absent[0], table.column_names)}. Add them."
        )
    values = []
    for column in columns:
        cells = table[column.name]
        cells = cells if column.categories is not None else tidy(column.name, cells, str(path))
        values.append(_values(column, cells, path))
    return torch.from_numpy(np.stack(values, axis=1))


def load(path: Path, text_columns: Iterable[str] = ()) -> Table:
    """A CSV or Parquet file as a pyarrow table; `text_columns` are read as text whatever they hold.

    Raises:
        DataError: the file is damaged, ragged, not UTF-8, without rows, or without good column names.
    """
    table = _load_csv(path, text_columns) if path.suffix.lower() in CSV else _load_parquet(path)
    names = [name.strip() for name in table.column_names]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has several columns called {repeated[0]!r}. Give each its own name.")
    if not table.num_rows:
        raise DataError(f"{path} has column names but no rows.")
    return table.rename_columns(names)


def _load_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}. Write it again.") from error


def _load_csv(path: Path, text_columns: Iterable[str]) -> Table:
    import pyarrow as pa
    from pyarrow import csv

    with path.open("rb") as file:
        head = file.readline().decode("utf-8", "replace").lstrip("\ufeff")
    delimiter = max(DELIMITERS, key=head.count)
    _refuse_headless(head, delimiter, path)
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        # One block for the whole file, so that a column's type is inferred from all of its cells;
        # one thread, so that bad rows come with their numbers.
        block_size = min(max(path.stat().st_size + 1, 2**16), 2**31 - 1)
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False, block_size=block_size),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=note, newlines_in_values=True
            ),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True, column_types=dict.fromkeys(text_columns, pa.string())
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        advice = "Save it as UTF-8." if "UTF8" in str(error) or "utf-8" in str(error) else "Correct it."
        raise DataError(f"{path} cannot be read as CSV: {error}. {advice}") from error
    if ragged:
        first = ragged[0]
        raise DataError(
            f"{path} is ragged: row {first.number - 1} has {first.actual_columns} cells where "
            f"{first.expected_columns} belong ({len(ragged)} such rows): {first.text[:60]!r}. Correct it; "
            f"a cell that holds {delimiter!r} needs quotes."
        )
    binary = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if binary:
        raise DataError(f"{path} is no UTF-8 text in the column {binary[0]!r}. Save it as UTF-8.")
    return table


def _refuse_headless(head: str, delimiter: str, path: Path) -> None:
    cells = [cell.strip().strip('"') for cell in head.strip().split(delimiter)]
    numbers = sum(_is_number(cell) for cell in cells)
    if numbers > len(cells) / 2:
        raise DataError(
            f"{path} has numbers where column names belong: {head.strip()[:60]!r}. Add a first line with "
            f"the names of the columns."
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _target_column(names: Sequence[str], wanted: str, path: Path) -> tuple[str, list[str]]:
    """The column to predict, and a note where nobody named it."""
    if wanted != "auto":
        if wanted not in names:
            raise DataError(
                f"{path} has no column {wanted!r} to predict{nearest(wanted, names)}. It has "
                f"{', '.join(names)}."
            )
        return wanted, []
    usual = {name.lower(): name for name in reversed(names)}
    chosen = next((usual[name] for name in USUAL_TARGETS if name in usual), names[-1])
    return chosen, [f"the column {chosen!r} is taken as the target; name another one with data.target"]


def _answers(cells: Any, target: str, path: Path) -> npt.NDArray[Any]:
    """The cells of the target, none of them missing."""
    import pyarrow.compute as pc

    from .columns import is_numeric, is_text

    rows = pc.indices_nonzero(pc.is_null(cells, nan_is_null=True)).to_pylist()
    if rows:
        shown = ", ".join(str(row + 1) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise DataError(
            f"the target {target!r} of {path} is missing in {len(rows)} rows: {shown}. Fill these cells or "
            f"remove the rows."
        )
    if not (is_numeric(cells) or is_text(cells)):
        raise DataError(f"the target {target!r} of {path} has the type {cells.type}: name another one.")
    if is_text(cells):
        return np.array(cells.to_pylist(), np.str_)
    values: npt.NDArray[Any] = cells.to_numpy()
    if values.dtype.kind in "iufb":
        return values
    from .columns import numbers_of

    return numbers_of(target, cells, str(path))
