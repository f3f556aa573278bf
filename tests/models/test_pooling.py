"""The largest of each window, and what its gradient is."""

import jax
import jax.numpy as jnp
import numpy as np

from wcgc.models._pooling import max_pool


def test_max_pool_takes_the_largest_of_each_window_and_drops_what_is_left():
    x = jnp.array([[1.0, 5, 2, 9], [3, 4, 8, 7], [99, 99, 99, 99]]).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(max_pool(x, 2).ravel(), [5, 9])
    x = jnp.arange(30.0).reshape(1, 5, 6, 1)
    np.testing.assert_array_equal(max_pool(x, 3)[0, :, :, 0], [[14, 16], [26, 28]])


def test_max_pool_shares_the_gradient_of_equal_maxima():
    gradient = jax.grad(lambda x: max_pool(x, 2).sum())(
        jnp.array([3.0, 3, 1, 0]).reshape(1, 2, 2, 1)
    )
    np.testing.assert_array_equal(gradient.ravel(), [0.5, 0.5, 0, 0])
