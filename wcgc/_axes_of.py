"""The axes of each kernel of a Flax NNX model, read off its modules."""

import itertools
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

from wcgc._axes import KernelAxes, LeftAlone, Shape
from wcgc._messages import written
from wcgc._paths import TreePath

NOT_SELECTED = "wrt="
"""How the reason begins for variables that are not trained."""

Layout = tuple[tuple[str, int | None], ...]
"""The role and, where the module knows it, the length of each axis of a kernel."""


def axes_of(model: Any, *, wrt: Any = None) -> dict[str, Any]:
    """Reads which axis of each kernel is what off the modules of a Flax NNX model.

    Known are the kernels of `Conv` (grouped and depthwise too), `ConvTranspose` (with either
    `transpose_kernel`), `Linear`, `LinearGeneral`, `Einsum` and `LoRA`, and with them those of
    `MultiHeadAttention` and the recurrent cells, which are made of these. Biases, embeddings and
    the scales of norms are left alone.

    Axes that a kernel has beyond those its module was configured with, as `nnx.vmap` makes for
    `nnx.scan`, are batch axes. They are told apart by their lengths; where the lengths fit in
    several ways, they are taken to lead, which is where NNX puts them unless told otherwise.

    The kernel of a grouped convolution holds the inputs of one group. Its slices of the area
    `"channel"` therefore run through the filters of all groups, each of which reads another channel
    there.

    .. warning::
      A parameter whose axes cannot be read is left alone, with one warning for each type of module
      that counts such parameters and names the first: those that a module of another type holds
      itself, whose shape does not fit their module, that a convolution masks, and that modules
      share without agreeing on their axes. `trace_axes` reads them off the computation; or set
      their axes in the result.

    Args:
      model: an NNX module. Only shapes are read, so it may come from `nnx.eval_shape`.
      wrt: an NNX filter that selects the trained variables, as in `nnx.Optimizer`; None is
        `nnx.Param`. All others are left alone.

    Returns:
      Nested dictionaries with the keys of `nnx.state(model)` and for each leaf a `KernelAxes`, or
      a `LeftAlone` with the reason. It serves as `axes` for the model itself and for its state,
      whole or filtered by `wrt`, pure or not.

    Raises:
      ImportError: flax is not installed.
      TypeError: `model` is not an NNX module, or `wrt` no filter.

    Example:
      >>> import wcgc
      >>> from flax import nnx
      >>> model = nnx.MultiHeadAttention(num_heads=4, in_features=32, rngs=nnx.Rngs(0))
      >>> axes = wcgc.axes_of(model)
      >>> axes["query"]["kernel"]
      KernelAxes(in_axis=-3, out_axis=(-2, -1), batch_axis=())
      >>> axes["query"]["bias"]
      LeftAlone(reason='bias of LinearGeneral')
      >>> axes["out"]["kernel"]
      KernelAxes(in_axis=(-3, -2), out_axis=-1, batch_axis=())
      >>> params = wcgc.centralize(nnx.state(model, nnx.Param), axes=axes)
    """
    nnx = _import_nnx()
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"axes_of reads a Flax NNX module, got {type(model).__name__}. Give it the model "
            "rather than its state. Axes for Linen, Haiku, Equinox and other parameters are read "
            "off the computation with trace_axes, or chosen with by_path."
        )
    wanted = nnx.Param if wrt is None else wrt
    if not _is_filter(wanted):
        raise TypeError(
            "wrt must be an NNX filter such as nnx.Param or (nnx.Param, nnx.BatchStat), got "
            f"{written(wrt)}."
        )
    selected = dict(nnx.to_flat_state(nnx.state(model, wanted)))
    readings = _read(model, selected, nnx)
    _warn_of_doubts(readings)
    result: dict[str, Any] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        node = result
        for key in path[:-1]:
            node = node.setdefault(key, {})
        if path in readings:
            node[path[-1]] = readings[path].axes
        else:
            kind = type(variable).__name__
            node[path[-1]] = LeftAlone(f"{NOT_SELECTED}{_name(wanted)} leaves out this {kind}")
    return result


class _Reading(NamedTuple):
    """What is known of one variable.

    Attributes:
      axes: its axes, or why it is left alone.
      doubted: the type of the module that holds it, if it may be a kernel all the same; or empty.
    """

    axes: KernelAxes | LeftAlone
    doubted: str = ""


