import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wcgc
from wcgc._messages import LONGEST, MOST, holds_arrays, listed, quoted, where_trees_go, written

PARAMS = {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
MODELS = {
    "dict": lambda: PARAMS,
    "list": lambda: [np.ones(2)],
    "State": lambda: nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
    "Linear": lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
    "MLP": lambda: eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0)),
    "LookaheadParams": lambda: optax.LookaheadParams(PARAMS, PARAMS),
}


class TestWritten:
    @pytest.mark.parametrize(
        "value",
        [None, True, 1.5, "tensor", wcgc.FLAX, {"kernel": wcgc.FLAX}, (-2, -1), wcgc.by_path],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_short(self, value):
        assert written(value) == repr(value)

    @pytest.mark.parametrize("value", [np.float32(2), np.array(3)], ids=repr)
    def test_numbers_of_arrays_without_axes(self, value):
        assert written(value) == repr(value)
        assert written(jnp.asarray(value)) == repr(jnp.asarray(value))

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (np.ones(2), "array of shape (2,)"),
            (jax.ShapeDtypeStruct((4,), jnp.float32), "ShapeDtypeStruct of shape (4,)"),
        ],
        ids=["numpy", "abstract"],
    )
    def test_arrays(self, value, text):
        assert written(value) == text

    def test_arrays_of_jax(self):
        assert written(jnp.ones((2, 3))) == "Array of shape (2, 3)"

    def test_an_array_that_is_traced(self):
        texts = []
        jax.jit(lambda x: texts.append(written(x)))(jnp.ones((2, 3)))
        assert texts == ["Array of shape (2, 3)"]

    @pytest.mark.parametrize("name", MODELS)
    def test_trees_of_arrays(self, name):
        assert written(MODELS[name]()) == name

    def test_what_takes_several_lines(self):
        class Lines:
            def __repr__(self):
                return "one\ntwo"

        assert written(Lines()) == "Lines"

    def test_what_is_long(self):
        longest = "a" * (LONGEST - len("''"))
        assert written(longest) == repr(longest)
        assert written([wcgc.FLAX] * 100) == "list"
        assert written("a" * 1000) == f"'{'a' * (LONGEST - 1)}..."


@pytest.mark.parametrize("name", MODELS)
def test_trees_of_arrays_are_told_where_they_go(name):
    tree = MODELS[name]()
    assert holds_arrays(tree)
    assert where_trees_go(tree) == (
        " A tree of arrays is the first argument of functions such as wcgc.centralize; it goes to "
        "init and update of transforms such as wcgc.centralize_params()."
    )


@pytest.mark.parametrize("value", [None, "tensor", wcgc.FLAX, {"lr": np.array(0.1)}], ids=repr)
def test_others_are_not(value):
    assert where_trees_go(value) == ""


def test_a_tree_that_is_one_array_has_a_name():
    assert quoted(("a", "b")) == "'a/b'"
    assert quoted(()) == "'(the array)'"


def test_many_paths_are_counted():
    paths = [f"p{n}" for n in range(MOST + 1)]
    assert listed([]) == "nothing"
    assert listed([], "no leaf") == "no leaf"
    assert listed(iter(paths[:-1])) == ", ".join(paths[:-1])
    assert listed(paths) == ", ".join(paths[:-1]) + " and 1 more"
    assert listed(paths, most=3) == f"p0, p1, p2 and {MOST - 2} more"
