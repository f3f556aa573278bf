"""What `build` makes of its choices: parameters, normalizations, and what it refuses."""

import importlib
import re
import sys

import jax.numpy as jnp
import pytest
from flax import nnx

import wcgc.models
from wcgc.models._layers import BatchNorm

from helpers.networks import abstract, build, output_shape, params


def count(model):
    return sum(leaf.size for leaf in params(model).values())


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
def test_parameters_are_as_many_as_in_the_papers_networks(letter, classes, batch_norm, expected):
    assert count(abstract(letter, classes, batch_norm=batch_norm)) == expected


@pytest.mark.parametrize(
    ("letter", "scales_and_shifts"),
    [
        ("b", 2 * (7 * 64 + 8 * 128 + 12 * 256 + 6 * 512)),
        ("d", 2 * (2 * 64 + 12 * (64 + 128 + 256 + 512))),
    ],
)
def test_without_batch_norm_every_layer_keeps_its_bias(letter, scales_and_shifts):
    without = abstract(letter, batch_norm=False)
    assert count(abstract(letter)) - count(without) == scales_and_shifts
    kernels = {path for path in params(without) if path.endswith("kernel")}
    assert {path.replace("kernel", "bias") for path in kernels} | kernels == set(params(without))


def test_cifar_stem_of_b_differs_by_its_smaller_kernel():
    assert count(abstract("b")) - count(abstract("b", stem="cifar")) == (49 - 9) * 3 * 64


def test_d_has_41_convolutions_14_transposed_ones_and_50_batch_norms():
    modules = [module for _, module in nnx.iter_modules(abstract("d"))]
    kinds = (nnx.Conv, nnx.ConvTranspose, nnx.BatchNorm)
    assert [sum(isinstance(m, kind) for m in modules) for kind in kinds] == [41, 14, 50]


@pytest.mark.parametrize(
    ("choices", "kind"),
    [
        ({}, BatchNorm),
        ({"batch_norm": True}, BatchNorm),
        ({"norm": "batch"}, BatchNorm),
        ({"norm": "layer"}, nnx.LayerNorm),
        ({"norm": "instance", "batch_norm": False}, nnx.InstanceNorm),
    ],
)
def test_each_convolution_has_the_normalization_that_was_chosen(choices, kind):
    model = abstract("a", **choices)
    assert [type(norm) for norm in (model.norm1, model.norm2, model.norm3)] == [kind] * 3


@pytest.mark.parametrize(("letter", "window"), [("a", 100), ("b", 1000), ("d", 1000)])
def test_running_averages_go_back_as_far_as_dlib_s(letter, window):
    norms = [m for _, m in nnx.iter_modules(abstract(letter)) if isinstance(m, nnx.BatchNorm)]
    assert {norm.window for norm in norms} == {window}


@pytest.mark.parametrize(
    ("letter", "classes", "choices", "error", "says"),
    [
        ("e", 10, {}, ValueError, "'a', 'b', 'c', 'd', got 'e'"),
        ("a", 0, {}, ValueError, "at least 1, got 0"),
        ("a", 10.0, {}, TypeError, "integer, got 10.0"),
        ("a", True, {}, TypeError, "integer, got True"),
        ("a", 10, {"stem": "cifar"}, ValueError, "'cifar' is a choice of network 'b' only"),
        ("b", 10, {"stem": "resnet"}, ValueError, "'stride1', 'cifar', 'imagenet', got"),
        ("c", 10, {"batch_norm": True}, ValueError, "'c' has no normalization by definition"),
        ("c", 10, {"norm": "layer"}, ValueError, "'c' has no normalization by definition"),
        ("a", 10, {"norm": "group"}, ValueError, "'instance' or None, got 'group'"),
        ("a", 10, {"batch_norm": "no"}, TypeError, "True, False or None, got 'no'"),
        ("a", 10, {"batch_norm": True, "norm": "layer"}, ValueError, "contradicts"),
        ("a", 10, {"batch_norm": False, "norm": "batch"}, ValueError, "contradicts"),
        ("a", 10, {"after_layer": 3}, TypeError, "after_layer must be a function"),
        ("a", 10, {"dtype": jnp.int8}, ValueError, "dtype must be a floating type"),
        ("a", 10, {"dtype": "foo"}, TypeError, "as jax.numpy.bfloat16, or None, got 'foo'."),
        ("a", 10, {"dtype": 3}, TypeError, "dtype must be a floating type such as"),
        ("a", jnp.ones(2), {}, TypeError, "integer, got Array of shape (2,)."),
    ],
)
def test_choices_that_there_are_not_are_refused(letter, classes, choices, error, says):
    with pytest.raises(error, match=re.escape(says)):
        build(letter, classes, **choices)


def test_a_seed_in_place_of_rngs_is_refused():
    with pytest.raises(TypeError, match=r"such as nnx.Rngs\(0\), got 0"):
        wcgc.models.build("a", 10, rngs=0)
    with pytest.raises(TypeError, match=r"got Array of shape \(9,\)\.$"):
        wcgc.models.build("a", 10, rngs=jnp.ones(9))


@pytest.mark.parametrize(
    ("letter", "shape", "says"),
    [
        ("a", (2, 28, 28, 3), "32x32, got (2, 28, 28, 3)"),
        ("c", (2, 3, 32, 32), "(batch, height, width, 3)"),
        ("c", (32, 32, 3), "got (32, 32, 3)"),
        ("b", (2, 30, 32, 3), "at least 31"),
        ("d", (2, 67, 66, 3), "at least 67"),
        ("d", (2, 227, 227, 1), "got (2, 227, 227, 1)"),
    ],
)
def test_images_of_the_wrong_shape_are_refused(letter, shape, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        output_shape(abstract(letter), *shape)


def test_images_that_are_bytes_are_refused():
    with pytest.raises(TypeError, match="floating and normalized, got uint8"):
        build("a")(jnp.zeros((1, 32, 32, 3), jnp.uint8))


def test_missing_flax_is_named(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "flax" or name.startswith("wcgc.models"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flax", None)
    with pytest.raises(ImportError, match=r"needs Flax.*pip install 'wcgc\[flax\]'"):
        importlib.import_module("wcgc.models")
