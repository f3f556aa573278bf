"""How far rounding moves kept norms and means in 10,000 steps.

    python -m examples.drift

Adam's steps of 1e-3 on a kernel of 256 inputs and 32 outputs, which starts as a dense layer does,
with normal random numbers for gradients. For each seed the largest deviation, at any step, of any
slice: of norms relative to that at the start, of means relative to the root mean square of the
kernel at the start.
"""

import functools

import jax
import jax.numpy as jnp
import optax

import wcgc

INPUTS, OUTPUTS = 256, 32
STEPS = 10_000
SEEDS = (0, 1, 2)
ADAM = optax.adam(1e-3)


def norms(kernel):
    """Of each slice."""
    return jnp.linalg.norm(kernel, axis=0)


def norm(kernel):
    """Of the kernel."""
    return jnp.linalg.norm(kernel)


def means(kernel):
    """Of each slice."""
    return jnp.mean(kernel, axis=0)


CASES = {
    "norms under Adam alone": (ADAM, norms),
    'normalize_params(norm="keep")': (
        optax.chain(ADAM, wcgc.normalize_params(norm="keep")),
        norms,
    ),
    'normalize_params("global", norm="keep")': (
        optax.chain(ADAM, wcgc.normalize_params("global", norm="keep")),
        norm,
    ),
    "centralize_params()": (optax.chain(ADAM, wcgc.centralize_params()), means),
    "centralize_gradients() in front of SGD": (
        optax.chain(wcgc.centralize_gradients(), optax.sgd(1e-3, momentum=0.9)),
        means,
    ),
}
"""Names of transforms, what they are, and the numbers that should stay."""


@functools.partial(jax.jit, static_argnames=("tx", "kept", "dtype", "steps"))
def largest_deviation(seed, tx, kept, dtype, steps=STEPS):
    """The largest deviation from the start at any of the steps, relative."""
    start, numbers = jax.random.split(jax.random.key(seed))
    kernel = jax.random.normal(start, (INPUTS, OUTPUTS)) / INPUTS**0.5
    kernel = wcgc.centralize(kernel).astype(dtype)
    at_start = kept(kernel.astype(jnp.float32))
    size = norm(kernel.astype(jnp.float32)) / kernel.size**0.5
    unit = size if kept is means else at_start

    def step(carry, number):
        kernel, state, worst = carry
        key = jax.random.fold_in(numbers, number)
        grads = jax.random.normal(key, kernel.shape).astype(dtype)
        updates, state = tx.update(grads, state, kernel)
        kernel = optax.apply_updates(kernel, updates)
        # The sums for this are rounded, too: pairwise, by 1e-7 of what is summed.
        deviation = jnp.abs(kept(kernel.astype(jnp.float32)) - at_start) / unit
        return (kernel, state, jnp.maximum(worst, jnp.max(deviation))), None

    zero = jnp.zeros((), jnp.float32)
    return jax.lax.scan(step, (kernel, tx.init(kernel), zero), jnp.arange(steps))[0][2]


if __name__ == "__main__":
    print(f"jax {jax.__version__}, optax {optax.__version__}, {jax.default_backend()}")
    for dtype in ("float32", "bfloat16"):
        for name, (tx, kept) in CASES.items():
            worst = [float(largest_deviation(seed, tx, kept, dtype)) for seed in SEEDS]
            print(f"{dtype:9} {name:40}", *(f"{value:.1e}" for value in worst))
