"""Draws what `wcgc.explain` prints for a model with one layer of each kind, as an SVG.

python notebooks/explain_picture.py notebooks/explain.svg
"""

import io
import sys

from flax import nnx
from rich.console import Console

import wcgc


class Model(nnx.Module):
    """One layer of each kind."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(1000, 64, rngs=rngs)
        self.conv = nnx.Conv(3, 32, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(32, 32, (3, 3), feature_group_count=32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.up = nnx.ConvTranspose(32, 16, (2, 2), rngs=rngs)
        self.up_transposed = nnx.ConvTranspose(32, 16, (2, 2), transpose_kernel=True, rngs=rngs)
        self.dense = nnx.Linear(16, 64, rngs=rngs)
        self.general = nnx.LinearGeneral((4, 16), (8, 8), axis=(-2, -1), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 64, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(64, rngs=rngs)
        self.layers = nnx.vmap(lambda rngs: nnx.Linear(64, 64, rngs=rngs))(rngs.split(6))
        self.cell = nnx.OptimizedLSTMCell(64, 32, rngs=rngs)


def main() -> None:
    model = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    explanation = wcgc.explain(nnx.state(model, nnx.Param), axes=wcgc.axes_of(model))
    console = Console(record=True, width=93, file=io.StringIO())
    console.print(explanation)
    console.save_svg(sys.argv[1], title="wcgc.explain(params, axes=wcgc.axes_of(model))")
    print(explanation)


if __name__ == "__main__":
    main()
