"""A file that is read by hand holds the same model as protobuf finds in it."""

import contextlib
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.errors import InvalidModel
from foldserve.serving.model_file import read_model
from foldserve.serving.onnx_message import read_message
from onnx import TensorProto, helper
from running import EXAMPLE_MODELS

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"


def _file(folder: Path, *tensors: TensorProto) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        initializer=tensors,
    )
    file = folder / "model.onnx"
    model = helper.make_model(graph, ir_version=10)
    model.metadata_props.add(key="made", value="here")
    file.write_bytes(model.SerializeToString())
    return file


def _raw(name: str, array: np.ndarray, dtype: int) -> TensorProto:
    return TensorProto(name=name, dims=array.shape, data_type=dtype, raw_data=array.tobytes())


def test_the_parts_are_the_whole() -> None:
    message, weights = read_message(DIGITS)
    assert weights
    assert message.ByteSize() < DIGITS.stat().st_size / 4
    for tensor in message.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].tobytes()
    assert message == onnx.load(DIGITS)
    assert [one.name for one in message.graph.initializer] == [
        one.name for one in onnx.load(DIGITS).graph.initializer
    ]


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.INT8, np.int8),
        (TensorProto.UINT16, np.uint16),
        (TensorProto.INT64, np.int64),
    ],
)
def test_each_plain_type_is_read_apart(dtype: int, kind: type[np.generic], tmp_path: Path) -> None:
    array = np.arange(37 * 41).reshape(37, 41).astype(kind)
    odd = np.arange(1025, dtype=np.int8)  # what follows lies at an odd place in the file
    file = _file(tmp_path, _raw("odd", odd, TensorProto.INT8), _raw("w", array, dtype))
    _, weights = read_message(file)
    read = weights["w"].numpy()
    assert read.dtype == array.dtype
    assert read.flags.aligned
    np.testing.assert_array_equal(read, array)
    tensor = read_model(file).graph.initializers["w"].const_value
    assert tensor is not None
    assert (tensor.name, tensor.dtype) == ("w", ir.DataType(dtype))


def test_other_tensors_stay_in_the_message(tmp_path: Path) -> None:
    numbers = np.arange(2000, dtype=np.float32)
    file = _file(
        tmp_path,
        _raw("small", numbers[:8], TensorProto.FLOAT),
        helper.make_tensor("listed", TensorProto.FLOAT, [2000], numbers),
        _raw("packed", np.zeros(4000, np.uint8), TensorProto.UINT4),
        TensorProto(name="words", dims=[400], data_type=TensorProto.STRING, string_data=[b"word"] * 400),
    )
    message, weights = read_message(file)
    assert not weights
    assert message == onnx.load(file)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_ends_too_early_is_refused(share: float, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    content = DIGITS.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidModel, match="is not a readable ONNX model"):
        read_model(file)


def test_data_that_do_not_fill_the_shape_are_refused(tmp_path: Path) -> None:
    tensor = _raw("w", np.zeros(1000, np.float32), TensorProto.FLOAT)
    tensor.dims[0] = 1001
    with pytest.raises(InvalidModel, match=r"not a readable ONNX model: cannot reshape"):
        read_model(_file(tmp_path, tensor))


def test_any_damage_is_an_error_or_a_model(tmp_path: Path) -> None:
    """Never another exception: whoever loads many models must get past this one."""
    content = DIGITS.read_bytes()
    file = tmp_path / "model.onnx"
    generator = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(generator.integers(min(4000, len(content))))] = int(generator.integers(256))
        file.write_bytes(damaged)
        with contextlib.suppress(InvalidModel):
            assert read_model(file).graph.outputs
