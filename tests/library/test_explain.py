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
    assert (kernel.slice_axes, kernel.slices, kernel.slice_size) == ((0, 1, 2), 16, 72)
    layers = rows["layers"]
    assert layers.roles == ("batch", "in", "out")
    assert (layers.slice_axes, layers.slices, layers.slice_size) == ((1,), 10, 4)
    assert {path: row.reason for path, row in rows.items() if row.slice_axes is None} == {
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
    assert (row.path, row.slice_axes, row.slices) == ("", averaged, slices)
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


def test_leaves_are_the_rows_by_path():
    explanation = explained()
    assert list(explanation.leaves) == [row.path for row in explanation.rows]
    assert explanation.leaves["layers"] is explanation.rows[6]
    with pytest.raises(ValueError, match="Two leaves have the path 'a/b'"):
        _ = wcgc.explain({"a/b": jnp.ones((2, 2)), "a": {"b": jnp.ones((2, 2))}}).leaves


def test_the_former_name_of_the_axes_of_a_slice():
    with pytest.warns(DeprecationWarning, match="slice_axes"):
        assert explained().leaves["layers"].averaged == (1,)


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
        "a/conv/kernel  (3, 3, 8, 16)  (0, 1, 2) = spatial, spatial, in       16       72"
    )
    assert summary.startswith("1,192 of")
    assert repr(explained()) == str(explained())


def test_text_does_not_depend_on_the_terminal(monkeypatch):
    table = str(explained())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert str(explained()) == repr(explained()) == table
    assert "\x1b" not in table
    measured = wcgc.measure({"kernel": jnp.eye(3)})
    assert "\x1b" not in str(measured) + repr(measured)


def many(layers=40, width=64):
    """A transformer whose layers are not stacked: 6 leaves each, and one of its own."""
    layer = {
        "attn": {"q": {"kernel": (width, 4, 16), "bias": (4, 16)}},
        "mlp": {"up": {"kernel": (width, 2 * width)}, "down": {"kernel": (2 * width, width)}},
        "norm_1": {"scale": (width,)},
        "norm_2": {"scale": (width,)},
    }
    shapes = {"dec": {"layers": [layer] * layers}, "head_2": {"kernel": (width, 10)}}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def leaves_of(table):
    """The first column of a table as text."""
    return [line.split("  ")[0] for line in table.splitlines()[4:] if line][:-2]


class TestManyLeaves:
    def test_repeated_layers_share_a_row(self):
        explanation = wcgc.explain(many())
        assert leaves_of(str(explanation)) == [
            "dec/layers/*/attn/q/bias x40",
            "dec/layers/*/attn/q/kernel x40",
            "dec/layers/*/mlp/down/kernel x40",
            "dec/layers/*/mlp/up/kernel x40",
            "dec/layers/*/norm_*/scale x80",
            "head_2/kernel",
        ]
        assert len(explanation.rows) == 241
        assert explanation.rows[1].path == "dec/layers/0/attn/q/kernel"
        assert "in 81 of 241 leaves" in str(explanation)

    def test_numbers_that_do_not_differ_are_kept(self):
        params = {f"block{n}": {"Dense_1": {"kernel": jnp.ones((3, 3))}} for n in range(70)}
        params["block7"]["Dense_1"] = {"kernel": jnp.ones((3, 4))}
        leaves = leaves_of(str(wcgc.explain(params)))
        assert leaves == ["block*/Dense_1/kernel x69", "block7/Dense_1/kernel"]

    def test_what_differs_has_a_row_of_its_own(self):
        params = {f"l{n}": {"kernel": jnp.ones((3, 3 + n % 2))} for n in range(70)}
        axes = wcgc.by_path(("l3/", None), ("", wcgc.FLAX))
        leaves = leaves_of(str(wcgc.explain(params, axes=axes)))
        assert leaves == ["l*/kernel x35", "l*/kernel x34", "l3/kernel"]

    def test_in_full_on_request(self):
        assert len(leaves_of(str(wcgc.explain(many(), full=True)))) == 241

    def test_sixty_rows_are_shown_as_they_are(self):
        kernels = {f"l{n:02}": jnp.ones((3, 3)) for n in range(61)}
        assert len(leaves_of(str(wcgc.explain(kernels)))) == 1
        del kernels["l00"]
        assert len(leaves_of(str(wcgc.explain(kernels)))) == 60

    def test_what_is_centralized_alone_on_request(self):
        explanation = wcgc.explain(many(), only_centralized=True)
        assert leaves_of(str(explanation)) == [
            "dec/layers/*/mlp/down/kernel x40",
            "dec/layers/*/mlp/up/kernel x40",
            "head_2/kernel",
        ]
        assert len(explanation.rows) == 241
        assert "in 81 of 241 leaves" in str(explanation)

    def test_no_row_is_wider_than_80_columns(self):
        names = {"transformer_of_a_long_name": {"the_first_block_of_all": many(2)}}
        names["conv"] = {"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)}
        for explanation in (wcgc.explain(names), wcgc.explain(names, full=True), explained()):
            *rows, _ = str(explanation).splitlines()
            assert max(map(len, rows)) <= 80
        table = str(wcgc.explain(names))
        assert "(3, 3, 8, 16)  spatial, in " in table
        assert "transformer" in table
        assert "up/kernel" in table
        assert "none: fewer than two axes\n" in table
        assert [row.path for row in wcgc.explain(names).rows][2].startswith(
            "transformer_of_a_long_name/the_first_block_of_all/dec/layers/0/attn"
        )

    def test_paths_make_room_for_reasons_as_long_as_they_can_be_read(self):
        path = "the_path_of_an_array_in_the_very_middle_of_a_model"
        assert len(path) == 50
        for reason, shown, fits in (
            ("short", "the_path_of_an_arra…ry_middle_of_a_model", True),
            ("a reason of 26 characters.", "the_path_of_an_arr…y_middle_of_a_model", True),
            ("a reason so long " * 5, "the_path_of_an_arr…y_middle_of_a_model", False),
        ):
            alone = wcgc.LeftAlone(reason)
            table = str(wcgc.explain({path: jnp.ones((3, 3))}, axes={path: alone}))
            (line,) = (line for line in table.splitlines() if line.startswith("the_path"))
            assert line.split()[0] == shown
            assert len(line) <= 80
            assert (f"none: {reason}" in line) == fits

    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_rich_folds_no_row_from_80_columns_on(self, width):
        console = rich.console.Console(width=width, file=io.StringIO())
        names = {"transformer_of_a_long_name": {"the_first_block_of_all": many()}}
        console.print(wcgc.explain(names))
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) - (2 if width == 80 else 1) == 5 + 6
        assert ("…" in console.file.getvalue()) == (width < 160)

    def test_a_notebook_gets_whole_paths(self):
        names = {"transformer_of_a_long_name": {"the_first_block_of_all": many()}}
        html = wcgc.explain(names)._repr_html_()
        path = "transformer_of_a_long_name/the_first_block_of_all/dec/layers/*/mlp/up/kernel"
        assert f"{path} x40" in html


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
