"""What becomes of one parameter, from all the ways in which a program uses it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from wcgc._axes import KernelAxes, LeftAlone, Shape
from wcgc._provenance import View

Roles = frozenset[tuple[int, str]]
"""(axis, role): "in", "out", "batch", "spatial", "lookup", or "one" for what has lost its place."""

VARYING = "it is multiplied by something that varies along the axes of the mean, such as a mask"
BONDED = "it is multiplied with constants or other parameters before it meets the inputs"
ADDED = "added to a product of parameters"
MULTIPLIED = "multiplied elementwise"
TIED = "it is looked up by index and multiplied as well: tied embeddings"
SELF = "it is combined with itself in another arrangement before it meets the inputs"

_NAMES = {"in": "an input", "out": "an output", "batch": "a batch", "spatial": "a spatial"}


@dataclasses.dataclass(frozen=True)
class Use:
    """One place where a parameter meets the inputs.

    Attributes:
      kind: "kernel" for a contraction; "bonded" for a product that was contracted with constants or
        other parameters first, with the roles that it had there; "plain" for whatever keeps its
        axes, elementwise operations and look-ups; "faint" for a function of it that is not linear,
        such as a norm; "refused" for what cannot be told.
      roles: of its axes, for the first two; for "faint" of those that it was not summed up over,
        "out" where it is a factor.
      how: how it is used, for "plain"; why it cannot be told, for "faint" and "refused".
    """

    kind: Literal["kernel", "bonded", "plain", "faint", "refused"]
    roles: Roles = frozenset()
    how: str = ""


def through(name: str) -> str:
    """Why a parameter is left alone that an operation which is not linear takes."""
    return f"it goes through {name} before it meets the inputs"


def kernel_use(view: View, roles: Roles, shape: Shape) -> Use:
    """A contraction in which the axes had these roles, unless the view forbids to take it so."""
    summed = {axis for axis, role in roles if role in ("in", "spatial") and shape[axis] > 1}
    if view.altered:
        return Use("refused", how=view.altered)
    if summed & view.partial:
        part = min(summed & view.partial)
        return Use("refused", how=f"it is cut or rearranged along its axis {part}, which is summed")
    if summed & (view.scaled | view.by_inputs):
        return Use("refused", how=VARYING)
    return Use("kernel", roles)


def elementwise_use(view: View, how: str, shape: Shape) -> Use:
    """The use of a value that meets the inputs without a contraction there."""
    remaining = {
        (axis, factor.role("batch" if axis in view.by_inputs else "out"))
        for digits in view.dims
        for factor in digits
        for axis in factor.axes
    }
    roles = view.gone | remaining
    named = {role for axis, role in roles if shape[axis] > 1}
    if {"in", "out"} <= named:
        # A product with inputs that has been summed: what they vary along besides is batch.
        return kernel_use(dataclasses.replace(view, by_inputs=frozenset()), roles, shape)
    if view.altered:
        # Of what the kernel gives, a factor for each output is as weight normalization has it.
        role = "out" if view.is_factor or how == MULTIPLIED else "in"
        picked = {(axis, gone) for axis, gone in view.gone if gone == "batch"}
        kept = {(axis, role) for axis, _ in remaining | picked if shape[axis] > 1}
        looked_up = {(axis, "lookup") for axis, role in roles if role == "lookup"}
        return Use("faint", frozenset(kept | looked_up), view.altered)
    if "lookup" in named:
        return Use("plain", how="looked up by index")
    if "in" in named:
        return Use("plain", how=MULTIPLIED)
    if not any(shape[axis] > 1 for axis, _ in remaining):
        return Use("faint", how="only a summary of it is used")
    if view.bonds:
        return Use("bonded", roles | {(axis, "in") for axis, _ in view.bonds})
    return Use("plain", how=MULTIPLIED if view.is_factor else how)


def verdict(uses: Iterable[Use], shape: Shape) -> KernelAxes | LeftAlone:
    """The axes of a parameter, or why it is left alone."""
    uses = list(dict.fromkeys(uses))
    kernels = [use for use in uses if use.kind == "kernel"]
    plain = sorted({use.how for use in uses if use.kind == "plain"})
    for use in uses:
        if use.kind == "refused":
            return LeftAlone(use.how)
    if kernels and "looked up by index" in plain:
        return LeftAlone(TIED)
    if kernels and plain:
        return LeftAlone(f"it is a kernel in one place and {' and '.join(plain)} in another")
    if plain:
        return LeftAlone(f"it is only {' and '.join(plain)}")
    if not kernels:
        return LeftAlone(_without_kernels(uses))
    bonded = [use for use in uses if use.kind == "bonded"]
    roles: dict[int, str] = {}
    for use in kernels + bonded:
        settled = _settled(use.roles, shape)
        if isinstance(settled, LeftAlone):
            return settled
        for axis, role in settled.items():
            joined = _joined(roles.get(axis, role), role)
            if joined is None and shape[axis] > 1:
                return LeftAlone(
                    f"it is used in two ways: its axis {axis} is {_NAMES[roles[axis]]} axis in one "
                    f"place and {_NAMES[role]} axis in another"
                )
            roles[axis] = joined or role
    for use in uses:
        if use.kind == "faint" and (why := _beside(use, roles)):
            return LeftAlone(why)
    return _axes(roles, shape)


def _beside(use: Use, roles: Mapping[int, str]) -> str:
    """Why a kernel is left alone of which a function is used as well; empty for one per output."""
    if any(role == "lookup" for _, role in use.roles):
        return TIED
    if all(role == "out" and roles.get(axis) in ("out", "batch") for axis, role in use.roles):
        return ""
    return f"it is a kernel in one place, and in another {use.how}"


def _without_kernels(uses: Sequence[Use]) -> str:
    kinds = {use.kind for use in uses}
    if "bonded" in kinds:
        return BONDED
    if "faint" in kinds:
        return next(use.how for use in uses if use.kind == "faint")
    return "it meets no input"


def _settled(roles: Roles, shape: Shape) -> dict[int, str] | LeftAlone:
    """One role for each axis, from those of its digits."""
    settled: dict[int, str] = {}
    for axis, role in sorted(roles):
        role = "batch" if role == "lookup" else role
        if role == "one":
            continue
        joined = _joined(settled.get(axis, role), role)
        if joined is None and shape[axis] > 1:
            return LeftAlone(
                f"its axis {axis} is partly {_NAMES[settled[axis]]} and partly {_NAMES[role]} axis"
            )
        settled[axis] = joined or role
    return settled


def _joined(a: str, b: str) -> str | None:
    """The role that serves both: independent kernels may be seen as filters of one."""
    if a == b:
        return a
    return "out" if {a, b} == {"out", "batch"} else None


def _axes(roles: dict[int, str], shape: Shape) -> KernelAxes | LeftAlone:
    """The axes in the form of `axes_of`: in and out counted from the back, batch from the front."""
    for axis in range(len(shape)):
        if axis not in roles:
            if shape[axis] > 1:
                return LeftAlone(f"what becomes of its axis {axis} cannot be told")
            # Of length one, without a place among the others.
            roles[axis] = "spatial" if "out" in roles.values() else "out"
    named: dict[str, list[int]] = {"in": [], "out": [], "batch": [], "spatial": []}
    for axis, role in sorted(roles.items()):
        named[role].append(axis if role == "batch" else axis - len(shape))
    if not named["in"] and not any(shape[axis] > 1 for axis in named["spatial"]):
        return LeftAlone("it is only multiplied elementwise")
    if not named["out"]:
        beside = ": each of a batch has one number for an input" if named["batch"] else ""
        return LeftAlone(f"it has no output axis{beside or ': it is summed over whole'}")
    in_axis, out_axis, batch_axis = (
        named[role][0] if len(named[role]) == 1 else tuple(named[role])
        for role in ("in", "out", "batch")
    )
    return KernelAxes(in_axis, out_axis, batch_axis)
