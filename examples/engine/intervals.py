"""What differences between paired runs say."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and half the width of its confidence interval.

    Attributes:
      mean: nan without any value.
      margin: nan for fewer than two values.
      count: of the values.
    """

    mean: float
    margin: float
    count: int


def student(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of differences with its confidence interval by Student's t.

    Args:
      differences: of pairs of runs, one for each seed.
      confidence: between 0 and 1.

    Returns:
      Mean and margin, in the unit of the differences.

    Example:
      >>> interval = student([1.0, 2.0, 3.0])
      >>> print(f"{interval.mean:.2f} +- {interval.margin:.2f}")
      2.00 +- 2.48
    """
    count = len(differences)
    mean = float(np.mean(differences)) if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, count)
    quantile = scipy.stats.t.ppf((1 + confidence) / 2, count - 1)
    margin = float(quantile * np.std(differences, ddof=1) / math.sqrt(count))
    return Interval(mean, margin, count)
