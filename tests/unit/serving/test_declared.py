import json

import numpy as np
import pytest
from foldserve.errors import ConfigurationError
from foldserve.observability.logging import configure_logging
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.declared import check_declared, warn_of_batching_in_vain
from foldserve.settings import LogFormat, LogLevel, ModelSettings

IMAGES = TensorSpec("images", np.dtype(np.float32), ("batch", 3, None, None))
SIZES = TensorSpec("sizes", np.dtype(np.int64), ("batch", 2))
LOGITS = TensorSpec("logits", np.dtype(np.float32), ("batch", 10))
TEXTS = TensorSpec("texts", np.dtype(np.object_), None)


def _declared(name: str, datatype: str | None = None, shape: list[int] | None = None) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _check(**values: object) -> None:
    origins = dict.fromkeys(values, "m/config.pbtxt")
    check_declared([IMAGES, SIZES], [LOGITS, TEXTS], ModelSettings.model_validate(values), origins)


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
        (
            {"inputs": [_declared("images")]},
            "declares the inputs 'images', but the model takes 'images', 'sizes'",
        ),
        (
            {"inputs": [_declared("image"), _declared("sizes")]},
            "declares the inputs 'image', 'sizes', but the model takes 'images', 'sizes'",
        ),
        (
            {"inputs": [_declared("images"), _declared("sizes", "INT32")]},
            r"declares input 'sizes' as INT32 of any shape, but in the model it is INT64 \[batch, 2\]",
        ),
        ({"outputs": [_declared("probabilities")]}, "the model's outputs are 'logits', 'texts'"),
        ({"labels": {"classes": "labels.txt"}}, "names output 'classes'"),
        (
            {"outputs": [_declared("logits", "FP16", [-1, 10])]},
            r"declares output 'logits' as FP16 \[-1, 10\], but in the model it is FP32 \[batch, 10\]",
        ),
        ({"outputs": [_declared("logits", "FP32", [-1, 11])]}, r"as FP32 \[-1, 11\]"),
        ({"outputs": [_declared("logits", "FP32", [-1, -1])]}, r"as FP32 \[-1, -1\]"),
        (
            {"outputs": [_declared("logits", None, [10])]},
            r"as any type \[10\], but .* in config\.pbtxt a max_batch_size",
        ),
        (
            {"outputs": [_declared("texts", "INT64")]},
            "INT64 of any shape, but in the model it is BYTES of any",
        ),
    ],
)
def test_what_it_has_not_is_refused_with_the_file_and_both_sides(
    values: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"^m/config\.pbtxt .*" + text):
        _check(**values)


def test_what_is_configured_for_batches_in_vain_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    settings = ModelSettings.model_validate({"max_batch_size": 4, "batching": {"max_queue_delay_us": 5}})
    warn_of_batching_in_vain("digits", settings, {"max_batch_size": "config.pbtxt", "batching": "own.yaml"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["level"], line["model"], line["field"], line["file"]) for line in lines] == [
        ("warning", "digits", "max_batch_size", "config.pbtxt"),
        ("warning", "digits", "max_queue_delay_us", "own.yaml"),
    ]
    warn_of_batching_in_vain("digits", settings, {})
    unbatched = ModelSettings(max_batch_size=0)
    warn_of_batching_in_vain("digits", unbatched, {"max_batch_size": "config.pbtxt"})
    assert capfd.readouterr().err == ""
