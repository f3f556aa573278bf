"""The rows of the paper's tables as data, and how to choose among them."""

import math

import pytest

from examples.paper import rows

# Of the paper's tables: rows, sum of the accuracies, and how many rows have WN, WC, WS, GC, BN and
# "fully" in the first column.
SUMS = {
    2: (13, 1057.95),
    3: (39, 2991.52, {"WN": 5, "WC": 14, "WS": 9, "GC": 18, "BN": 15, "fully": 5}),
    4: (27, 1394.59, {"WN": 4, "WC": 11, "WS": 4, "GC": 11, "BN": 13, "fully": 3}),
    5: (6, 503.95, {"WN": 1, "WC": 2, "WS": 1, "GC": 2, "BN": 5, "fully": 0}),
}


@pytest.mark.parametrize("table", SUMS)
def test_tables_hold_the_papers_figures(table):
    count, total, *methods = SUMS[table]
    read = rows.read_table(table)
    figures = [row.paper for row in read if not math.isnan(row.paper)]
    assert [row.number for row in read] == [*range(1, count + 1)]
    assert sum(figures) == pytest.approx(total)
    for word, expected in methods[0].items() if methods else ():
        assert sum(word in row.method.split(", ") for row in read) == expected


def test_the_only_nan_is_ws_on_b():
    lost = [row for table in SUMS for row in rows.read_table(table) if math.isnan(row.paper)]
    assert [row.name for row in lost] == ["3.20 (b) WS"]


@pytest.mark.parametrize(
    ("table", "number", "fields"),
    [
        (2, 1, {"projection": None, "gradient_area": None, "error_area": None, "model": "c"}),
        (2, 2, {"projection": "WC", "weight_area": "global", "gradient_area": None}),
        (2, 9, {"projection": None, "gradient_area": "instance", "error_area": None}),
        (2, 11, {"projection": None, "gradient_area": None, "error_area": "sample"}),
        (3, 8, {"projection": "WC", "gradient_area": "tensor", "fully": True, "batch_norm": False}),
        (
            3,
            14,
            {"projection": "WS", "gradient_area": "tensor", "fully": False, "batch_norm": True},
        ),
        (4, 16, {"projection": "WN", "gradient_area": None, "batch_norm": True, "model": "b"}),
        (5, 3, {"projection": "WN", "batch_norm": False, "dataset": "VOC2012", "model": "d"}),
    ],
)
def test_a_method_is_read_from_its_name(table, number, fields):
    row = rows.read_table(table)[number - 1]
    assert {name: getattr(row, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((3,), range(1, 40)),
        ((3, "a"), range(1, 17)),
        ((3, "a", "1-3, 16"), (1, 2, 3, 16)),
        ((3, None, "wc, gc*"), (7, 8, 15, 16, 22, 29, 38, 39)),
        ((3, "c", "GC"), (35,)),
        ((5, "d", "*, BN"), (1, 2, 4, 5, 6)),
    ],
)
def test_rows_are_chosen_by_number_or_pattern(arguments, numbers):
    assert [row.number for row in rows.choose(*arguments)] == [*numbers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, None, "WX"), r"'WX' fits none of the rows of Table 3:\n *1 \(a\) Baseline"),
        ((3, "a", "17"), "'17' fits none"),
        ((3, None, "1-"), "numbers and ranges such as 1,3-5, got '1-'"),
        ((4, "d"), "Table 4 has the networks a, b, c, not 'd'"),
    ],
)
def test_what_fits_nothing_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        rows.choose(*arguments)


@pytest.mark.parametrize(
    ("table", "number", "baseline"),
    [
        (2, 13, 1),
        (3, 7, 1),
        (3, 16, 9),
        (3, 20, 17),
        (3, 29, 23),
        (3, 39, 30),
        (5, 3, 1),
        (5, 6, 1),
    ],
)
def test_a_row_is_compared_to_the_baseline_of_its_network(table, number, baseline):
    read = rows.read_table(table)
    assert rows.baseline_of(read[number - 1], read).number == baseline
