import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import InvalidRequest
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.validation import (
    Form,
    describe,
    validate_elements,
    validate_inputs,
    validate_outputs,
    validate_rows,
)

IMAGES = TensorSpec("images", np.dtype(np.float32), ("batch", 1, 8, 8))
MASK = TensorSpec("mask", np.dtype(np.bool_), ("batch", None))


def _images(*shape: int, dtype: type = np.float32) -> Form:
    return Form(np.dtype(dtype), shape)


def _mask(*shape: int) -> Form:
    return Form(np.dtype(np.bool_), shape)


def test_fitting_inputs_pass() -> None:
    validate_inputs([IMAGES, MASK], {"images": _images(3, 1, 8, 8), "mask": _mask(3, 5)})
    validate_inputs([IMAGES], {"images": _images(0, 1, 8, 8)})
    validate_inputs([TensorSpec("any", np.dtype(np.float32), None)], {"any": _images(2, 3)})


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, r"input 'images' is missing; the model takes FP32 \[batch, 1, 8, 8\]"),
        ({"image": _images(1, 1, 8, 8)}, r"unexpected input 'image'; the model takes 'images'"),
        (
            {"images": _images(1, 1, 8, 8, dtype=np.float64)},
            r"expected FP32 \[batch, 1, 8, 8\], got FP64 \[1, 1, 8, 8\]",
        ),
        ({"images": _images(1, 8, 8)}, r"got FP32 \[1, 8, 8\] \(3 dimensions instead of 4\)"),
        ({"images": _images(1, 3, 8, 8)}, r"\(axis 1 must be 1\)"),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(inputs: dict[str, Form], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        validate_inputs([IMAGES], inputs)


def test_one_symbol_is_one_size_over_all_inputs() -> None:
    with pytest.raises(InvalidRequest, match=r"axis 0, 'batch', is 3 in input 'images'"):
        validate_inputs([IMAGES, MASK], {"images": _images(3, 1, 8, 8), "mask": _mask(2, 5)})


def test_all_inputs_have_the_same_rows() -> None:
    validate_rows({"images": _images(3, 1, 8, 8), "mask": _mask(3)})
    with pytest.raises(InvalidRequest, match="input 'mask' has 2 rows, input 'images' has 3"):
        validate_rows({"images": _images(3, 1, 8, 8), "mask": _mask(2)})


def test_outputs_must_exist_and_be_asked_for_once() -> None:
    logits = TensorSpec("logits", np.dtype(np.float32), ("batch", 10))
    validate_outputs([logits], [])
    validate_outputs([logits], ["logits"])
    with pytest.raises(InvalidRequest, match="unknown output 'probabilities'; the model gives 'logits'"):
        validate_outputs([logits], ["probabilities"])
    with pytest.raises(InvalidRequest, match="twice"):
        validate_outputs([logits], ["logits", "logits"])


def test_tensors_are_described_in_the_protocols_words() -> None:
    assert describe(MASK) == "BOOL [batch, ?]"
    assert describe(TensorSpec("x", np.dtype(ml_dtypes.bfloat16), None)) == "BF16 of any shape"


def test_what_has_no_elements_is_refused_where_a_kernel_needs_some() -> None:
    validate_elements({"x": _images(1, 5, 4)})
    with pytest.raises(InvalidRequest, match=r"input 'x' has no elements \(\[0, 5, 4\]\).*recurrent"):
        validate_elements({"x": _images(0, 5, 4)})
    with pytest.raises(InvalidRequest, match="'steps' has no elements"):
        validate_elements({"x": _images(1, 4), "steps": _images(5, 0, 4)})
