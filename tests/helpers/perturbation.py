"""What perturbations show of a kernel's axes, found from values alone."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np


def connections(output, kernel_shape, inputs, each=jax.vmap):
    """Whether kernel entry k carries input feature i to output feature o: an array (i, o, k).

    One kernel entry and one input are switched on at a time, which tells if the output is affine in
    the kernel. Features at different positions, over which a convolution slides, are one unit.

    Args:
      output: the function of the kernel and the input.
      kernel_shape: the kernel's shape.
      inputs: the axes of the input: lengths of (f)eature axes, which are units of their own, and of
        axes of (p)ositions, as in "p4 f3". In the output, positions come after the same features.
      each: makes a function of one entry one of all of them.
    """
    kinds = [axis[0] for axis in inputs.split()]
    shape = tuple(int(axis[1:]) for axis in inputs.split())
    size = math.prod(kernel_shape)

    def moves(x):
        without = output(jnp.zeros(kernel_shape), x)
        entries = jnp.eye(size).reshape(-1, *kernel_shape)
        return each(lambda kernel: output(kernel, x) - without)(entries)

    one_hot = jnp.eye(math.prod(shape)).reshape(-1, *shape)
    connected = np.moveaxis(np.asarray(jax.jit(each(moves))(one_hot)) != 0, 1, -1)
    connected = connected.reshape(*shape, *connected.shape[1:])
    positions = [axis for axis, kind in enumerate(kinds) if kind == "p"]
    connected = connected.any(axis=(*positions, *(len(shape) + axis for axis in positions)))
    features = math.prod(size for size, kind in zip(shape, kinds, strict=True) if kind == "f")
    return connected.reshape(features, -1, size)


def as_sets(rows):
    """The non-empty sets of kernel entries among the rows of a boolean array."""
    return {frozenset(np.flatnonzero(row)) for row in rows.reshape(-1, rows.shape[-1]) if row.any()}


def slices(axes, shape, area):
    """The sets of kernel entries of each slice, from the roles that `axes` gives."""
    in_axes, out_axes, batch_axes, _ = axes.resolve(len(shape))
    kept = {
        "tensor": out_axes + batch_axes,
        "channel": in_axes + batch_axes,
        "instance": in_axes + out_axes + batch_axes,
    }[area]
    entries = np.arange(np.prod(shape)).reshape(shape)
    entries = np.moveaxis(entries, kept, range(len(kept)))
    return {
        frozenset(entries[index].ravel().tolist())
        for index in np.ndindex(entries.shape[: len(kept)])
    }


def drawn(tree, seed=0):
    """Random arrays for all floating arrays, abstract or not, of a tree."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype)
        return leaf

    return jax.tree.map(draw, tree)


def gradients(function, leaves, count):
    """Gradients of random combinations of a function's outputs by each leaf, for fixed inputs."""
    size = jax.eval_shape(function, leaves).size
    weights = jnp.float32(np.random.default_rng(1).normal(size=(count, size)))

    @jax.jit
    def pulled(leaves, weights):
        _, pull = jax.vjp(lambda leaves: function(leaves).ravel(), leaves)
        return jax.vmap(pull)(weights)[0]

    return pulled(leaves, weights)


def fan_in(gradient, reads):
    """The axes along which one filter of a kernel lies, and those that number other kernels.

    A filter's gradient is a combination of what the layer reads, whatever is asked of the outputs.
    Along the axes of a filter, the gradients for one input and any combination of outputs thus span
    no more dimensions than the layer reads vectors, for each of the kernels that do not read the
    same. Along other axes, they span them all.

    Args:
      gradient: gradients of shape (combinations of outputs, *kernel), more than the layer reads
        vectors.
      reads: how many vectors the layer reads.

    Returns:
      The two sets of axes. The latter may hold output axes, where filters read different things.
    """
    gradient = np.asarray(gradient, np.float64)
    axes = [axis for axis in range(gradient.ndim - 1) if gradient.shape[axis + 1] > 1]
    for count in range(len(axes)):
        found = [
            (set(filter_axes), set(numbering))
            for numbering in itertools.combinations(axes, count)
            for filter_axes in _subsets(set(axes) - set(numbering))
            if _spans_few(gradient, filter_axes, numbering, reads)
        ]
        if found:
            assert len(found) == 1, f"the sizes of the model do not tell which of {found}"
            return found[0]
    raise AssertionError("no axes of the kernel are those of a filter")


def _subsets(axes):
    return (
        subset
        for size in range(1, len(axes) + 1)
        for subset in itertools.combinations(sorted(axes), size)
    )


def _spans_few(gradient, filter_axes, numbering, reads):
    shape = gradient.shape[1:]
    length = math.prod(shape[axis] for axis in filter_axes)
    if length <= reads:
        return False
    kept = [axis + 1 for axis in (*numbering, *filter_axes)]
    moved = np.moveaxis(gradient, kept, range(len(kept)))
    kernels = moved.reshape(math.prod(shape[axis] for axis in numbering), length, -1)
    scale = np.abs(gradient).max()
    assert scale > 1e-5, "the gradient vanishes"
    return all(np.linalg.matrix_rank(kernel / scale, 1e-4) <= reads for kernel in kernels)
