"""What a finished run of `examples.cifar` leaves, and how it is read back."""

import json

import orbax.checkpoint as ocp
from flax import nnx

import wcgc.models

FILES = ["centralized", "curves.png", "metrics.json", "plain"]
"""In the folder for the results, in order."""


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def restored(out, name, letter="a"):
    """A trained network, restored as the head of the example says."""
    model = wcgc.models.build(letter, classes=10, rngs=nnx.Rngs(1))
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(model, checkpointer.restore(out.absolute() / name, nnx.state(model)))
    return model
