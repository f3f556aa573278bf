"""Training steps of networks (a) and (c) on a CPU against the same networks in PyTorch.

    python -m pip install torch
    python -m pytest tests/benchmarks/test_against_pytorch.py

Forward, backward and Adam at batch 50, images in the order of axes that each framework likes best.
Each round runs PyTorch's step, then ours.
"""

import jax
import pytest

from examples.engine import compiling

from helpers.compared import OPTIMIZERS
from helpers.measuring import medians_in_turns
from helpers.training_step import Step

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares what a CPU does"),
]

ROUNDS = 25
PAUSE = 0.02  # seconds, after which the other framework's threads have stopped waiting for work

NETWORKS = {"a": ((32, 32, 64), 64, True), "c": ((32, 64, 128), 512, False)}
"""Filters of the three convolutions, units of the hidden layer, batch normalization."""


def torch_step(filters, hidden, batch_norm):
    """The same training step in PyTorch, and how many parameters it trains."""
    layers, inputs = [], 3
    for count in filters:
        layers += [torch.nn.Conv2d(inputs, count, 5, padding=2)]
        layers += [torch.nn.BatchNorm2d(count)] if batch_norm else []
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        inputs = count
    layers += [torch.nn.Flatten(), torch.nn.Linear(16 * inputs, hidden), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(hidden, 10))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=5e-5)
    images = torch.randn(50, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (50,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("letter", NETWORKS)
def test_step_against_pytorch(benchmark, letter):
    theirs, parameters = torch_step(*NETWORKS[letter])
    ours = Step(letter, OPTIMIZERS["adam"]())
    assert parameters == sum(leaf.size for leaf in jax.tree.leaves(ours.carry[0]))
    for step in (theirs, ours):
        step()
    their_median, our_median = medians_in_turns(benchmark, theirs, ours, ROUNDS, PAUSE)
    benchmark.extra_info.update(
        ratio=our_median / their_median,
        images_per_second=50 / our_median,
        torch_images_per_second=50 / their_median,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        compilation=compiling.choose().name,
    )
