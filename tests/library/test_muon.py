"""One tree of axes for centralization and for `optax.contrib.muon`, in both directions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import wcgc
from wcgc import FLAX, KernelAxes, LeftAlone

from helpers import reference


def matrices(kernel, roles):
    """The kernel as matrices (batch, what is summed over, outputs), by the role of each axis."""
    order = [axis for kind in ("b", "is", "o") for axis, role in enumerate(roles) if role in kind]
    shape = [
        int(np.prod([n for n, role in zip(kernel.shape, roles, strict=True) if role in kind]))
        for kind in ("b", "is", "o")
    ]
    return np.transpose(kernel, order).reshape(shape)


def orthogonal(matrix):
    """What Muon's iteration comes near to."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


LAYOUTS = {name: layout for name, layout in reference.LAYOUTS.items() if name != "dense, one input"}


@pytest.mark.usefixtures("standard_promotion")
def test_muon_takes_the_matrices_that_the_axes_tell(rng):
    kernels = {name: jnp.float32(rng.normal(size=layout[2])) for name, layout in LAYOUTS.items()}
    axes = {name: layout[0] for name, layout in LAYOUTS.items()}
    numbers = wcgc.muon_dimension_numbers(kernels, axes=axes)
    tx = optax.contrib.scale_by_muon(weight_dimension_numbers=numbers)
    updates, _ = jax.jit(tx.update)(kernels, tx.init(kernels))
    for name, (_, roles, _) in LAYOUTS.items():
        ours = matrices(np.asarray(updates[name]), roles)
        expected = [orthogonal(matrix) for matrix in matrices(np.asarray(kernels[name]), roles)]
        # Singular values end within 0.7 to 1.2: the iteration is not exact.
        alignment = np.sum(ours * expected, axis=(1, 2)) / min(ours.shape[1:])
        assert np.all((alignment > 0.65) & (alignment < 1.25)), name


@pytest.mark.parametrize(
    ("axes", "ndim", "numbers"),
    [
        (FLAX, 2, MuonDimensionNumbers((0,), (1,))),
        (FLAX, 4, MuonDimensionNumbers((0, 1, 2), (3,))),
        (wcgc.EQUINOX, 4, MuonDimensionNumbers((1, 2, 3), (0,))),
        (KernelAxes(-3, (-2, -1)), 3, MuonDimensionNumbers((0,), (1, 2))),
        (KernelAxes(-3, (-1, -2), batch_axis=0), 4, MuonDimensionNumbers((1,), (3, 2))),
        (KernelAxes((), (-2, -1)), 4, MuonDimensionNumbers((0, 1), (2, 3))),
    ],
)
def test_conversions_keep_what_is_summed_over(axes, ndim, numbers):
    assert axes.to_muon(ndim) == numbers
    back = KernelAxes.from_muon(numbers, ndim)
    assert back.to_muon(ndim) == numbers
    in_axes, out_axes, batch_axes, spatial = axes.resolve(ndim)
    assert back.resolve(ndim) == (tuple(sorted(in_axes + spatial)), out_axes, batch_axes, ())


def test_defaults_and_negative_axes_of_muon():
    assert KernelAxes.from_muon(MuonDimensionNumbers(), 2) == KernelAxes((0,), (1,))
    assert KernelAxes.from_muon(MuonDimensionNumbers(-2, -1), 4) == KernelAxes((2,), (3,), (0, 1))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (MuonDimensionNumbers(0, 2), r"out_axis=2 .*out of range for 2 axes"),
        (MuonDimensionNumbers(0, -2), "names one of 2 axes twice"),
        (MuonDimensionNumbers(0, ()), "out_axis is empty"),
    ],
)
def test_numbers_that_do_not_fit(numbers, message):
    with pytest.raises(ValueError, match=message):
        KernelAxes.from_muon(numbers, 2)
    with pytest.raises(ValueError, match=rf"{message}.*leaf 'w' has shape \(3, 3\)"):
        wcgc.explain({"w": jnp.eye(3)}, axes={"w": numbers})


def test_a_kernel_that_sums_over_nothing_is_no_matrix():
    with pytest.raises(ValueError, match=r"of 2 axes sums over none of them"):
        KernelAxes((), (0, 1)).to_muon(2)


def test_trees_of_muon_serve_as_axes(rng):
    """And single ones, in prefixes and rules."""
    params = {"layers": jnp.float32(rng.normal(size=(5, 4, 3))), "bias": jnp.ones(3)}
    numbers = MuonDimensionNumbers(-2, -1)
    for axes in (
        {"layers": numbers, "bias": None},
        wcgc.by_path(("layers", numbers)),
        lambda tree: {"layers": numbers, "bias": LeftAlone("a bias")},
    ):
        rows = wcgc.explain(params, axes=axes).rows
        assert rows[1].slice_axes == (1,)
        assert rows[1].roles == ("batch", "in", "out")
    centred = wcgc.centralize(params, axes=numbers)
    np.testing.assert_allclose(np.mean(centred["layers"], axis=1), 0, atol=1e-7)


@pytest.mark.parametrize("numbers", [None, FLAX, (-2, -1)], ids=repr)
def test_what_are_no_dimension_numbers(numbers):
    message = (
        f"numbers must be optax.contrib.MuonDimensionNumbers, got {numbers!r}. What Muon leaves"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        KernelAxes.from_muon(numbers, 2)


def test_what_is_left_alone_is_for_adam():
    params = {
        "kernel": jnp.eye(3),
        "gate": jnp.ones((1, 3)),
        "scale": jnp.ones((2, 3)),
        "bias": jnp.ones(3),
        "none": None,
    }
    numbers = wcgc.muon_dimension_numbers(params)
    assert numbers == {
        "kernel": MuonDimensionNumbers((0,), (1,)),
        "gate": None,
        "scale": None,
        "bias": None,
        "none": None,
    }
    assert wcgc.muon_dimension_numbers(params, mask=False)["kernel"] is None


@pytest.mark.usefixtures("standard_promotion")
def test_one_tree_serves_both_in_one_optimizer(rng):
    params = {"layers": jnp.float32(rng.normal(size=(5, 4, 3))), "bias": jnp.ones(3)}
    axes = {"layers": KernelAxes(batch_axis=0), "bias": LeftAlone("a bias")}
    numbers = wcgc.muon_dimension_numbers(params, axes=axes)
    muon = optax.contrib.muon(0.1, muon_weight_dimension_numbers=numbers)
    for tree in axes, numbers:
        tx = wcgc.centralized(muon, axes=tree)
        updates, _ = tx.update(params, tx.init(params), params)
        means = np.mean(params["layers"] + updates["layers"], axis=1)
        np.testing.assert_allclose(means, 0, atol=1e-6)