def _warn_of_doubts(readings: dict[TreePath, _Reading]) -> None:
    doubts: dict[str, list[tuple[TreePath, str]]] = {}
    for path, (axes, kind) in readings.items():
        if kind and isinstance(axes, LeftAlone):
            doubts.setdefault(kind, []).append((path, axes.reason))
    for kind, ((first, reason), *others) in doubts.items():
        entry = "".join(f"[{key!r}]" for key in first)
        more = f" and {len(others)} more parameters of {kind}" if others else ""
        warnings.warn(
            f"axes_of leaves {_text(first)!r}{more} alone, since {reason}. To "
            "centralize what it leaves, read the axes with wcgc.trace_axes, or set "
            f"axes{entry} of the result to a wcgc.KernelAxes.",
            stacklevel=3,
        )


def _is_filter(wrt: Any) -> bool:
    if isinstance(wrt, list | tuple):
        return all(map(_is_filter, wrt))
    return wrt is None or wrt is ... or isinstance(wrt, str | bool) or callable(wrt)


def _name(wrt: Any) -> str:
    return getattr(wrt, "__name__", repr(wrt))


def _import_nnx() -> ModuleType:
    # Here rather than at the top of the file, since flax is no dependency of this package.
    try:
        from flax import nnx
    except ImportError as error:
        raise ImportError(
            "axes_of reads Flax NNX models and needs flax: pip install flax. Axes for other "
            "parameters are read with trace_axes, or chosen with by_path."
        ) from error
    return nnx


def _read(model: Any, variables: dict[TreePath, Any], nnx: ModuleType) -> dict[TreePath, _Reading]:
    """The axes of each variable, or why it is left alone."""
    modules = dict(nnx.iter_modules(model))
    layouts = {path: _layouts(module, nnx) for path, module in modules.items()}
    holders: dict[int, list[_Held]] = {}
    for path, module in modules.items():
        for name, layout in layouts[path].items():
            held = getattr(module, name, None)
            if isinstance(held, nnx.Variable):
                holders.setdefault(id(held), []).append(_Held((*path, name), module, layout))

    def read(path, variable):
        value = variable.get_value() if isinstance(variable, nnx.Variable) else variable
        shape = tuple(getattr(value, "shape", ()))
        if id(variable) in holders:
            return _agreed(holders[id(variable)], shape)
        owner = next(path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in modules)
        kind, name = type(modules[owner]).__name__, path[len(owner)]
        if len(shape) < 2:
            return _Reading(LeftAlone("fewer than two axes"))
        if layouts[owner].get(name, "unknown") is None:
            return _Reading(LeftAlone(f"{name} of {kind}"))
        return _Reading(LeftAlone(f"it does not know what {kind} does with it"), kind)

    return {path: read(path, variable) for path, variable in variables.items()}


def _text(path: TreePath) -> str:
    return "/".join(map(str, path))


def _layouts(module: Any, nnx: ModuleType) -> dict[str, Layout | LeftAlone | None]:
    """The layout of each parameter that `module` itself holds; None or a reason if no kernel.

    What is missing here, all of it for an unknown type of module, is not known.
    """
    match module:
        case nnx.Conv():
            fan_in = module.in_features // module.feature_group_count
            kernel = (*_spatial(module), ("in", fan_in), ("out", module.out_features))
        case nnx.ConvTranspose() if module.transpose_kernel:
            kernel = (
                *_spatial(module),
                ("out", module.out_features),
                ("in", module.in_features),
            )
        case nnx.ConvTranspose():
            kernel = (
                *_spatial(module),
                ("in", module.in_features),
                ("out", module.out_features),
            )
        case nnx.Linear():
            kernel = (("in", module.in_features), ("out", module.out_features))
        case nnx.LinearGeneral():
            kernel = (
                *(("batch", size) for size in module.batch_axis.values()),
                *(("in", size) for size in module.in_features),
                *(("out", size) for size in module.out_features),
            )
        case nnx.Einsum():
            return {"bias": None} | _einsum_layout(module)
        case nnx.LoRA():
            return {
                "lora_a": (("in", module.in_features), ("out", None)),
                "lora_b": (("in", None), ("out", module.out_features)),
            }
        case nnx.Embed():
            return {"embedding": None}
        case nnx.BatchNorm() | nnx.LayerNorm() | nnx.RMSNorm() | nnx.GroupNorm():
            return {"scale": None, "bias": None}
        case nnx.InstanceNorm():
            return {"scale": None, "bias": None}
        case nnx.WeightNorm():
            return {"scales": None}
        case nnx.PReLU():
            return {"negative_slope": None}
        case _:
            return {}
    return {"kernel": kernel, "bias": None}


