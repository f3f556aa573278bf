"""Notes each place where a parameter meets the inputs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from wcgc._axes import Shape
from wcgc._provenance import Digits, Value, View
from wcgc._uses import ADDED, MULTIPLIED, Roles, Use, elementwise_use, kernel_use


class Recorder:
    """The uses of all parameters, in the order in which the program makes them.

    Attributes:
      shapes: the shape of each parameter, by number.
      uses: (number, use) pairs.
      devices_add: whether what is computed on several devices may be added up.
    """

    def __init__(self, shapes: Mapping[int, Shape]):
        self.shapes = shapes
        self.uses: list[tuple[int, Use]] = []
        self.devices_add = True

    def meet(self, value: Value, how: str) -> None:
        """Notes that a value meets inputs without a contraction here."""
        for number, view in value.views.items():
            self.uses.append((number, elementwise_use(view, how, self.shapes[number])))

    def refuse(self, value: Value, how: str) -> None:
        """Notes that a value goes where it cannot be followed."""
        for number, view in value.views.items():
            self.uses.append((number, Use("refused", how=view.altered or how)))

    def contract(self, value: Value, roles: Sequence[str]) -> None:
        """Notes that a value is contracted with inputs, which gives its dimensions these roles."""
        directions = _directions(value.views, roles)
        for number, view in value.views.items():
            shape = self.shapes[number]
            if directions is None and not view.bonds and not view.altered:
                self.uses.append((number, elementwise_use(view, ADDED, shape)))
                continue
            view = view.cut_short(d for d, role in enumerate(roles) if role in ("in", "spatial"))
            if view.by_inputs and view.by_inputs >= {a for a in view.axes() if shape[a] > 1}:
                self.uses.append((number, elementwise_use(view, MULTIPLIED, shape)))
                continue
            found = view.gone | roles_of(view, roles, shape, self.devices_add)
            if view.bonds:
                bonds = (directions or {}).get(number)
                known = found | (bonds or {(axis, "in") for axis, _ in view.bonds})
                use = kernel_use(view, known, shape)
                if bonds is None and use.kind == "kernel":
                    first = _as_if_first(view, roles, shape)
                    use = dataclasses.replace(use, kind="bonded", roles=first)
            else:
                use = kernel_use(view, found, shape)
            named = {role for axis, role in found if shape[axis] > 1}
            if "lookup" in named and not {"in", "out"} <= named:
                use = Use("plain", how="looked up by index")
            self.uses.append((number, use))


def roles_of(view: View, roles: Sequence[str], shape: Shape, devices_add: bool = True) -> Roles:
    """The role of each axis of a parameter of this shape, from those of its view's dimensions."""
    return frozenset(
        (axis, role)
        for digits, role in zip(view.dims, roles, strict=True)
        for axis, role in _roles_in(digits, role, shape, devices_add)
    )


def _roles_in(
    digits: Digits, role: str, shape: Shape, devices_add: bool
) -> Iterator[tuple[int, str]]:
    # An axis of length one that is repeated for the others, as a scale's may be, has no role.
    repeated = any(not factor.axes for factor in digits)
    for factor in digits:
        for axis in factor.axes:
            if factor.is_picked and role != "in":
                yield axis, factor.picked
            elif factor.picked == "block" and role in ("in", "spatial") and not devices_add:
                yield axis, "batch"
            else:
                yield axis, "one" if repeated and shape[axis] == 1 else role


def _as_if_first(view: View, roles: Sequence[str], shape: Shape) -> Roles:
    """The roles in the contraction with a constant or parameter, had that been an input."""
    kept = roles_of(view, ["batch" if role == "batch" else "out" for role in roles], shape)
    return view.gone | kept | {(axis, "in") for axis, _ in view.bonds}


def _directions(views: Mapping[int, View], roles: Sequence[str]) -> dict[int, Roles] | None:
    """The roles of the axes along which parameters were contracted with each other.

    None if there are such, and no kernel that their product was added to.

    In x @ (w + a @ b) the inputs pass through a, then through b: the axis that a and b share is an
    output of a and an input of b. That w is added shows which end is which; without it, x may as
    well be what a product of parameters is multiplied by, so that there is no telling. So it is
    where a bias is added that lacks an axis that the product has, as in attention with queries that
    are parameters.
    """
    summed = [d for d, role in enumerate(roles) if role == "in"]
    kept = [d for d, role in enumerate(roles) if role == "out"]
    bonded = [view for view in views.values() if view.bonds]
    # What all factors run along, as where each of several products is added to one kernel, is none
    # of its axes.
    needed = [
        d
        for d in (*summed, *kept)
        if any(_along(view, d) for view in bonded) and not all(_along(view, d) for view in bonded)
    ]
    kernels = [
        view
        for view in views.values()
        if not view.bonds
        and not view.altered
        and all(_along(view, d) for d in needed)
        and any(_along(view, d) for d in summed)
        and any(_along(view, d) for d in kept)
    ]
    if not kernels:
        return None if bonded else {}
    # A kernel of one output cannot be told from a bias of one place.
    if not any(all(_long(view, d) for d in needed) for view in kernels):
        return {}
    found: dict[int, set[tuple[int, str]]] = {}
    reached = [number for number, view in views.items() if view.bonds and view.axes(summed)]
    first = set(reached)
    crossed: dict[int, int] = {}
    for number in reached:
        found[number] = set()
        for axis, bond in views[number].bonds:
            if crossed.get(bond) == number:
                found[number].add((axis, "in"))
                continue
            found[number].add((axis, "out"))
            for other in [n for n, view in views.items() if n != number and _has(view, bond)]:
                if bond in crossed or other in first:
                    return {}
                crossed[bond] = other
                reached.append(other)
    return {number: frozenset(found[number]) for number in reached}


def _along(view: View, d: int) -> bool:
    """Whether a view has an axis in a dimension, other than one of length one that is repeated."""
    repeated = any(not factor.axes for factor in view.dims[d])
    return _long(view, d) or (not repeated and bool(view.axes([d])))


def _long(view: View, d: int) -> bool:
    """Whether a view has more than one place along a dimension, be they on several devices."""
    return any(f.axes and (f.size > 1 or f.picked == "block") for f in view.dims[d])


def _has(view: View, bond: int) -> bool:
    return any(number == bond for _, number in view.bonds)
