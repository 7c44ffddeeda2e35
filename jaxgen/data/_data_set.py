"""The shapes in which data sets arrive."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """One part of a data set, as NumPy arrays on the host.

    Attributes:
      x: symbols in [0, num_symbols), integers `[N, D]`.
      labels: classes, int32 `[N]`; None where the data set has none.
    """

    x: np.ndarray
    labels: np.ndarray | None


class DataSet(NamedTuple):
    """Examples of one shape, split once and for all.

    Attributes:
      name: the data set's name, as results record it.
      train: what parameters are fitted to.
      valid: what training is stopped and models are chosen by.
      test: what is reported.
      num_symbols: V, the number of values that a coordinate takes.
      example_shape: the shape of one example before it was flattened, with product D.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    num_symbols: int
    example_shape: tuple[int, ...]


class Parts(NamedTuple):
    """Rows of real numbers in three parts, float `[N, D]` each.

    Attributes:
      train: what parameters are fitted to.
      valid: what training is stopped and models are chosen by.
      test: what is reported.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
