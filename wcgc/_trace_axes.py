"""The axes of each parameter of any JAX function, read off its computation."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wcgc._axes import KernelAxes, LeftAlone
from wcgc._follow import Follower
from wcgc._paths import is_array
from wcgc._provenance import opaque, parameter
from wcgc._recorder import Recorder
from wcgc._uses import Use, verdict

Verdict = KernelAxes | LeftAlone


def trace_axes(function: Callable[..., Any], params: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Reads which axis of each parameter is what off the computation of a function.

    `function(params, *args, **kwargs)` is traced, not computed, and each parameter is followed to
    where it meets the inputs, which are the arrays among the other arguments. What a contraction
    there sums over is *in*, what it keeps is *out*, what it carries along is *batch*; the window of
    a convolution is *spatial*. An axis that a loop runs through, or of which single places are
    picked by a constant or a counter, is batch too. The axis of an ensemble's members, under `vmap`
    with one input for all, is kept, and so *out*. No names or types of modules are consulted.

    Followed are transposes, reshapes, slices, concatenations, casts, sums and products of
    parameters, scales per filter as in weight normalization, loops, branches, calls, and the
    transformations of JAX. All else is left alone, with a `LeftAlone` that says why:

    - what is only added or multiplied elementwise, such as biases, the scales of norms, and
      position embeddings;
    - what is looked up by index, as embeddings are, even if it is multiplied elsewhere;
    - what is used in two ways that disagree, or of which a function that is not linear is used
      as well, other than a factor for each output;
    - what is multiplied by something that varies along the axes of the mean, such as a mask, since
      the mean of the stored kernel is not that of the filter;
    - what is cut or rearranged along an axis that is summed over;
    - what goes through an operation that is not linear before it meets the inputs, or into one that
      cannot be looked into, such as a callback;
    - what is multiplied with constants or other parameters first, except for products added to a
      kernel, such as LoRA's, and what is added to such a product;
    - what meets no input.

    Args:
      function: a function of the parameters and other arguments that returns anything.
      params: the parameters: arrays, or anything with a shape and a dtype such as
        `jax.ShapeDtypeStruct`, in any containers, a Flax NNX module or an Equinox module.
      *args: the function's further arguments. What has a shape and a dtype is an input; all else,
        such as numbers and flags, is passed as it is.
      **kwargs: the same, by name.

    Returns:
      A tree like `params` with a `KernelAxes` or a `LeftAlone` for each leaf. For an NNX module it
      is nested dictionaries with the keys of `nnx.state(module)`, as from `axes_of`. It serves as
      `axes` everywhere.

    Raises:
      TypeError: `function` is not callable, or `params` has leaves and none is an array.
      ValueError: there is no input among the arguments.

    The time it takes grows with the size of the program: a transformer of 48 layers takes less than
    a second.

    .. warning::
      Give inputs as arguments. An array that is not an argument counts as a constant. Give the
      function that computes the outputs or the loss, not its gradient: a gradient uses each kernel
      transposed as well. Where inputs and parameters make a kernel together, as in a hypernetwork,
      the axes are those of the product that makes it. An einsum of more than two operands is a
      chain of products whose order depends on the lengths of the axes, and so may what is found.

    Example:
      A layer of one's own, of which only shapes are needed:

      >>> import jax, jax.numpy as jnp, wcgc
      >>> def layer(params, x):
      ...     heads = jnp.einsum("btd,hdk->bthk", x, params["project"])
      ...     return heads * params["scale"]
      >>> array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
      >>> params = {"project": array(4, 32, 8), "scale": array(4, 8)}
      >>> axes = wcgc.trace_axes(layer, params, array(2, 16, 32))
      >>> axes["project"]
      KernelAxes(in_axis=-2, out_axis=(-3, -1), batch_axis=())
      >>> axes["scale"]
      LeftAlone(reason='it is only multiplied elementwise')

      With the libraries for networks: `trace_axes(lambda model, x: model(x), model, x)` for a Flax
      NNX or an Equinox module, `trace_axes(network.apply, params, rng, x)` for Haiku, and for Keras
      `trace_axes(model.stateless_call, trainable, non_trainable, x)` with lists of the values of
      the variables. For Flax Linen a function of `variables["params"]` alone; `docs/axes.md` has
      it.
    """
    if not callable(function):
        raise TypeError(
            f"function must be callable, got {type(function).__name__}. For a model that is called "
            "itself give lambda model, *args: model(*args)."
        )
    model = _nnx_module(params)
    if model is not None:
        return _of_nnx_module(model, function, params, args, kwargs)
    leaves, treedef = jax.tree.flatten(params)

    def call(values: Sequence[Any], args: Any, kwargs: Any) -> Any:
        return function(jax.tree.unflatten(treedef, values), *args, **kwargs)

    return jax.tree.unflatten(treedef, _verdicts(call, leaves, args, kwargs))