def _spatial(module: Any) -> Iterator[tuple[str, int]]:
    return (("spatial", size) for size in module.kernel_size)


def _einsum_layout(module: Any) -> dict[str, Layout | LeftAlone | None]:
    operands, result = module.einsum_str.split("->")
    inputs, kernel = operands.split(",")
    if len(kernel.replace("...", "")) == len(module.kernel_shape):
        kernel = kernel.replace("...", "")
    if "." in kernel or len(set(kernel)) < len(kernel):
        return {}
    roles = {
        (True, True): "batch",
        (True, False): "in",
        (False, True): "out",
        (False, False): "spatial",  # summed over, but without an input of its own
    }
    layout = tuple(
        (roles[letter in inputs, letter in result], size)
        for letter, size in zip(kernel, module.kernel_shape, strict=True)
    )
    present = {role for role, _ in layout}
    if "in" not in present:
        return {"kernel": LeftAlone("Einsum sums over none of its axes")}
    return {"kernel": layout} if "out" in present else {}


class _Held(NamedTuple):
    """A variable as one of the modules that may share it sees it."""

    path: TreePath
    module: Any
    layout: Layout | LeftAlone | None


def _agreed(held: list[_Held], shape: Shape) -> _Reading:
    """The axes that all holders of a variable give it, or why there are none."""
    choices: dict[KernelAxes | LeftAlone, TreePath] = {}
    for path, module, layout in held:
        kind = type(module).__name__
        if layout is None or isinstance(layout, LeftAlone):
            choices.setdefault(layout or LeftAlone(f"{path[-1]} of {kind}"), path)
            continue
        axes, doubt = _placed(layout, shape)
        if getattr(module, "mask", None) is not None:
            doubt = f"{kind} masks it, and the mean of what is stored is not that of what is used"
        if axes is None or doubt:
            return _Reading(LeftAlone(doubt), kind)
        choices.setdefault(axes, path)
    if len(choices) > 1 and any(isinstance(choice, KernelAxes) for choice in choices):
        users = " and ".join(f"{_text(path)!r} as {axes}" for axes, path in choices.items())
        kind = type(held[0].module).__name__
        return _Reading(LeftAlone(f"the modules that share it disagree about it: {users}"), kind)
    return _Reading(next(iter(choices)))


def _placed(layout: Layout, shape: Shape) -> tuple[KernelAxes | None, str]:
    """The axes of a kernel of `shape`, or None and why they cannot be told."""
    extra = len(shape) - len(layout)
    stackings = itertools.combinations(range(len(shape)), extra) if extra >= 0 else ()
    fitting = [stacked for stacked in stackings if _fits(layout, shape, stacked)]
    configured = ", ".join(role if size is None else f"{role} {size}" for role, size in layout)
    if not fitting:
        return None, f"it has shape {shape}, but its module is configured for {configured}"
    stacked = fitting[0]
    if len(fitting) > 1 and stacked != tuple(range(extra)):
        return None, f"its shape {shape} can be read as {configured} in several ways"
    places: dict[str, list[int]] = {"in": [], "out": [], "batch": list(stacked), "spatial": []}
    for (role, _), axis in zip(layout, _without(shape, stacked), strict=True):
        places[role].append(axis if role == "batch" else axis - len(shape))
    in_axis, out_axis, batch_axis = (
        places[role][0] if len(places[role]) == 1 else tuple(sorted(places[role]))
        for role in ("in", "out", "batch")
    )
    return KernelAxes(in_axis, out_axis, batch_axis), ""


def _fits(layout: Layout, shape: Shape, stacked: tuple[int, ...]) -> bool:
    return all(
        size in (None, shape[axis])
        for (_, size), axis in zip(layout, _without(shape, stacked), strict=True)
    )


def _without(shape: Shape, stacked: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(len(shape)) if axis not in stacked]
