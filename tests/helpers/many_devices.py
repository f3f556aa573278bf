"""What the tests of sharding run in processes of their own, with several CPU devices each.

    python tests/helpers/many_devices.py --devices 8 train inspect
    python tests/helpers/many_devices.py --devices 4 --address localhost:12345 --process 0 train

The second needs a sister with `--process 1`. Each prints its results as JSON on its last line.
"""

import argparse
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import wcgc

STACKED = wcgc.KernelAxes(batch_axis=0)

LAYERS = {
    # name: (shape, axes, which axis of the mesh each axis of the kernel is sharded over)
    "conv_spatial": ((4, 4, 4, 8), wcgc.FLAX, P("model")),
    "conv_out": ((3, 3, 8, 8), wcgc.FLAX, P(None, None, None, "model")),
    "dense_in": ((8, 16), wcgc.FLAX, P("model")),
    "layers": ((4, 16, 16), STACKED, P("model")),
    "equinox_in": ((16, 16), wcgc.EQUINOX, P(None, ("data", "model"))),
    "head": ((16, 3), wcgc.FLAX, P()),
    "bias": ((3,), None, P()),
}


def network(params, images):
    """Logits of a small network in which each kernel is sharded in another way."""
    x = images
    for name in "conv_spatial", "conv_out":
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x)
    x = jnp.tanh(x.mean((1, 2)) @ params["dense_in"])
    x, _ = jax.lax.scan(lambda x, layer: (x + jnp.tanh(x @ layer), None), x, params["layers"])
    return jnp.tanh(x @ params["equinox_in"].T) @ params["head"] + params["bias"]


def mesh_of(devices, shape, axis_type=AxisType.Auto):
    """Devices in rows and columns, over which batches and models are split."""
    return jax.make_mesh(shape, ("data", "model"), axis_types=(axis_type,) * 2, devices=devices)


def train(mesh, steps=20):
    """Trains with Adam, WC and GC, the batch and the kernels sharded over all devices.

    In float64: Adam makes much of gradients that are almost zero, and so of float32's rounding.

    Args:
      mesh: the devices, from `mesh_of`.
      steps: how many steps, each on the same batch.

    Returns:
      The loss of each step, and the parameters after the last by name.
    """
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape, scale=0.3) for name, (shape, _, _) in LAYERS.items()}
    images = rng.normal(size=(16, 8, 8, 4))
    labels = rng.integers(3, size=16).astype(np.int32)
    axes = {name: axes for name, (_, axes, _) in LAYERS.items()}
    tx = wcgc.centralized(optax.adam(1e-2), axes=axes)

    def run(params, images, labels):
        def loss(params):
            logits = network(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=steps)
        return losses, params

    shardings = {name: NamedSharding(mesh, spec) for name, (_, _, spec) in LAYERS.items()}
    batch = NamedSharding(mesh, P("data"))
    everywhere = NamedSharding(mesh, P())
    # Adam mixes dtypes.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        losses, params = jax.jit(run, out_shardings=(everywhere, shardings))(
            {name: placed(value, shardings[name]) for name, value in params.items()},
            placed(images, batch),
            placed(labels, batch),
        )
        params = jax.jit(lambda params: params, out_shardings=everywhere)(params)
    return np.asarray(losses).tolist(), {name: np.asarray(params[name]) for name in LAYERS}


