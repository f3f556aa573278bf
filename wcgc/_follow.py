"""Follows values through a program: which operation is what, and how loops and calls nest."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wcgc import _contractions, _elementwise, _pieces, _rearrangements
from wcgc._axes import Shape
from wcgc._provenance import Value, View, agreed, common_hot, lump, opaque
from wcgc._rearrangements import fitted, stacked, unstacked
from wcgc._recorder import Recorder
from wcgc._uses import through

Rule = Callable[..., list[Value]]

# Names rather than primitives, since JAX renames and moves those without notice. An operation that
# is not here is never guessed at: parameters that run into it are left alone.
RULES: dict[str, Rule] = {
    "broadcast_in_dim": _rearrangements.broadcast_in_dim,
    "reshape": _rearrangements.reshape,
    "tile": _rearrangements.tile,
    "squeeze": _rearrangements.squeeze,
    "transpose": _rearrangements.transpose,
    "rev": _rearrangements.rev,
    "slice": _pieces.slice_,
    "dynamic_slice": _pieces.dynamic_slice,
    "gather": _pieces.gather,
    "scatter": _pieces.scatter,
    "scatter-add": _pieces.scatter,
    "scatter_add": _pieces.scatter,
    "split": _pieces.split,
    "concatenate": _pieces.concatenate,
    "stack": _pieces.stack,
    "unstack": _pieces.unstack,
    "pad": _pieces.pad,
    "reduce_sum": _rearrangements.reduce_sum,
    "iota": _rearrangements.iota,
    "all_gather": _rearrangements.all_gather,
    "all_gather_invariant": _rearrangements.all_gather,
    "dot_general": _contractions.dot_general,
    "ragged_dot_general": _contractions.ragged_dot_general,
    "conv_general_dilated": _contractions.conv_general_dilated,
    "add": _elementwise.add,
    "add_any": _elementwise.add,
    "complex": _elementwise.add,
    "sub": _elementwise.add,
    "mul": _elementwise.mul,
    "div": _elementwise.div,
    "select_n": _elementwise.select,
    "eq": _elementwise.eq,
    "and": _elementwise.both,
    "convert_element_type": _elementwise.convert,
}

RULES |= dict.fromkeys(
    (
        "copy",
        "copy_p",
        "device_put",
        "layout_constraint",
        "name",
        "optimization_barrier",
        "pbroadcast",
        "pcast",
        "pvary",
        "reshard",
        "sharding_constraint",
        "stop_gradient",
    ),
    _rearrangements.same,
)

RULES |= dict.fromkeys(
    ("conj", "imag", "neg", "ppermute", "real", "reduce_precision"), _elementwise.linear
)

_OTHERS = """
    abs acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp cos cosh
    digamma erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p
    log2 logistic lt max min ne nextafter not or pow rem round rsqrt shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square tan tanh xor
