"""The three data sets, read from their official archives or folders."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from examples import cifar_data
from examples.engine import voc

Dataset = Literal["CIFAR10", "CIFAR100", "VOC2012"]


class Data(NamedTuple):
    """Images with their labels, as NumPy arrays: `cifar_data.Split` or `voc.Masks`."""

    train: Any
    test: Any


def load(
    dataset: Dataset, data_dir: Path, split: voc.SplitName = "official", limit: int | None = None
) -> Data:
    """Reads one data set and checks it.

    Args:
      dataset: which.
      data_dir: the folder that holds the official archive or what it unpacks to; CIFAR is
        downloaded into it if neither is there.
      split: of VOC2012 into training and test images; see `voc.load`.
      limit: keep only so many training and so many test images, the first ones.

    Returns:
      The images.

    Raises:
      ValueError: a file is not what it should be, or `limit` is not positive.
      OSError: a file is missing or cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}.")
    if dataset == "VOC2012":
        return Data(*voc.load(data_dir, split, limit))
    data = cifar_data.load_cifar(dataset.lower(), data_dir)
    return Data(*(type(part)(*(array[:limit] for array in part)) for part in data))
