"""The four networks of the paper, in Flax NNX.

Their layers are named so that one set of rules fits all: convolutions `conv*`, the penultimate
dense layer `hidden`, the output layer `head`.

>>> import wcgc.models
>>> from flax import nnx
>>> model = wcgc.models.build("a", classes=10, rngs=nnx.Rngs(0))
"""

try:
    import flax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "flax":
        raise
    raise ImportError(
        "wcgc.models needs Flax, which wcgc itself does not install: pip install 'wcgc[flax]'"
    ) from error

from wcgc.models._build import build, rules
from wcgc.models._resnet import ResNet34
from wcgc.models._small import SmallNet
from wcgc.models._unet import ResidualUNet

__all__ = ["ResNet34", "ResidualUNet", "SmallNet", "build", "rules"]
