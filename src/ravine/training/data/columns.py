"""Columns of a table: what a column is, and its cells as numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from .dataset import Column

# Besides what pyarrow takes for missing by itself: "", "NA", "NaN", "null", "N/A", ...
MISSING = ("", "?", "-", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none")
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
FEW_BAD_CELLS = 0.05
MOST_CATEGORIES = 256
FEW_CATEGORIES = 10
ROWS_PER_CATEGORY = 10
IDENTIFIERS = frozenset({"", "id", "index", "unnamed: 0", "row", "rowid", "uuid"})
MICROSECONDS_PER_DAY = 86_400e6

Cells = Any  # a pyarrow.ChunkedArray; pyarrow has no types


def tidy(name: str, cells: Cells, where: str) -> Cells:
    """Cells as numbers, booleans or trimmed text, with missing values as nulls.

    Text that is numbers throughout becomes numbers.

    Raises:
        DataError: all but a few cells are numbers; the first other one is named.
    """
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return cells
    trimmed = pc.utf8_trim_whitespace(cells)
    missing = pc.is_in(trimmed, value_set=pa.array(MISSING, trimmed.type))
    trimmed = pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed)
    is_number = pc.match_substring_regex(trimmed, NUMBER)
    numbers = pc.sum(is_number).as_py() or 0
    present = len(trimmed) - trimmed.null_count
    if present and numbers == present:
        return trimmed.cast(pa.float64())
    bad = present - numbers
    if numbers >= 3 * bad and bad <= max(1, FEW_BAD_CELLS * present):
        refuse_text(name, trimmed, is_number, where)
    return trimmed


def refuse_text(name: str, cells: Cells, is_number: Cells, where: str) -> None:
    """Refuse the first cell that is no number.

    Raises:
        DataError: always.
    """
    rows = pc.indices_nonzero(pc.invert(is_number))
    first = rows[0].as_py()
    raise DataError(
        f"{where} has text where numbers are: {cells[first].as_py()!r} in row {first + 1} of the column "
        f"{name!r} ({len(rows)} such cells). Correct it, or leave the cell empty if the value is missing."
    )


def is_numeric(cells: Cells) -> bool:
    """Whether cells are numbers, booleans, dates or times."""
    kind = cells.type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return plain or pa.types.is_decimal(kind) or pa.types.is_date(kind) or _is_time(kind)


def _is_time(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_time(kind))


def is_text(cells: Cells) -> bool:
    """Whether cells are text."""
    return bool(pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type))


def numbers_of(name: str, cells: Cells, where: str) -> npt.NDArray[np.float32]:
    """Numeric cells as float32, missing ones as not-a-number.

    Booleans are 0 and 1, dates and timestamps days since 1970, times of day seconds.

    Raises:
        DataError: a cell is infinite, or too large for float32.
    """
    kind = cells.type
    scale = 1.0
    if pa.types.is_boolean(kind):
        cells = cells.cast(pa.int8())
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        cells = cells.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        scale = MICROSECONDS_PER_DAY
    elif pa.types.is_time(kind):
        cells = cells.cast(pa.time64("us"), safe=False).cast(pa.int64())
        scale = 1e6
    exact = cells.cast(pa.float64(), safe=False).to_numpy() / scale
    with np.errstate(over="ignore"):
        numbers: npt.NDArray[np.float32] = exact.astype(np.float32)
    bad = np.flatnonzero(np.isinf(numbers))
    if bad.size:
        raise DataError(
            f"{where} is not finite: {exact[bad[0]]:g} in row {bad[0] + 1} of the column {name!r} "
            f"({bad.size} such cells). Correct it, or leave the cell empty if the value is missing."
        )
    return numbers


def codes_of(column: Column, cells: Cells) -> npt.NDArray[np.float32]:
    """Cells of a category as codes (float32); missing and unknown ones are not-a-number."""
    assert column.categories is not None
    text = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    codes = pc.index_in(text, value_set=pa.array(column.categories, pa.string()))
    numbers: npt.NDArray[np.float32] = codes.cast(pa.float64()).to_numpy().astype(np.float32)
    return numbers


def understand(name: str, cells: Cells) -> tuple[Column | None, str]:
    """What an input column is, or None and why it is left out. `cells` are tidy.

    Text with few distinct values is a category; with many it is left out, as are identifiers: numbers
    or text of another value in every row under a name such as "id".
    """
    if pa.types.is_null(cells.type) or cells.null_count == len(cells):
        return None, "it is empty"
    if not (is_numeric(cells) or is_text(cells)):
        return None, f"its type is {cells.type}"
    distinct = pc.count_distinct(cells, mode="only_valid").as_py()
    named_so = name.lower() in IDENTIFIERS or name.lower().endswith("_id")
    if named_so and distinct == len(cells) and len(cells) > 2:
        return None, "it is an identifier, another in every row"
    if is_numeric(cells):
        return Column(name), ""
    most = min(MOST_CATEGORIES, max(FEW_CATEGORIES, len(cells) // ROWS_PER_CATEGORY))
    if distinct > most:
        return None, f"it is text with {distinct} different values"
    return Column(name, tuple(sorted(pc.unique(cells.drop_null()).to_pylist()))), ""


def values_of(column: Column, cells: Cells, where: str) -> npt.NDArray[np.float32]:
    """Tidy cells as the numbers of a known column.

    Raises:
        DataError: text or another type where the column is of numbers; or not finite.
    """
    if column.categories is not None:
        return codes_of(column, cells)
    if pa.types.is_null(cells.type):
        return np.full(len(cells), np.nan, np.float32)
    if is_text(cells):
        refuse_text(column.name, cells, pc.match_substring_regex(cells, NUMBER), where)
    if not is_numeric(cells):
        raise DataError(f"{where}: the column {column.name!r} needs numbers, but its type is {cells.type}.")
    return numbers_of(column.name, cells, where)