"""

RULES |= dict.fromkeys(
    ("reduce_max", "reduce_min", "reduce_prod"), _rearrangements.reduce_otherwise
)

RULES |= dict.fromkeys(_OTHERS.split(), _elementwise.other)

CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "jit",
        "pjit",
        "remat",
        "remat2",
        "shard_map",
    }
)
"""Operations that run a program on their operands."""

PRINTS = frozenset({"debug_callback", "debug_print"})
"""Operations that nothing depends on."""

STATELESS = frozenset({"DebugEffect", "NamedAxisEffect", "OrderedDebugEffect"})
"""Effects that change nothing: a print, and that a collective names an axis of the devices."""


class Follower:
    """Follows values through programs.

    Args:
      record: takes down where parameters meet inputs.
    """

    def __init__(self, record: Recorder):
        self.record = record

    def run(self, jaxpr: Any, operands: Sequence[Value]) -> list[Value]:
        """The results of a program, open or closed over its constants.

        Args:
          jaxpr: the program.
          operands: what is known of its operands.
        """
        known = {variable: opaque(_shape(variable), False) for variable in jaxpr.constvars}
        known.update(zip(jaxpr.invars, operands, strict=True))

        def look_up(atom: Any) -> Value:
            if not hasattr(atom, "val"):
                return known[atom]
            shape = tuple(np.shape(atom.val))
            return dataclasses.replace(opaque(shape, False), zero=not np.any(atom.val))

        for eqn in jaxpr.eqns:
            results = self._step(eqn, [look_up(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: Any, operands: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if name in PRINTS:
            return []
        if name in RULES:
            return RULES[name](self.record, eqn, *operands)
        if name in CALLS:
            return self._call(eqn, operands)
        if name == "cond":
            return self._cond(eqn, operands)
        if name == "scan":
            return self._scan(eqn, operands)
        if name == "while":
            return self._while(eqn, operands)
        return self._unknown(eqn, operands)

    def _call(self, eqn: Any, operands: list[Value]) -> list[Value]:
        body = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
        # Inside a shard_map, values are blocks of those outside.
        inside = [fitted(value, _shape(v)) for value, v in zip(operands, body.invars, strict=True)]
        devices_add = self.record.devices_add
        if eqn.primitive.name == "shard_map":
            self.record.devices_add = _adds_up(body)
        results = self.run(body, inside)
        self.record.devices_add = devices_add
        return [
            fitted(value, _shape(variable))
            for value, variable in zip(results, eqn.outvars, strict=True)
        ]

    def _scan(self, eqn: Any, operands: list[Value]) -> list[Value]:
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        # What a scan runs through has one dimension more outside; JAX's versions name the counts
        # differently.
        through = [
            len(value.shape) > len(_shape(v))
            for value, v in zip(operands, body.invars, strict=True)
        ]
        made = [
            len(_shape(outside)) > len(_shape(inside))
            for outside, inside in zip(eqn.outvars, body.outvars, strict=True)
        ]
        carried = made.index(True) if True in made else len(made)
        first = (through.index(True) if True in through else len(through)) - carried
        constants = operands[:first]
        carry = operands[first : first + carried]
        whole = operands[first + carried :]
        each = [unstacked(value) for value in whole]

        def step(carry: list[Value]) -> list[Value]:
            return self.run(body, [*constants, *carry, *each])

        results = self._until_stable(step, carry, carried)
        return results[:carried] + [
            _restacked(stacked(value, length), whole) for value in results[carried:]
        ]

    def _while(self, eqn: Any, operands: list[Value]) -> list[Value]:
        tested, constant = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        test = operands[:tested]
        constants = operands[tested : tested + constant]
        carry = operands[tested + constant :]

        def step(carry: list[Value]) -> list[Value]:
            return self.run(eqn.params["body_jaxpr"], [*constants, *carry])

        results = self._until_stable(step, carry, len(carry))
        (goes_on,) = self.run(eqn.params["cond_jaxpr"], [*test, *results])
        return self._decided(results, goes_on)

    def _until_stable(
        self, step: Callable[[list[Value]], list[Value]], carry: list[Value], carried: int
    ) -> list[Value]:
        """The results of a loop when nothing more is learned of what it carries along."""
        uses = self.record.uses
        while True:
            self.record.uses = []
            results = step(carry)
            inside, self.record.uses = self.record.uses, uses
            joined = [
                self._joined(old, new, "carried along with inputs")
                for old, new in zip(carry, results[:carried], strict=True)
            ]
            if joined == carry:
                uses += inside
                return joined + results[carried:]
            # A pass that took for a constant what comes to depend on inputs counts for nothing.
            carry = joined

    def _cond(self, eqn: Any, operands: list[Value]) -> list[Value]:
        which, *rest = operands
        branches = [self.run(branch, rest) for branch in eqn.params["branches"]]
        results = branches[0]
        for branch in branches[1:]:
            results = [
                self._joined(a, b, "put in place of some inputs")
                for a, b in zip(results, branch, strict=True)
            ]
        return self._decided(results, which)

    def _decided(self, values: list[Value], by: Value) -> list[Value]:
        """The values where a condition decides which of several they are."""
        self.record.meet(by, "used as a condition")
        return [dataclasses.replace(value, inputs=value.inputs or by.inputs) for value in values]

    def _joined(self, a: Value, b: Value, how: str) -> Value:
        """What is known of a value that is one of two."""
        varies = tuple(map(any, zip(a.varies, b.varies, strict=True)))
        zero = a.zero and b.zero
        hot = common_hot((a, b))
        if a.inputs == b.inputs:
            views = agreed(a.views, b.views, "it is rearranged differently in a loop or a branch")
            return Value(a.shape, varies, a.inputs, views, zero, hot)
        for value in (a, b):
            self.record.meet(value, how)
        return Value(a.shape, varies, inputs=True, hot=hot)

    def _unknown(self, eqn: Any, operands: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        # What is read from a reference may be inputs that have been written there.
        inputs = _has_state(eqn) or any(value.inputs for value in operands)
        how = through(name)
        views: dict[int, View] = {}
        for value in operands:
            if not inputs:
                altered = {number: view.alter(how) for number, view in value.views.items()}
                views = agreed(views, altered, how)
            elif value.inputs:
                self.record.meet(value, f"an operand of {name}")
            else:
                handed = f"it is handed to {name} with inputs, which cannot be looked into"
                self.record.refuse(value, handed)
        results = []
        for variable in eqn.outvars:
            shape = _shape(variable)
            seen = {
                number: view if _fits(view, shape) else lump(view, shape, how)
                for number, view in views.items()
            }
            results.append(opaque(shape, inputs).with_views(seen))
        return results


def _restacked(made: Value, whole: Sequence[Value]) -> Value:
    """What a loop has made, which lies along the axes that it ran through.

    These count as cut, since what the loop does may differ from place to place.
    """
    if made.inputs:
        return made
    views = dict(made.views)
    for value in whole:
        for number in value.views.keys() & made.views.keys():
            before, view = value.views[number], made.views[number]
            lost = frozenset((axis, f.role("batch")) for f in before.dims[0] for axis in f.axes)
            if lost <= view.gone:
                digits = tuple(dataclasses.replace(f, part=True) for f in before.dims[0])
                view = dataclasses.replace(view, gone=view.gone - lost | before.gone)
                views[number] = view.rearrange([digits, *view.dims[1:]])
    return made.with_views(views)


def _adds_up(jaxpr: Any) -> bool:
    """Whether a program on several devices adds up what they have, somewhere in it."""
    return any(
        eqn.primitive.name.startswith(("psum", "reduce_scatter"))
        or any(_adds_up(body) for body in _bodies(eqn))
        for eqn in jaxpr.eqns
    )


def _bodies(eqn: Any) -> list[Any]:
    given = [each for value in eqn.params.values() for each in _listed(value)]
    return [each for each in given if hasattr(each, "eqns")]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _fits(view: View, shape: Shape) -> bool:
    """Whether a value of this shape may be laid out so."""
    return shape == tuple(math.prod(factor.size for factor in digits) for digits in view.dims)


def _shape(variable: Any) -> Shape:
    return tuple(getattr(variable.aval, "shape", ()))


def _has_state(eqn: Any) -> bool:
    """Whether an operation reads or writes what is no value, such as a reference."""
    return any(type(effect).__name__ not in STATELESS for effect in eqn.effects)
