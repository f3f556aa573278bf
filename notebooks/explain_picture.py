"""Draws what `wcgc.explain` prints for a model of 300 leaves, as an SVG.

python notebooks/explain_picture.py notebooks/explain.svg
"""

import io
import sys

from flax import nnx
from rich.console import Console
from rich.terminal_theme import TerminalTheme

import wcgc

# Brighter on darker than rich's own, for what is dimmed to be read.
GREY, CYAN = (235, 235, 235), (140, 215, 240)
THEME = TerminalTheme((20, 20, 20), GREY, [*[GREY] * 6, CYAN, GREY])


class Block(nnx.Module):
    """One layer of a transformer: 16 leaves."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(256, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 256, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(256, rngs=rngs)
        self.up = nnx.Linear(256, 1024, rngs=rngs)
        self.down = nnx.Linear(1024, 256, rngs=rngs)


class Model(nnx.Module):
    """A transformer on images, with a layer of each other kind: 300 leaves."""

    def __init__(self, rngs: nnx.Rngs):
        self.patches = nnx.Conv(3, 256, (4, 4), strides=4, rngs=rngs)
        self.positions = nnx.Embed(256, 256, rngs=rngs)
        self.depthwise = nnx.Conv(256, 256, (3, 3), feature_group_count=256, rngs=rngs)
        self.layers = nnx.List([Block(rngs) for _ in range(18)])
        self.norm = nnx.LayerNorm(256, rngs=rngs)
        self.image = nnx.ConvTranspose(256, 3, (4, 4), transpose_kernel=True, rngs=rngs)
        self.experts = nnx.vmap(lambda rngs: nnx.Linear(256, 10, use_bias=False, rngs=rngs))(
            rngs.split(8)
        )
        self.head = nnx.Linear(256, 10, rngs=rngs)


def main() -> None:
    model = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    explanation = wcgc.explain(nnx.state(model, nnx.Param), axes=wcgc.axes_of(model))
    console = Console(record=True, width=104, file=io.StringIO())
    console.print(explanation)
    title = "wcgc.explain(params, axes=wcgc.axes_of(model))"
    console.save_svg(sys.argv[1], title=title, theme=THEME)
    print(explanation)


if __name__ == "__main__":
    main()
