"""Budgets of models that compute in half precision."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.parity.precision import EPSILON, coarsest_float, model_precision, scaled_budget
from foldserve.settings import ParityBudget
from unit.parity import networks

FLOAT32 = np.dtype(np.float32)
FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("dtype", list(EPSILON), ids=str)
def test_epsilon_is_the_distance_from_one_to_the_next_number(dtype: np.dtype[np.generic]) -> None:
    one = np.ones((), dtype)
    assert float((one + np.asarray(EPSILON[dtype]).astype(dtype)) - one) == EPSILON[dtype]
    assert float((one + np.asarray(EPSILON[dtype] / 4).astype(dtype)) - one) == 0


def test_the_coarsest_float_decides() -> None:
    assert coarsest_float([FLOAT32, BFLOAT16, FLOAT16]) == BFLOAT16
    assert coarsest_float([FLOAT16, np.dtype(np.int64)]) == FLOAT16
    assert coarsest_float([np.dtype(np.float64), np.dtype(np.object_)]) == FLOAT32


@pytest.mark.parametrize(
    ("precision", "relative_l2", "scaled_max"),
    [
        (np.dtype(np.float64), 1e-5, 1e-4),
        (FLOAT32, 1e-5, 1e-4),
        (FLOAT16, 1.6e-2, 3.1e-2),
        (BFLOAT16, 1.25e-1, 2.5e-1),
    ],
    ids=str,
)
def test_defaults_follow_the_precision(
    precision: np.dtype[np.generic], relative_l2: float, scaled_max: float
) -> None:
    budget = scaled_budget(ParityBudget(), precision)
    assert budget.relative_l2 == pytest.approx(relative_l2, rel=0.03)
    assert budget.scaled_max == pytest.approx(scaled_max, rel=0.03)


def test_a_limit_of_the_owner_stays() -> None:
    budget = scaled_budget(ParityBudget(relative_l2=1e-5), FLOAT16)
    assert budget.relative_l2 == 1e-5
    assert budget.scaled_max > 1e-2


def test_the_precision_of_a_model_is_that_of_its_weights() -> None:
    source = networks.original(networks.layers(dtype="float16"), outside="float")
    assert model_precision(ir.from_proto(onnx.load_from_string(source))) == FLOAT16
