"""Requests from arrays, checked against metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from foldserve_client.errors import Internal, InvalidArgument
from foldserve_client.inference import InferResult, infer_request
from foldserve_client.tensors import Array, dtype_of
from foldserve_proto import grpc_service_pb2 as pb


def metadata(*inputs: tuple[str, list[int]]) -> pb.ModelMetadataResponse:
    """A model with inputs x, y, … of the given datatypes and shapes, and outputs "p" and "q"."""
    model = pb.ModelMetadataResponse(name="m")
    for name, (datatype, shape) in zip("xyz", inputs, strict=False):
        model.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in "pq":
        model.outputs.add(name=name, datatype="FP32", shape=[-1])
    return model


def request(
    model: pb.ModelMetadataResponse,
    inputs: Any,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
) -> pb.ModelInferRequest:
    return infer_request(
        model, inputs, version="", outputs=outputs, request_id="", parameters=parameters or {}
    )


def sent(datatype: str, value: object) -> Array:
    """What goes over the wire for one input of any one-dimensional shape."""
    raw = request(metadata((datatype, [-1])), value).raw_input_contents[0]
    return np.frombuffer(raw, {"BF16": ml_dtypes.bfloat16, "INT8": "i1", "BOOL": "?"}.get(datatype, "<f4"))


def test_raw_contents_are_in_the_order_of_the_metadata() -> None:
    model = metadata(("INT8", [1]), ("INT8", [1]))
    built = request(model, {"y": np.array([2], np.int8), "x": np.array([1], np.int8)})
    assert [tensor.name for tensor in built.inputs] == ["x", "y"]
    assert list(built.raw_input_contents) == [b"\x01", b"\x02"]


def test_lists_and_numbers_become_what_the_model_declares() -> None:
    assert sent("FP32", [1, 2.5]).tolist() == [1.0, 2.5]
    assert sent("INT8", [1, -2]).tolist() == [1, -2]
    assert sent("BOOL", [True, False]).tolist() == [True, False]
    assert sent("BF16", [1, 2.5]).tolist() == [1.0, 2.5]
    assert request(metadata(("FP32", [])), 3).inputs[0].shape == []


def test_arrays_of_the_other_byte_order_are_swapped() -> None:
    assert sent("FP32", np.array([1, 2.5], ">f4")).tolist() == [1.0, 2.5]


def test_bfloat16_arrays_pass_as_they_are() -> None:
    assert sent("BF16", np.array([1, 2.5], ml_dtypes.bfloat16)).tolist() == [1.0, 2.5]


def test_text_arrays_of_numpy_are_sent_as_bytes() -> None:
    built = request(metadata(("BYTES", [-1])), np.array(["a", "é"]))
    assert built.raw_input_contents[0] == b"\x01\0\0\0a\x02\0\0\0\xc3\xa9"


@pytest.mark.parametrize(
    ("datatype", "value", "text"),
    [
        ("FP32", np.ones(2), r"input 'x' \(FP32 \[-1\]\): got an array of float64; .*\.astype\('float32'\)"),
        ("FP32", np.float64(1), "got an array of float64"),
        ("FP16", np.ones(2, np.float32), r"\.astype\('float16'\)"),
        ("INT8", [1.5], "values that int8 does not hold"),
        ("INT8", [300], "values that int8 does not hold"),
        ("INT8", [float("nan")], "values that int8 does not hold"),
        ("FP16", [70000.0], "overflow"),
        ("BOOL", [2], "values that bool does not hold"),
        ("FP32", ["a"], "not numbers"),
        ("FP32", [[1], [1, 2]], "inhomogeneous"),
        ("FP32", [[1.0]], r"input 'x' \(FP32 \[-1\]\): got shape \[1, 1\]"),
        ("BYTES", np.array([1]), "got an array of int64"),
        ("BYTES", [1], "must be bytes or str"),
    ],
)
def test_values_that_do_not_fit_are_refused(datatype: str, value: object, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as caught:
        request(metadata((datatype, [-1])), value)
    assert "'x'" in caught.value.details


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (2,), (2, 4, 1)])
def test_shapes_that_the_tensor_cannot_have_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match=r"got shape"):
        request(metadata(("FP32", [2, 4])), np.zeros(shape, np.float32))


def test_one_array_for_several_inputs_is_refused_naming_them() -> None:
    with pytest.raises(InvalidArgument, match="takes 2 inputs: 'x', 'y'"):
        request(metadata(("FP32", [1]), ("FP32", [1])), [1.0])


def test_unknown_and_missing_names_are_refused() -> None:
    model = metadata(("FP32", [1]), ("INT8", [1]))
    with pytest.raises(InvalidArgument, match="has no input 'w'; it has 'x', 'y'"):
        request(model, {"x": [1], "y": [1], "w": [1]})
    with pytest.raises(InvalidArgument, match=r"input 'y' \(INT8 \[1\]\) is missing"):
        request(model, {"x": [1]})
    with pytest.raises(InvalidArgument, match="has no output 'r'; it has 'p', 'q'"):
        request(model, {"x": [1], "y": [1]}, outputs=["r"])


@pytest.mark.parametrize("value", [2**63, None, [1]])
def test_parameters_of_other_kinds_are_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="parameter 'n'"):
        request(metadata(("FP32", [1])), [1.0], parameters={"n": value})


@pytest.mark.parametrize(
    ("datatype", "field", "elements"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 2**16 - 1]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 1]),
        ("INT32", "int_contents", [-(2**31), 1]),
        ("INT64", "int64_contents", [-(2**63), 1]),
        ("FP32", "fp32_contents", [-1.5, float("inf")]),
        ("FP64", "fp64_contents", [0.1, 2.0]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_answers_may_have_typed_contents(datatype: str, field: str, elements: list[object]) -> None:
    response = pb.ModelInferResponse()
    tensor = response.outputs.add(name="p", datatype=datatype, shape=[2, 1])
    getattr(tensor.contents, field).extend(elements)
    output = InferResult(response).output
    assert output.dtype == dtype_of(datatype)
    assert output.tolist() == [[element] for element in elements]
    assert not output.flags.writeable


@pytest.mark.parametrize(
    ("datatype", "shape", "elements", "text"),
    [
        ("FP32", [1], [], r"0 FP32 elements do not fill shape \[1\]"),
        ("INT8", [1], [300], "output 'p': .*300.* int8"),
        ("FP16", [1], [], "output 'p': FP16 without raw contents"),
    ],
)
def test_typed_contents_that_do_not_fit_make_no_sense(
    datatype: str, shape: list[int], elements: list[int], text: str
) -> None:
    response = pb.ModelInferResponse()
    response.outputs.add(name="p", datatype=datatype, shape=shape).contents.int_contents.extend(elements)
    with pytest.raises(Internal, match=text):
        InferResult(response)


def test_raw_contents_for_some_outputs_only_make_no_sense() -> None:
    response = pb.ModelInferResponse(raw_output_contents=[b"\0"])
    for name in "pq":
        response.outputs.add(name=name, datatype="UINT8", shape=[1])
    with pytest.raises(Internal, match="1 raw contents for 2 outputs"):
        InferResult(response)


def test_one_name_is_no_list_of_outputs() -> None:
    with pytest.raises(InvalidArgument, match=r"write outputs=\['p'\]"):
        request(metadata(("FP32", [1])), [1.0], outputs="p")


def test_integers_of_numpy_are_parameters() -> None:
    built = request(metadata(("FP32", [1])), [1.0], parameters={"priority": np.int64(3)})
    assert built.parameters["priority"].int64_param == 3


def test_a_result_shows_names_dtypes_and_shapes() -> None:
    response = pb.ModelInferResponse(
        model_name="m", model_version="3", raw_output_contents=[np.zeros((2, 3), np.float16).tobytes()]
    )
    response.outputs.add(name="p", datatype="FP16", shape=[2, 3])
    assert repr(InferResult(response)) == "InferResult(m version 3, p: float16[2, 3])"