def placed(value, sharding):
    """`value`, known to all processes, as one array over the devices of all of them."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


KERNELS = {
    # name: (shape, axes, area, which axis of the mesh each axis of the kernel is sharded over)
    "in": ((4096, 128), wcgc.FLAX, "tensor", P("data")),
    "in, over all devices": ((4096, 128), wcgc.FLAX, "tensor", P(("data", "model"))),
    "out": ((4096, 128), wcgc.FLAX, "tensor", P(None, "data")),
    "in and out": ((4096, 128), wcgc.FLAX, "tensor", P("data", "model")),
    "Equinox in": ((128, 4096), wcgc.EQUINOX, "tensor", P(None, "data")),
    "one of two in axes": ((8, 512, 128), wcgc.KernelAxes((0, 1), 2), "tensor", P("data")),
    "spatial": ((32, 32, 16, 16), wcgc.FLAX, "tensor", P("data", "model")),
    "spatial and in": ((32, 32, 16, 16), wcgc.FLAX, "tensor", P(None, "data", "model")),
    "batch": ((8, 256, 256), STACKED, "tensor", P("data")),
    "batch and in": ((8, 1024, 64), STACKED, "tensor", P("data", "model")),
    "replicated": ((512, 512), wcgc.FLAX, "tensor", P()),
    "channel, out": ((128, 4096), wcgc.FLAX, "channel", P(None, "data")),
    "instance, spatial": ((64, 64, 8, 8), wcgc.FLAX, "instance", P("data")),
    "global, in and out": ((512, 512), wcgc.FLAX, "global", P("data", "model")),
}


def step(kernel, grad, area, axes):
    """One step of SGD with momentum, WC and GC."""
    tx = wcgc.centralized(optax.sgd(0.1, momentum=0.9), area, area, axes=axes)
    updates, _ = tx.update(grad, tx.init(kernel), kernel)
    return optax.apply_updates(kernel, updates)


def project_and_measure(kernel, grad, area, axes):
    """The other projections, and a measurement."""
    return (
        wcgc.standardize(kernel, area, axes=axes),
        wcgc.normalize(grad, area, axes=axes),
        wcgc.measure(kernel, area, axes=axes),
    )


def keep_and_share(kernel, grad, area, axes):
    """A step that keeps norms, and a gradient without half of its mean."""
    tx = wcgc.normalize_params(area, norm="keep", axes=axes)
    return (
        optax.apply_updates(kernel, tx.update(grad, tx.init(kernel), kernel)[0]),
        wcgc.centralize(grad, area, axes=axes, strength=jnp.float32(0.5)),
    )


def sort(kernel, grad, area, axes):
    """What cannot be done without gathering a kernel whose first axis is sharded."""
    del grad, area, axes
    return jnp.sort(kernel, axis=0)


FUNCTIONS = {
    # name: (function, the kernels to try it on)
    "step": (step, tuple(KERNELS)),
    "project and measure": (project_and_measure, ("in", "in and out", "spatial")),
    "keep and share": (keep_and_share, ("in", "in and out", "spatial")),
}


def inspect():
    """Compares sharded kernels with whole ones, under automatic and explicit sharding.

    Returns:
      What `inspect_kernel` reports, by function, kernel and type of mesh.
    """
    reports = {
        f"{name}, {kernel}, {axis_type.name}": inspect_kernel(function, kernel, axis_type)
        for axis_type in (AxisType.Auto, AxisType.Explicit)
        for name, (function, kernels) in FUNCTIONS.items()
        for kernel in kernels
    }
    return reports | {"sort, in, Auto": inspect_kernel(sort, "in", AxisType.Auto)}


def inspect_kernel(function, name, axis_type):
    """Runs a function on one device and on all, and reads what the program communicates.

    Returns:
      A dictionary: the largest difference relative to the largest element, whether the results are
      sharded like the kernel, the bytes of the kernel that lie on one device, and a list of pairs
      of each collective operation and the bytes of its result on one device.
    """
    shape, axes, area, spec = KERNELS[name]
    apply = jax.jit(functools.partial(function, area=area, axes=axes))
    rng = np.random.default_rng(0)
    kernel, grad = (rng.normal(1, 1, shape).astype(np.float32) for _ in range(2))
    whole = jax.tree.leaves(apply(kernel, grad))
    sharding = NamedSharding(mesh_of(jax.devices(), (4, 2), axis_type), spec)
    with jax.set_mesh(sharding.mesh):
        arguments = jax.device_put((kernel, grad), sharding)
        compiled = apply.lower(*arguments).compile()
        sharded = jax.tree.leaves(compiled(*arguments))
    return {
        "difference": max(
            float(np.max(abs(np.asarray(a) - np.asarray(b))) / np.max(abs(np.asarray(b))))
            for a, b in zip(sharded, whole, strict=True)
        ),
        "kept": all(
            leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in sharded if leaf.ndim
        ),
        "bytes": math.prod(sharding.shard_shape(shape)) * kernel.itemsize,
        "collectives": collectives(compiled.as_text()),
    }


def collectives(hlo):
    """The name and the bytes of the result of each operation that moves data between devices."""
    names = (
        "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    )
    found = re.findall(rf"= (\S.*?) ({names})(?:-start)?\(", hlo)
    return [
        (name, sum(map(nbytes, re.findall(r"[a-z]+\d+\[[\d,]*\]", shapes))))
        for shapes, name in found
    ]


def nbytes(shape):
    """The bytes of a shape as HLO writes it, such as f32[512,4]."""
    bits, lengths = re.fullmatch(r"[a-z]+(\d+)\[([\d,]*)\]", shape).groups()
    return int(bits) // 8 * math.prod(int(length) for length in lengths.split(",") if length)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="+", choices=("train", "inspect"))
    parser.add_argument("--devices", type=int, required=True, help="of this process")
    parser.add_argument("--address", help="host and port of the first of two processes")
    parser.add_argument("--process", type=int, help="which of the two this is")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    if arguments.address:
        jax.distributed.initialize(arguments.address, 2, arguments.process)
    results = {"devices": jax.device_count(), "processes": jax.process_count()}
    if "train" in arguments.tasks:
        losses, params = train(mesh_of(jax.devices(), (4, 2)))
        results["losses"] = losses
        results["params"] = {name: value.tolist() for name, value in params.items()}
    if "inspect" in arguments.tasks:
        results["reports"] = inspect()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
