"""The paper's definitions in NumPy, slice by slice: what the library is compared with."""

import numpy as np

import wcgc

ONE_PER = {"tensor": "bo", "channel": "bi", "instance": "bio", "global": "b"}
"""The roles of the axes for each of whose indices there is one slice (Table 2)."""

AREAS = tuple(ONE_PER)

ERROR_ONE_PER = {"global": "", "sample": "n", "channel": "c", "instance": "nc"}
"""The same for activations, whose axes are sample (n), channel (c) and others."""

LAYOUTS = {
    # name: (axes, the role of each axis: (i)n, (o)ut, (b)atch or (s)patial, shape)
    "dense": (wcgc.FLAX, "io", (4, 3)),
    "dense, one input": (wcgc.FLAX, "io", (1, 3)),
    "dense, one output": (wcgc.FLAX, "io", (4, 1)),
    "conv 1d": (wcgc.FLAX, "sio", (3, 4, 2)),
    "conv 2d": (wcgc.FLAX, "ssio", (3, 2, 4, 5)),
    "conv 3d": (wcgc.FLAX, "sssio", (2, 3, 2, 3, 2)),
    "conv 1x1": (wcgc.FLAX, "ssio", (1, 1, 4, 3)),
    "depthwise conv": (wcgc.FLAX, "ssio", (3, 2, 1, 4)),
    "grouped conv, 6 channels in 3 groups": (wcgc.FLAX, "ssio", (3, 2, 2, 6)),
    "transposed conv, (out, in)": (wcgc.KernelAxes(-1, -2), "ssoi", (3, 2, 5, 4)),
    "Equinox dense": (wcgc.EQUINOX, "oi", (3, 4)),
    "Equinox conv": (wcgc.EQUINOX, "oiss", (5, 4, 3, 2)),
    "Equinox depthwise conv": (wcgc.EQUINOX, "oiss", (4, 1, 3, 2)),
    "scanned dense layers": (wcgc.KernelAxes(batch_axis=0), "bio", (2, 4, 3)),
    "scanned convs": (wcgc.KernelAxes(batch_axis=0), "bssio", (2, 3, 2, 4, 3)),
    "experts of scanned layers": (wcgc.KernelAxes(batch_axis=(0, 1)), "bbio", (2, 3, 4, 2)),
    "scanned Equinox convs": (wcgc.KernelAxes(2, 1, 0), "boiss", (2, 3, 4, 3, 2)),
    "batch between in and out": (wcgc.KernelAxes(0, 2, batch_axis=1), "ibo", (4, 2, 3)),
    "attention query": (wcgc.KernelAxes(-3, (-2, -1)), "ioo", (4, 2, 3)),
    "attention output": (wcgc.KernelAxes((-3, -2), -1), "iio", (2, 3, 4)),
    "scanned attention output": (wcgc.KernelAxes((1, 2), 3, 0), "biio", (2, 2, 3, 4)),
}
"""Kernels as they are met in the wild."""


def kernels(rng):
    """A random kernel of each layout, with means that are far from zero."""
    return {name: rng.normal(1.0, 1.0, shape) for name, (_, _, shape) in LAYOUTS.items()}


def kernel_axes():
    return {name: axes for name, (axes, _, _) in LAYOUTS.items()}


def each_slice(function, kernel, roles, area, one_per=ONE_PER):
    """`kernel` with `function` applied to each of its slices of more than one element."""
    kept = [axis for axis, role in enumerate(roles) if role in one_per[area]]
    result = kernel.copy()
    for index in np.ndindex(*(kernel.shape[axis] for axis in kept)):
        where = [slice(None)] * kernel.ndim
        for axis, position in zip(kept, index, strict=True):
            where[axis] = position
        where = tuple(where)
        if kernel[where].size > 1:
            result[where] = function(kernel[where])
    return result


def centralize(x, strength=1.0):
    return x - strength * np.mean(x)


def standardize(x, eps):
    return (x - np.mean(x)) / np.sqrt(np.var(x) + eps)


def normalize(x, norm):
    return x * norm / norm_of(x)


def norm_of(x):
    return np.sqrt(np.sum(np.abs(x) ** 2))
