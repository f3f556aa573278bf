"""The table of what centralization does: its rows, its totals and its three renderings."""

import html.parser
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console

import wcgc

SHAPE = (3, 3, 8, 16)
PARAMS = {
    "a/conv": {"kernel": np.ones(SHAPE, np.float32), "bias": np.ones(16, np.float32)},
    "count": np.zeros((2, 2), np.int32),
    "empty": np.ones((0, 4), np.float32),
    "frozen": np.ones((4, 4), np.float32),
    "gate": np.ones((1, 4), np.float32),
    "layers": np.ones((5, 4, 2), np.float32),
    "masked": optax.MaskedNode(),
    "none": None,
    "norms": np.ones((5, 4), np.float32),
    "skipped": np.ones((4, 4), np.float32),
}
STACKED = wcgc.KernelAxes(batch_axis=0)
AXES = wcgc.by_path(("frozen", None), ("layers|norms", STACKED), ("", wcgc.FLAX))
MASK = {name: name != "skipped" for name in PARAMS}


def explained(area="tensor"):
    return wcgc.explain(PARAMS, area, axes=AXES, mask=MASK)


def test_rows_say_what_is_averaged_and_why_not():
    rows = {row.path: row for row in explained().rows}
    kernel = rows["a/conv/kernel"]
    assert kernel.shape == SHAPE
    assert kernel.size == 1152
    assert kernel.roles == ("spatial", "spatial", "in", "out")
    assert (kernel.averaged, kernel.slices, kernel.slice_size) == ((0, 1, 2), 16, 72)
    layers = rows["layers"]
    assert layers.roles == ("batch", "in", "out")
    assert (layers.averaged, layers.slices, layers.slice_size) == ((1,), 10, 4)
    assert {path: row.reason for path, row in rows.items() if row.averaged is None} == {
        "a/conv/bias": "fewer than two axes",
        "count": "dtype int32 is not floating or complex",
        "empty": "no elements",
        "frozen": "axes are None",
        "gate": "slices of one element",
        "masked": "empty node",
        "none": "empty node",
        "norms": "fewer than two axes beside batch axes",
        "skipped": "mask is False",
    }
    assert all(row.slices == row.slice_size == 0 for row in rows.values() if row.reason)
    assert rows["none"].shape is None


@pytest.mark.parametrize(
    ("area", "averaged", "slices"),
    [
        ("tensor", (0, 1, 2), 16),
        ("channel", (0, 1, 3), 8),
        ("instance", (0, 1), 128),
        ("global", (0, 1, 2, 3), 1),
    ],
)
def test_each_area_and_what_centralize_does(rng, area, averaged, slices):
    kernel = rng.normal(size=SHAPE).astype(np.float32)
    (row,) = wcgc.explain(kernel, area).rows
    assert (row.path, row.averaged, row.slices) == ("", averaged, slices)
    assert row.slices * row.slice_size == row.size
    removed = kernel - np.asarray(wcgc.centralize(kernel, area))
    assert np.unique(removed.round(5)).size == slices
    np.testing.assert_allclose(
        removed, np.broadcast_to(kernel.mean(averaged, keepdims=True), SHAPE), atol=1e-6
    )


def test_totals():
    explanation = explained()
    assert explanation.centralized == 1152 + 40
    assert explanation.total == 1152 + 16 + 4 + 16 + 4 + 40 + 20 + 16
    assert (
        "1,192 of 1,268 parameters (94.0 %) in 2 of 11 leaves are centralized, with 26 means"
        in (str(explanation))
    )


def test_shapes_suffice():
    shapes = jax.eval_shape(lambda: PARAMS)
    assert wcgc.explain(shapes, axes=AXES, mask=MASK) == explained()


def test_other_leaves_are_listed():
    (row,) = wcgc.explain({"activation": jax.nn.relu}).rows
    assert (row.shape, row.size, row.reason) == (None, 0, "not an array")


def test_an_empty_tree():
    explanation = wcgc.explain({})
    assert explanation.rows == ()
    assert "0 of 0 parameters (0.0 %)" in str(explanation)


def test_the_plain_table_is_aligned():
    *table, summary = str(explained()).splitlines()
    title, blank, heading, rule, *lines, last_rule = table
    assert title == 'area "tensor": one mean per output filter'
    assert blank == ""
    assert rule == last_rule
    assert heading.split() == ["leaf", "shape", "averaged", "over", "slices", "of", "size"]
    assert max(map(len, [heading, *lines])) <= len(rule)
    (kernel,) = (line for line in lines if line.startswith("a/conv/kernel"))
    assert kernel == (
        "a/conv/kernel  (3, 3, 8, 16)  (0, 1, 2) = spatial, spatial, in"
        "                        16       72"
    )
    assert summary.startswith("1,192 of")
    assert repr(explained()) == str(explained())


def test_a_terminal_gets_colour_if_rich_is_installed(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    table = str(explained())
    assert "\x1b[" in table
    for word in ("a/conv/kernel", "(0, 1, 2) = spatial, spatial, in", "left alone: axes are None"):
        assert word in table
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "\x1b[" not in str(explained())


def printed_by_rich(width):
    console = rich.console.Console(width=width, file=io.StringIO())
    console.print(wcgc.explain({"[bold]x[/bold]": jnp.ones((10, 10)), "y": jnp.ones((1, 2))}))
    return console.file.getvalue()


def test_rich_prints_paths_as_they_are():
    table = printed_by_rich(width=120)
    for text in ("[bold]x[/bold]", "(10, 10)", "(0) = in", "left alone: slices of one element"):
        assert text in table


def test_rich_folds_on_a_narrow_terminal():
    table = printed_by_rich(width=50)
    assert max(map(len, table.splitlines())) <= 50
    assert "…" not in table


class Cells(html.parser.HTMLParser):
    """Collects the texts of a table's cells, row by row."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_a_notebook_gets_a_table():
    params = {"<b>": jnp.ones((2, 2))}
    cells = Cells()
    cells.feed(wcgc.explain(params)._repr_html_())
    heading, row, summary = cells.rows
    assert heading == ["leaf", "shape", "averaged over", "slices", "of size"]
    assert row == ["<b>", "(2, 2)", "(0) = in", "2", "2"]
    assert summary[0].startswith("4 of 4 parameters (100.0 %)")
    assert cells.open == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"area": "layer"}, ValueError, "'layer'"),
        ({"axes": wcgc.KernelAxes(in_axis=5)}, ValueError, r"a/conv/kernel.*\(3, 3, 8, 16\)"),
        ({"axes": wcgc.by_path(("nothing", wcgc.FLAX))}, ValueError, "a/conv/kernel"),
        ({"mask": {"a": True}}, ValueError, "mask"),
        ({"mask": 1}, TypeError, "a bool"),
    ],
)
def test_bad_arguments(arguments, error, message):
    params = {"frozen": PARAMS["frozen"], "a/conv": PARAMS["a/conv"]}
    with pytest.raises(error, match=message):
        wcgc.explain(params, **arguments)
