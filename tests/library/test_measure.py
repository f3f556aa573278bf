"""`measure` against NumPy, under transformations, and what it costs."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import wcgc

from helpers.reference import AREAS, LAYOUTS, each_slice, kernel_axes, kernels

EPS = np.finfo(np.float32).eps
KERNELS = ("dense", "dense, one input", "conv 2d", "Equinox conv", "scanned attention output")


def some_kernels(rng):
    drawn = kernels(rng)
    return {name: drawn[name] for name in KERNELS}


AXES = {name: kernel_axes()[name] for name in KERNELS}


def test_by_hand():
    params = {
        "dense": jnp.array([[3.0, 4.0], [1.0, -4.0]]),
        "other": jnp.array([[-5.0], [-5.0]]),
        "bias": jnp.array([7.0]),
    }
    measured = wcgc.measure(params)
    assert set(measured.leaves) == {"dense", "other"}
    # Columns (3, 1) and (4, -4) have means 2 and 0 and the squared norms 10 and 32.
    assert measured.leaves["dense"].largest_mean == 2
    assert measured.leaves["dense"].fraction_removed == pytest.approx(8 / 42)
    assert measured.leaves["other"].largest_mean == 5
    assert measured.leaves["other"].fraction_removed == 1
    assert measured.largest_mean == 5
    assert measured.fraction_removed == pytest.approx((8 + 50) / (42 + 50))


@pytest.mark.parametrize("area", AREAS)
def test_agrees_with_the_definition(rng, area):
    tree = some_kernels(rng)
    measured = jax.jit(lambda tree: wcgc.measure(tree, area, axes=AXES))(
        jax.tree.map(jnp.float32, tree)
    )
    removed, norm = 0.0, 0.0
    for name, leaf in measured.leaves.items():
        centralized = each_slice(
            lambda part: part - part.mean(), tree[name], LAYOUTS[name][1], area
        )
        means = tree[name] - centralized
        size = tree[name].size
        np.testing.assert_allclose(leaf.largest_mean, abs(means).max(), rtol=size * EPS)
        fraction = np.sum(means**2) / np.sum(tree[name] ** 2)
        np.testing.assert_allclose(leaf.fraction_removed, fraction, rtol=2 * size * EPS)
        removed, norm = removed + np.sum(means**2), norm + np.sum(tree[name] ** 2)
    np.testing.assert_allclose(measured.fraction_removed, removed / norm, rtol=1e-5)
    explained = wcgc.explain(tree, area, axes=AXES).rows
    assert set(measured.leaves) == {row.path for row in explained if not row.reason}


def test_what_centralizing_leaves_and_what_it_removes(rng):
    @jax.jit
    def compare(tree):
        centralized = wcgc.centralize(tree, axes=AXES)
        kept = jax.tree.map(
            lambda after, before: jnp.sum(after**2) / jnp.sum(before**2), centralized, tree
        )
        before, after = (wcgc.measure(tree, axes=AXES) for tree in (tree, centralized))
        return before, after, kept

    tree = jax.tree.map(jnp.float32, some_kernels(rng))
    before, after, kept = compare(tree)
    for name, leaf in before.leaves.items():
        np.testing.assert_allclose(kept[name] + leaf.fraction_removed, 1, rtol=100 * EPS)
    largest = max(abs(leaf).max() for leaf in tree.values())
    slice_size = max(row.slice_size for row in wcgc.explain(tree, axes=AXES).rows)
    assert 0 < after.largest_mean <= (1 + 2 * slice_size) * EPS * largest
    assert after.fraction_removed <= EPS


def test_odd_leaves():
    measured = wcgc.measure(
        {
            "zero": jnp.zeros((3, 2)),
            "nan": jnp.array([[1.0, jnp.nan], [1.0, 1.0]]),
            "complex": jnp.array([[3 + 4j], [3 + 4j]]),
            "half": jnp.full((3000, 1), 1.5, jnp.bfloat16),
            "numpy": np.ones((2, 2)),
            "none": None,
            "count": jnp.ones((2, 2), int),
        }
    )
    assert set(measured.leaves) == {"zero", "nan", "complex", "half", "numpy"}
    values = {
        path: (float(leaf.largest_mean), float(leaf.fraction_removed))
        for path, leaf in measured.leaves.items()
    }
    assert values["zero"] == (0, 0)
    assert values["complex"] == (5, 1)
    assert values["half"] == (1.5, 1)
    assert values["numpy"] == (1, 1)
    assert np.isnan(values["nan"]).all()
    assert jnp.isnan(measured.largest_mean)
    assert jnp.isnan(measured.fraction_removed)


def test_squares_out_of_range():
    assert wcgc.measure(jnp.full((2, 2), 1e-25)).fraction_removed == 0
    assert jnp.isnan(wcgc.measure(jnp.full((2, 2), 1e25)).fraction_removed)
    assert wcgc.measure(jnp.full((2, 2), 1e25)).largest_mean == jnp.float32(1e25)


def test_precision_follows_the_leaves(x64):
    tree = {"single": jnp.ones((2, 2), jnp.float32), "double": jnp.ones((2, 2), jnp.float64)}
    measured = wcgc.measure(tree)
    assert measured.leaves["single"].largest_mean.dtype == jnp.float32
    assert measured.leaves["double"].fraction_removed.dtype == jnp.float64
    assert measured.largest_mean.dtype == jnp.float64


def test_a_tree_without_kernels_measures_zero():
    measured = wcgc.measure({"bias": jnp.ones(3)})
    assert (measured.largest_mean, measured.fraction_removed, measured.leaves) == (0, 0, {})


def test_it_is_a_pytree_under_jit_vmap_and_scan(rng):
    stack = jnp.float32(rng.normal(size=(4, 3, 2)))
    traces = []

    @jax.jit
    def measure(kernel):
        traces.append(kernel)
        return wcgc.measure({"kernel": kernel}, "global")

    one_by_one = [measure(kernel) for kernel in stack]
    assert len(traces) == 1
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    assert expected.area == "global"
    vmapped = jax.vmap(measure)(stack)
    scanned = jax.lax.scan(lambda carry, kernel: (carry, measure(kernel)), None, stack)[1]
    for result in (vmapped, scanned):
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=8 * EPS), result, expected)


def test_it_prints_as_a_table(rng):
    measured = jax.jit(wcgc.measure)({"b": jnp.array([[1.0], [3.0]]), "a": jnp.zeros((2, 2))})
    assert repr(measured).splitlines() == [
        'area "tensor": one mean per output filter',
        "",
        "leaf  largest |mean|  norm² removed",
        "----  --------------  -------------",
        "a                  0              0",
        "b                  2            0.8",
        "----  --------------  -------------",
        "All together: largest |mean| 2, 0.8 of norm² removed.",
    ]
    assert "<td" in measured._repr_html_()
    console = rich.console.Console(width=120, file=io.StringIO())
    console.print(measured)
    assert "largest |mean| 2, 0.8 of norm² removed" in " ".join(console.file.getvalue().split())


def test_it_prints_before_it_has_numbers():
    text = []
    jax.jit(lambda kernel: text.append(str(wcgc.measure(kernel))))(jnp.ones((2, 2)))
    assert "(the array)" in text[0]
    assert "[1. 1. 1.]" in str(jax.vmap(wcgc.measure)(jnp.ones((3, 2, 2))))


def test_no_temporary_of_a_kernels_size_is_made():
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32)
    size = kernel.size * kernel.dtype.itemsize
    compiled = jax.jit(wcgc.measure).lower(kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.02 * size
    # At most two loops over the kernel, one for the sums and one for those of squares.
    assert compiled.cost_analysis()["bytes accessed"] < 2.02 * size


@pytest.mark.parametrize(
    ("tree", "arguments", "error", "message"),
    [
        ({"a/b": jnp.ones((2, 2)), "a": {"b": jnp.ones((2, 2))}}, {}, ValueError, "'a/b'"),
        (jax.ShapeDtypeStruct((2, 2), float), {}, TypeError, r"'\(the array\)' is a ShapeDtypeSt"),
        (jnp.ones((2, 2)), {"area": "layer"}, ValueError, "'layer'"),
        (jnp.ones((2, 2)), {"axes": None}, TypeError, "got None"),
        (jnp.ones((2, 2)), {"axes": wcgc.KernelAxes(2)}, ValueError, "in_axis=2"),
    ],
)
def test_bad_arguments(tree, arguments, error, message):
    with pytest.raises(error, match=message):
        wcgc.measure(tree, **arguments)
