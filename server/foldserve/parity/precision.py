"""The parity budget of a model that computes in less than float32.

The default budget of :class:`~foldserve.settings.ParityBudget` is for float32 networks, where two correct
evaluations are 1 to 3 · 10⁻⁷ apart in relative L2: one to three times the machine epsilon. Noise is
proportional to epsilon: residual networks of 3 to 33 convolutions show 0.5 to 0.8 ε in float16 and bfloat16
(relative L2) and 0.8 to 1.3 ε (scaled max). Fifty times that would be no limit, so half precision is given
about twenty times noise:

| precision | epsilon | relative L2 | scaled max |
|---|---|---|---|
| float32 and float64 | 1.2e-7 (float32) | 1e-5 | 1e-4 |
| float16 | 9.8e-4 | 16 ε = 1.6e-2 | 32 ε = 3.1e-2 |
| bfloat16 | 7.8e-3 | 16 ε = 1.25e-1 | 32 ε = 2.5e-1 |

A limit that the model's owner has set is taken as it is.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from foldserve.settings import ParityBudget

if TYPE_CHECKING:
    import onnx_ir as ir

EPSILON: dict[np.dtype[np.generic], float] = {
    np.dtype(np.float64): 2.0**-52,
    np.dtype(np.float32): 2.0**-23,
    np.dtype(np.float16): 2.0**-10,
    np.dtype(ml_dtypes.bfloat16): 2.0**-7,
}
"""Distance from 1 to the next number."""

RELATIVE_L2_EPSILONS = 16
SCALED_MAX_EPSILONS = 32


def coarsest_float(dtypes: Iterable[np.dtype[np.generic]]) -> np.dtype[np.generic]:
    """The float type with the largest epsilon among ``dtypes``, float32 at the least."""
    floats = [dtype for dtype in dtypes if dtype in EPSILON]
    return max([np.dtype(np.float32), *floats], key=EPSILON.__getitem__)


def model_precision(model: "ir.Model") -> np.dtype[np.generic]:
    """The coarsest float type among the weights of a model: what it computes in."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return coarsest_float(tensor.dtype.numpy() for tensor in tensors if tensor is not None)


def scaled_budget(budget: ParityBudget, precision: np.dtype[np.generic]) -> ParityBudget:
    """``budget`` with the limits that its owner left at their defaults adapted to ``precision``."""
    epsilon = EPSILON[precision]
    if epsilon <= EPSILON[np.dtype(np.float32)]:
        return budget
    defaults = {
        "relative_l2": RELATIVE_L2_EPSILONS * epsilon,
        "scaled_max": SCALED_MAX_EPSILONS * epsilon,
    }
    unset = {name: limit for name, limit in defaults.items() if name not in budget.model_fields_set}
    return budget.model_copy(update=unset)
