"""What is measured of networks (a) and (c) while they are trained, layer by layer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import wcgc
import wcgc.models
from examples.engine import tasks
from examples.engine.engine import State
from examples.study import controls


def gradient_of(graph: Any, state: State, batch: tuple[jax.Array, jax.Array]) -> Any:
    """The gradient of the loss on one batch, in training mode."""
    inputs, labels = batch

    def loss(params):
        model = nnx.merge(graph, params, state.statistics, copy=True)
        return tasks.loss(model(inputs), labels)

    return jax.grad(loss)(state.params)


def measure(
    graph: Any,
    state: State,
    transform: optax.GradientTransformation,
    batch: tuple[jax.Array, jax.Array],
) -> dict[str, dict[str, jax.Array]]:
    """Shares of the mean, and how much the mean is what a layer's inputs have in common.

    Args:
      graph: of the network.
      state: of one run.
      transform: its optimizer.
      batch: images and labels.

    Returns:
      For each convolution: the share of the squared norm that the filters' means have in
      `gradient`, `momentum` (where the optimizer has any), `update` and `weights`; `alignment`,
      the absolute cosine between the all-ones direction and the first eigenvector of the second
      moment of the input's patches; and `dominance`, that eigenvector's share of the moment's
      trace. Layers whose inputs are centred have no shares.
    """
    images, _ = batch
    gradient = gradient_of(graph, state, batch)
    update, _ = transform.update(gradient, state.optimizer, state.params)
    trees = {"gradient": gradient, "update": update, "weights": state.params}
    for name in ("mu", "trace"):
        for _, momentum in optax.tree.get_all_with_path(state.optimizer, name):
            if isinstance(momentum["conv1"].get("kernel"), jax.Array):  # not that of biases alone
                trees["momentum"] = momentum
    found: dict[str, dict[str, jax.Array]] = {name: {} for name in controls.LAYERS}
    if "kernel" in state.params["conv1"]:
        axes = wcgc.models.rules()
        for what, tree in trees.items():
            for path, leaf in wcgc.measure(tree, axes=axes).leaves.items():
                found[path.partition("/")[0]][what] = leaf.fraction_removed
    model = nnx.merge(graph, state.params, state.statistics, copy=True)
    for name, x in controls.layer_inputs(model, images):
        found[name] |= spectrum(x)
    return found


def spectrum(x: jax.Array, size: int = 5) -> dict[str, jax.Array]:
    """How the patches of a layer's input lie; see `measure`."""
    moment = controls.second_moment(x, size)
    values, vectors = jnp.linalg.eigh(moment)
    top = vectors[:, -1]
    return {
        "alignment": jnp.abs(top.sum()) / jnp.sqrt(len(top)),
        "dominance": values[-1] / jnp.trace(moment),
    }
