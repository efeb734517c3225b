import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravine.show.metric import (
    clock,
    count,
    duration,
    interval_of,
    interval_text,
    metric_named,
    rate,
    significant,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.303, "2.303"),
        (53.2, "53.20"),
        (1204.4, "1,204"),
        (0.07, "0.0700"),
        (0.00123, "0.00123"),
        (0.0, "0.000"),
        (-0.5, "-0.500"),
        (12345.6, "12,346"),
        (2e-7, "2.0e-07"),
        (3e8, "3.0e+08"),
        (float("nan"), "–"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_for_people(value, text):
    assert significant(value) == text


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_numbers_keep_their_value(value):
    read = float(significant(value).replace(",", ""))
    assert math.isclose(read, value, rel_tol=0.06 if value >= 1e6 or value < 1e-4 else 0.006)


def test_rates_spans_and_counts():
    assert [rate(value) for value in (0.1, 0.001, 3.21e-5)] == ["0.1", "0.001", "3.2e-05"]
    assert [duration(value) for value in (0.04, 12.34, 59.96, 125, 7980)] == [
        "0.0 s",
        "12.3 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 13 min",
    ]
    assert duration(float("inf")) == clock(float("inf")) == "–"
    assert [clock(value) for value in (12.34, 59.96, 125, 7985)] == ["12.3 s", "1:00", "2:05", "2:13:05"]
    assert [count(value) for value in (9600, 9999.7, 12_400, 35_000, 999_600, 3_100_000, 7.24e10)] == [
        "9,600",
        "10k",
        "12.4k",
        "35k",
        "1M",
        "3.1M",
        "72.4G",
    ]


def test_metrics_write_their_values_and_intervals():
    accuracy, rmse = metric_named("accuracy"), metric_named("rmse")
    assert (accuracy.text(0.981), rmse.text(53.2), accuracy.text(None)) == ("98.1%", "53.20", "–")
    assert interval_text(accuracy, (0.964, 0.992)) == "96.4% to 99.2%"
    assert interval_of({"accuracy_interval": [0.1, 0.2]}, "accuracy") == (0.1, 0.2)
    assert interval_of({"accuracy_interval": [None, 0.2]}, "accuracy") is None
    assert metric_named("top_five").title == "top five"
