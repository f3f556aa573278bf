"""The cost of a whole training step with WC and GC against that of the plain optimizer.

    python -m pytest tests/benchmarks/test_step_cost.py --benchmark-json=step_cost.json

Forward, backward and update of the paper's networks at the paper's batch sizes. Each round runs the
plain step, then the centralized one; on a GPU, whose host would take longer to start a step than
the GPU to run it, a loop of 20 of each.
"""

import jax
import pytest

import wcgc
import wcgc.models
from examples.engine import compiling

from helpers.compared import OPTIMIZERS
from helpers.measuring import medians_in_turns
from helpers.training_step import BATCHES, Step

pytestmark = pytest.mark.usefixtures("standard_promotion")

ROUNDS = 15

STEPS = 1 if jax.default_backend() == "cpu" else 20
"""In one call."""


@pytest.mark.parametrize("letter", BATCHES)
def test_step(benchmark, letter):
    optimizer = OPTIMIZERS["sgd" if letter == "d" else "adam"]
    plain = Step(letter, optimizer(), STEPS)
    tx = wcgc.centralized(optimizer(), axes=wcgc.models.rules())
    centralized = Step(letter, tx, STEPS)
    plain_median, median = (
        seconds / STEPS for seconds in medians_in_turns(benchmark, plain, centralized, ROUNDS)
    )
    benchmark.extra_info.update(
        ratio=median / plain_median,
        plain_median_seconds=plain_median,
        images_per_second=BATCHES[letter][0] / median,
        compile_ratio=centralized.compile_seconds / plain.compile_seconds,
        steps_per_call=STEPS,
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        compilation=compiling.choose().name,
    )
