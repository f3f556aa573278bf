"""Which kernels the paper normalizes."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import wcgc.models

from helpers.networks import LETTERS, abstract


def selected(letter, fully):
    tree = nnx.state(abstract(letter), nnx.Param)
    chosen = jax.tree_util.tree_leaves_with_path(
        wcgc.models.rules(fully)(tree), is_leaf=lambda node: isinstance(node, wcgc.KernelAxes)
    )
    for _, axes in chosen:
        assert axes.resolve(4) == ((2,), (3,), (), (0, 1))
    paths = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in chosen)
    return {path.removesuffix("/value").removesuffix("/kernel") for path in paths}


@pytest.mark.parametrize("fully", [False, True])
@pytest.mark.parametrize("letter", LETTERS)
def test_every_convolution_is_chosen_and_fully_adds_hidden(letter, fully):
    expected = {
        "/".join(map(str, path))
        for path, module in nnx.iter_modules(abstract(letter))
        if isinstance(module, (nnx.Conv, nnx.ConvTranspose)) and path != ("head",)
    }
    assert len(expected) == {"a": 3, "b": 33, "c": 3, "d": 54}[letter]
    if fully and letter in "ac":
        expected.add("hidden")
    assert selected(letter, fully) == expected


def test_a_tree_with_other_names_is_refused():
    with pytest.raises(ValueError, match="dense/kernel"):
        wcgc.models.rules(fully=True)({"dense": {"kernel": jnp.ones((2, 2))}})
