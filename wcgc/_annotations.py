"""What the arguments `axes` and `mask` may be, as types to annotate with."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from wcgc._axes import KernelAxes, LeftAlone


@runtime_checkable
class Dataclass(Protocol):
    """A dataclass, which may be a tree, as the modules of Equinox are."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@runtime_checkable
class DimensionNumbers(Protocol):
    """`optax.contrib.MuonDimensionNumbers`, by what it holds: Optax itself has no types."""

    @property
    def reduction_axis(self) -> Any:
        """What each output sums over."""

    @property
    def output_axis(self) -> Any:
        """The outputs."""


T = TypeVar("T")

if TYPE_CHECKING:
    # Not Sequence: a text is a sequence of texts, and would be a tree of anything.
    Nested: TypeAlias = (
        Mapping[Any, "T | Nested[T]"] | tuple["T | Nested[T]", ...] | list[Any] | Dataclass
    )
else:
    # Where others' annotations are evaluated, a name of this module has no meaning.
    Nested = Mapping[Any, T | Any] | tuple[T | Any, ...] | list[Any] | Dataclass

LeafAxes: TypeAlias = KernelAxes | LeftAlone | DimensionNumbers | None
"""What a tree of axes holds for one leaf."""

Axes: TypeAlias = (
    KernelAxes | LeftAlone | DimensionNumbers | Nested[LeafAxes] | Callable[[Any], Any]
)
"""The argument `axes`: which axis of each kernel is what.

A `KernelAxes` for all leaves; or a tree (or prefix) of `KernelAxes | LeftAlone | None`, in which
Muon's dimension numbers may stand as well; or a callable from the parameters to such a tree.
"""

Mask: TypeAlias = bool | np.bool_ | Nested[bool | np.bool_ | None] | Callable[[Any], Any] | None
"""The argument `mask`: which leaves to touch, as in `optax.masked`.

A bool for all leaves; or a tree (or prefix) of bools; or a callable from the parameters to such a
tree. None is True.
"""