def _nnx_module(params: Any) -> Any:
    """Flax's NNX if `params` is a module of it."""
    # Only a program that has imported flax can hold a module, so flax need not be imported here.
    nnx = sys.modules.get("flax.nnx")
    return nnx if nnx is not None and isinstance(params, nnx.Module) else None


def _of_nnx_module(nnx: Any, function: Any, model: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    graphdef, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    paths = [path for path, _ in flat]
    variables = [variable for _, variable in flat]
    values = [v.get_value() if isinstance(v, nnx.Variable) else v for v in variables]
    no_parameters = nnx.BatchStat, nnx.Cache, nnx.Intermediate, nnx.RngState
    constant = {
        i: LeftAlone(f"it is a {type(variable).__name__}")
        for i, variable in enumerate(variables)
        if isinstance(variable, no_parameters)
    }

    def call(values: Sequence[Any], args: Any, kwargs: Any) -> Any:
        filled = [
            v.replace(value) if isinstance(v, nnx.Variable) else value
            for v, value in zip(variables, values, strict=True)
        ]
        copy = nnx.merge(graphdef, nnx.from_flat_state(zip(paths, filled, strict=True)))
        return function(copy, *args, **kwargs)

    result: dict[str, Any] = {}
    found = _verdicts(call, values, args, kwargs, constant)
    for path, entry in zip(paths, found, strict=True):
        node = result
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = entry
    return result


def _verdicts(
    call: Callable[[Sequence[Any], Any, Any], Any],
    leaves: Sequence[Any],
    args: Any,
    kwargs: Any,
    constant: dict[int, LeftAlone] | None = None,
) -> list[Verdict]:
    """A verdict for each leaf of the parameters, of which some may count as constants."""
    found: dict[int, Verdict] = dict(constant or {})
    found |= {i: why for i, leaf in enumerate(leaves) if i not in found and (why := _unfit(leaf))}
    inputs, treedef = jax.tree.flatten((args, kwargs))
    traced_leaves = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    traced_inputs = [i for i, leaf in enumerate(inputs) if is_array(leaf)]
    if not traced_inputs:
        raise ValueError(
            "trace_axes follows the parameters to where they meet the inputs, but there is no "
            "array among the arguments beside them. Give the inputs as arguments, or "
            "jax.ShapeDtypeStruct in their place; an array that the function has from elsewhere "
            "counts as a constant."
        )

    if leaves and not traced_leaves:
        raise TypeError(
            f"params holds no array, but a leaf of type {type(leaves[0]).__name__}. Give arrays in "
            "containers that JAX knows; jax.tree_util.register_dataclass makes a class one."
        )

    def flat(leaf_arrays: Sequence[Any], input_arrays: Sequence[Any]) -> list[Any]:
        values = _filled(leaves, traced_leaves, leaf_arrays)
        args, kwargs = jax.tree.unflatten(treedef, _filled(inputs, traced_inputs, input_arrays))
        return [leaf for leaf in jax.tree.leaves(call(values, args, kwargs)) if is_array(leaf)]

    abstract = [_abstract(leaves[i]) for i in traced_leaves]
    program = jax.make_jaxpr(flat)(abstract, [_abstract(inputs[i]) for i in traced_inputs])
    shapes = {i: tuple(leaves[i].shape) for i in traced_leaves if i not in found}
    record = Recorder(shapes)
    operands = [
        parameter(i, shapes[i]) if i in shapes else opaque(tuple(leaves[i].shape), False)
        for i in traced_leaves
    ] + [opaque(tuple(inputs[i].shape), True) for i in traced_inputs]
    for result in Follower(record).run(program, operands):
        if result.inputs:
            record.meet(result, "returned")
    uses: dict[int, list[Use]] = {i: [] for i in shapes}
    for i, use in record.uses:
        uses[i].append(use)
    found |= {i: verdict(uses[i], shape) for i, shape in shapes.items()}
    return [found[i] for i in range(len(leaves))]


def _unfit(leaf: Any) -> LeftAlone | None:
    """Why a leaf is no kernel whatever the function does with it."""
    if not is_array(leaf):
        return LeftAlone("not an array")
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return LeftAlone(f"dtype {leaf.dtype} is not floating or complex")
    if len(leaf.shape) < 2:
        return LeftAlone("fewer than two axes")
    return LeftAlone("no elements") if 0 in leaf.shape else None


def _filled(values: Sequence[Any], places: Sequence[int], arrays: Sequence[Any]) -> list[Any]:
    filled = list(values)
    for place, array in zip(places, arrays, strict=True):
        filled[place] = array
    return filled


def _abstract(leaf: Any) -> Any:
    # Arrays stay, since shapes alone do not tell how they are sharded.
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
