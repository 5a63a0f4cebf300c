import numpy as np
import pytest
from foldserve.errors import ConfigurationError
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.declared import check_declared
from foldserve.settings import ModelSettings

IMAGES = TensorSpec("images", np.dtype(np.float32), ("batch", 3, None, None))
SIZES = TensorSpec("sizes", np.dtype(np.int64), ("batch", 2))
LOGITS = TensorSpec("logits", np.dtype(np.float32), ("batch", 10))
TEXTS = TensorSpec("texts", np.dtype(np.object_), None)


def _declared(name: str, datatype: str | None = None, shape: list[int] | None = None) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _check(**values: object) -> None:
    check_declared([IMAGES, SIZES], [LOGITS, TEXTS], ModelSettings.model_validate(values))


def test_what_the_model_has_may_be_declared() -> None:
    _check()
    _check(
        inputs=[_declared("sizes", "INT64", [-1, 2]), _declared("images", "FP32", [-1, 3, 224, -1])],
        outputs=[_declared("logits", "FP32", [-1, 10]), _declared("texts", "BYTES", [7])],
        labels={"logits": "labels.txt"},
    )
    _check(inputs=[_declared("images"), _declared("sizes")])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"inputs": [_declared("images")]}, "not 'sizes', which the model takes"),
        ({"inputs": [_declared("image"), *map(_declared, ("images", "sizes"))]}, "names input 'image', but"),
        ({"outputs": [_declared("probabilities")]}, "the model's outputs are 'logits', 'texts'"),
        ({"labels": {"classes": "labels.txt"}}, "names output 'classes'"),
        (
            {"outputs": [_declared("logits", "FP16", [-1, 10])]},
            r"is FP32 \[batch, 10\] in the model, but the configuration declares FP16 \[-1, 10\]",
        ),
        ({"outputs": [_declared("logits", "FP32", [-1, 11])]}, r"declares FP32 \[-1, 11\]"),
        ({"outputs": [_declared("logits", "FP32", [-1, -1])]}, r"declares FP32 \[-1, -1\]"),
        ({"outputs": [_declared("logits", None, [10])]}, r"declares any type \[10\]"),
        ({"outputs": [_declared("texts", "INT64")]}, "BYTES of any shape in the model.*INT64 of any shape"),
    ],
)
def test_what_it_has_not_is_refused_with_both_sides(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        _check(**values)
