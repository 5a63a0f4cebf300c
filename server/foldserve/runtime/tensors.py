"""What a model takes and gives: names, element types and shapes."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    ``dtype`` is numpy's (``BFLOAT16`` for BF16, ``object`` for strings held as ``bytes``).
    ``shape`` holds an int for a fixed dimension, a name for a symbolic one and None for an unknown one;
    equal names are equal sizes. ``shape`` is None where even the rank is unknown.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | str | None, ...] | None
