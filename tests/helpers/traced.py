"""What tests of `trace_axes` trace, and what they find, reasons in full."""

import jax
import jax.numpy as jnp

from wcgc import KernelAxes, LeftAlone

STACKED = KernelAxes(batch_axis=0)
ADDED = LeftAlone("it is only added")
MULTIPLIED = LeftAlone("it is only multiplied elementwise")
LOOKED_UP = LeftAlone("it is only looked up by index")
IN_PLACE = LeftAlone("it is only put in place of some inputs")
VARYING = LeftAlone(
    "it is multiplied by something that varies along the axes of the mean, such as a mask"
)
BONDED = LeftAlone("it is multiplied with constants or other parameters before it meets the inputs")
SELF = LeftAlone("it is combined with itself in another arrangement before it meets the inputs")


def through(name):
    return LeftAlone(f"it goes through {name} before it meets the inputs")


def beside(name):
    return LeftAlone(
        f"it is a kernel in one place, and in another it goes through {name} before it meets the "
        "inputs"
    )


def cut(axis):
    return LeftAlone(f"it is cut or rearranged along its axis {axis}, which is summed")


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def index(x):
    """Whole numbers from the inputs."""
    return x[..., 0].astype(jnp.int32)


def one_hot(x, count=4, dtype=jnp.float32):
    """Rows of which the inputs choose the place that is not zero."""
    return jax.nn.one_hot(index(x), count, dtype=dtype)


def mesh(**lengths):
    """Devices that need not be there, by the names of their axes."""
    types = (jax.sharding.AxisType.Auto,) * len(lengths)
    return jax.sharding.AbstractMesh(tuple(lengths.values()), tuple(lengths), axis_types=types)
