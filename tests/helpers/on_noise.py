"""Images of noise, a few, on which the engine of the examples runs in seconds."""

from examples.engine.data import Data
from examples.paper import experiments
from examples.paper.estimate import noise


def noise_data(train=100, test=20, dataset="CIFAR10"):
    """So many training and test images."""
    return Data(noise(dataset, train), noise(dataset, test))


class OnNoise(experiments.Setting):
    """A row of the paper's tables on noise, in whatever process."""

    def load(self, data_dir):
        return noise_data()
