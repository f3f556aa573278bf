import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import wcgc
import wcgc.models
from wcgc.models._layers import Layers


def abstract(letter, classes=10, **choices):
    """A network whose parameters are shapes only, so that the big ones cost nothing."""
    return nnx.eval_shape(lambda: wcgc.models.build(letter, classes, rngs=nnx.Rngs(0), **choices))


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def output_shape(module, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda module, x: module(x), module, x).shape


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def kernels(model):
    """The kernels by path, in the order of their layers' names."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in flat if path[-1] == "kernel"}


@pytest.fixture
def layers():
    return Layers(norm=None, after_layer=None, rngs=nnx.Rngs(0))


class TestParameterCounts:
    @pytest.mark.parametrize(
        ("letter", "classes", "batch_norm", "expected"),
        [
            ("a", 10, False, 145_578),
            ("a", 100, False, 151_428),
            ("a", 10, None, 145_578 + 256),
            ("a", 100, True, 151_428 + 256),
            ("b", 10, None, 21_123_594),
            ("b", 100, True, 21_169_764),
            ("c", 10, None, 1_312_842),
            ("c", 100, False, 1_359_012),
            ("d", 21, None, 40_130_133),
        ],
    )
    def test_are_those_of_the_paper_s_networks(self, letter, classes, batch_norm, expected):
        assert count(abstract(letter, classes, batch_norm=batch_norm)) == expected

    @pytest.mark.parametrize(
        ("letter", "scales_and_shifts"),
        [
            ("b", 2 * (7 * 64 + 8 * 128 + 12 * 256 + 6 * 512)),
            ("d", 2 * (2 * 64 + 12 * (64 + 128 + 256 + 512))),
        ],
    )
    def test_without_batch_norm_every_bias_stays(self, letter, scales_and_shifts):
        with_norm, without = abstract(letter), abstract(letter, batch_norm=False)
        assert count(with_norm) - count(without) == scales_and_shifts
        for path, kernel in kernels(without).items():
            assert path.replace("kernel", "bias") in paths(nnx.state(without)), kernel.shape

    def test_cifar_stem_of_b_differs_by_its_smaller_kernel(self):
        assert count(abstract("b")) - count(abstract("b", stem="cifar")) == (49 - 9) * 3 * 64

    def test_d_has_the_layers_of_the_table(self):
        found = {}
        for _, module in nnx.iter_modules(abstract("d")):
            for kind in (nnx.Conv, nnx.ConvTranspose, nnx.BatchNorm):
                found[kind] = found.get(kind, 0) + isinstance(module, kind)
        assert found == {nnx.Conv: 41, nnx.ConvTranspose: 14, nnx.BatchNorm: 50}
