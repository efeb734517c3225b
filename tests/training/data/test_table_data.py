import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from ravine.errors import DataError
from ravine.training.data import Column, DataOptions, open_data

ROWS = 40


@pytest.fixture
def write(tmp_path):
    def to_csv(text: str, name: str = "t.csv", encoding: str = "utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return to_csv


def csv(*columns: tuple[str, list[object]]) -> str:
    lines = [",".join(name for name, _ in columns)]
    lines += [",".join(map(str, row)) for row in zip(*(cells for _, cells in columns), strict=True)]
    return "\n".join(lines) + "\n"


def numbers(count: int = ROWS) -> list[object]:
    return [round(0.37 * row % 5, 3) for row in range(count)]


def flips(count: int = ROWS, values=("yes", "no")) -> list[object]:
    return [values[row % len(values)] for row in range(count)]


def test_numbers_categories_booleans_dates_and_gaps(write):
    colours = ["red", "green", "", "blue"] * (ROWS // 4)
    dates = [datetime.date(1970, 1, 1) + datetime.timedelta(days=row) for row in range(ROWS)]
    sizes = ["" if row == 3 else row for row in range(ROWS)]
    path = write(
        csv(
            ("size", sizes),
            ("colour", colours),
            ("on", flips(values=("true", "false"))),
            ("day", dates),
            ("target", flips()),
        )
    )
    data = open_data(path)
    assert data.columns == (
        Column("size"), Column("colour", ("blue", "green", "red")), Column("on"), Column("day"),
    )  # fmt: skip
    assert data.inputs.dtype == torch.float32
    assert data.inputs[3].isnan().tolist() == [True, False, False, False]
    assert data.inputs[2].isnan().tolist() == [False, True, False, False]
    assert data.inputs[0].tolist() == [0, 2, 1, 0]
    assert data.inputs[7].tolist() == [7, 0, 0, 7]
    assert data.classes == ("no", "yes")
    assert data.targets[:3].tolist() == [1, 0, 1]
    assert (data.kind, data.task, data.target_name) == ("table", "classification", "target")


def test_parquet_gives_the_same_as_csv(write, tmp_path):
    columns = {"a": numbers(), "kind": flips(values=("x", "y", "z")), "target": flips()}
    table = pa.table(columns)
    table = table.set_column(1, "kind", table["kind"].dictionary_encode())
    parquet.write_table(table, tmp_path / "t.parquet")
    first = open_data(tmp_path / "t.parquet")
    second = open_data(write(csv(*columns.items())))
    assert torch.equal(first.inputs, second.inputs)
    assert first.fingerprint == second.fingerprint


def test_timestamps_decimals_and_times_become_numbers(tmp_path):
    moment = datetime.datetime(1970, 1, 3, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "stamp": [moment, None, *[moment] * 6],
            "time": [datetime.time(0, 1)] * 8,
            "price": pa.array([1.5] * 8).cast(pa.decimal128(10, 2)),
            "list": [[1]] * 8,
            "y": flips(8),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    data = open_data(tmp_path / "t.parquet")
    assert data.inputs[0].tolist() == [2.5, 60.0, 1.5]
    assert data.inputs[1].isnan().tolist() == [True, False, False]
    assert any("'list' is left out" in note for note in data.notes)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (flips(), "classification", ("no", "yes")),
        (flips(values=("true", "false")), "classification", ("false", "true")),
        ([row % 3 for row in range(ROWS)], "classification", ("0", "1", "2")),
        ([row % 2 * 2 - 1 for row in range(ROWS)], "classification", ("-1", "1")),
        ([f"{row % 2}.0" for row in range(ROWS)], "classification", ("0", "1")),
        (numbers(), "regression", ()),
        ([row * 10 for row in range(ROWS)], "regression", ()),
        ([row % 9 + 17 for row in range(ROWS)], "regression", ()),
    ],
)
def test_classification_is_told_from_regression(write, values, task, classes):
    data = open_data(write(csv(("a", numbers()), ("target", values))))
    assert (data.task, data.classes) == (task, classes)
    assert data.targets.dtype == (torch.int64 if classes else torch.float32)


def test_the_task_can_be_overridden(write):
    path = write(csv(("a", numbers()), ("target", [row % 3 for row in range(ROWS)])))
    data = open_data(path, DataOptions(task="regression"))
    assert data.targets[:4].tolist() == [0.0, 1.0, 2.0, 0.0]
    path = write(csv(("a", numbers()), ("target", [row % 9 + 17 for row in range(ROWS)])))
    assert len(open_data(path, DataOptions(task="classification")).classes) == 9


@pytest.mark.parametrize(
    ("names", "wanted", "target"),
    [
        (("target", "b"), "auto", "target"),
        (("Species", "b"), "auto", "Species"),
        (("a", "b"), "auto", "b"),
        (("a", "target"), "a", "a"),
    ],
)
def test_the_target_is_the_named_or_a_usual_or_the_last_column(write, names, wanted, target):
    path = write(csv((names[0], flips()), (names[1], flips(values=("u", "v", "w", "x")))))
    data = open_data(path, DataOptions(target=wanted))
    assert data.target_name == target
    assert any(f"{target!r} is taken as the target" in note for note in data.notes) == (wanted == "auto")


def test_identifiers_and_text_of_many_values_are_left_out_with_a_note(write):
    path = write(
        csv(
            ("id", list(range(ROWS))),
            ("name", [f"name {row}" for row in range(ROWS)]),
            ("empty", [""] * ROWS),
            ("a", numbers()),
            ("target", flips()),
        )
    )
    data = open_data(path)
    assert [column.name for column in data.columns] == ["a"]
    for name, reason in (("id", "identifier"), ("name", "40 different values"), ("empty", "empty")):
        assert any(f"{name!r} is left out" in note and reason in note for note in data.notes)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_byte_order_marks_quotes_and_spaces(write, delimiter):
    rows = csv(
        (" a ", numbers()),
        ("kind", [f'" {kind} "' for kind in flips(values=("?", "x", "y"))]),
        ("target", flips()),
    )
    data = open_data(write("\ufeff" + rows.replace(",", delimiter)))
    assert data.columns == (Column("a"), Column("kind", ("x", "y")))
    assert data.inputs[0].isnan().tolist() == [False, True]


def test_line_ends_in_quotes_belong_to_the_cell(write):
    path = write('a,b,target\n1,"x\ny",u\n2,z,v\n3,z,u\n4,"x\ny",v\n')
    assert open_data(path).columns[1].categories == ("x\ny", "z")


def test_text_far_below_the_first_block_is_seen(write):
    cells: list[object] = [row * 0.5 for row in range(200_000)]
    cells[-1] = "oops"
    with pytest.raises(DataError, match="'oops' in row 200000 of the column 'a'"):
        open_data(write(csv(("a", cells), ("target", flips(200_000)))))


def csv_with(column: str, row: int, value: object) -> str:
    columns = {"a": numbers(), "b": numbers(), "target": flips()}
    columns[column][row] = value
    return csv(*columns.items())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b,target\n1,2,x\n1,2\n3,4,y\n1,2,3,4\n", {}, r"row 2 has 2 cells where 3 belong \(2 such rows\)"),
        (csv_with("a", 0, 1), {"target": "targt"}, r"no column 'targt' .*did you mean 'target'"),
        (csv(("a", numbers()), ("target", [1] * ROWS)), {}, "one class"),
        (csv(("a", numbers()), ("target", [1.5] * ROWS)), {}, "is 1.5 for every item"),
        (csv(("a", numbers()), ("target", ["x"] * ROWS)), {}, r"one class \(x\)"),
        (csv_with("target", 4, ""), {}, "missing in 1 rows: 5"),
        (csv_with("a", 6, "about 3"), {}, "text where numbers are: 'about 3' in row 7 of the column 'a'"),
        (csv_with("b", 6, "inf"), {}, "not finite: inf in row 7 of the column 'b'"),
        (csv_with("b", 6, "1e39"), {}, r"not finite: 1e\+39 in row 7 of the column 'b'"),
        (csv(("a", numbers()), ("target", [*numbers()[1:], "inf"])), {}, "not finite at item 40"),
        (csv(("a", numbers()), ("target", [*numbers()[1:], "many"])), {}, "'many' in row 40 of"),
        (csv_with("a", 0, 1), {"task": "regression"}, "regression needs numbers"),
        (csv(("a", numbers()), ("target", numbers())), {"task": "classification"}, "too many for classes"),
        (csv(("a", numbers()), ("target", [f"t{row}" for row in range(ROWS)])), {}, "too many for classes"),
        (csv(("target", flips())), {}, "no column to predict 'target' from"),
        ("a,a,target\n1,2,x\n1,2,y\n", {}, "several columns called 'a'"),
        ("a,b,target\n", {}, "no rows"),
        ("1.5,2,x\n1,2,y\n", {}, "numbers where column names belong"),
        ("", {}, "empty"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(write, text, options, message):
    path = write(text)
    with pytest.raises(DataError, match=message) as error:
        open_data(path, DataOptions(**options))
    assert str(path) in str(error.value) or path.stem in str(error.value)


def test_other_encodings_are_refused(write):
    with pytest.raises(DataError, match="UTF-8"):
        open_data(write(csv(("a", numbers()), ("target", flips(values=("ä", "ö")))), encoding="latin-1"))


def test_a_damaged_parquet_file_is_refused(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_data(tmp_path / "t.parquet")


def test_missing_targets_in_parquet_may_be_nulls_or_not_a_number(tmp_path):
    values = [0.5, float("nan"), None, *np.linspace(0, 1, 9)]
    parquet.write_table(pa.table({"a": list(range(12)), "y": pa.array(values)}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"missing in 2 rows: 2, 3"):
        open_data(tmp_path / "t.parquet")
