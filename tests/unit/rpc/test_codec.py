import struct

import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import InvalidRequest, RegionNotFound
from foldserve.rpc import codec
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import DTYPES, datatype_name
from foldserve.serving.shared_memory import SharedMemory
from foldserve.serving.validation import Array
from foldserve_proto import grpc_service_pb2 as pb

NO_REGIONS = SharedMemory(enabled=True)
VALUES = {
    "BOOL": [True, False, True, True],
    "BYTES": [b"", b"a", b"\x00\xff", b"longer than four"],
    **{
        name: [0, 1, 100, 127]
        for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
    },
    **{name: [0.0, -1.5, 2.25, 96.0] for name in ("FP16", "FP32", "FP64", "BF16")},
}


def _array(datatype: str) -> Array:
    return np.array(VALUES[datatype], DTYPES[datatype]).reshape(2, 2)


def _request(name: str, datatype: str, shape: list[int], raw: bytes | None = None) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def _as_request(response: pb.ModelInferResponse) -> pb.ModelInferRequest:
    """What was answered, asked: both directions have one form."""
    request = pb.ModelInferRequest(raw_input_contents=response.raw_output_contents)
    for output in response.outputs:
        tensor = request.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if output.HasField("contents"):
            tensor.contents.CopyFrom(output.contents)
    return request


def _decoded(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The inputs, which are of the forms that the request says."""
    forms = codec.input_forms(request)
    arrays = codec.decode_inputs(request, NO_REGIONS)
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == forms
    return arrays


def test_the_values_cover_every_datatype() -> None:
    assert set(VALUES) == set(DTYPES)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@pytest.mark.parametrize("typed", [False, True])
def test_every_datatype_survives_the_wire(datatype: str, typed: bool) -> None:
    response = pb.ModelInferResponse()
    codec.encode_outputs(response, [("x", _array(datatype))], typed=typed)
    request = _as_request(response)
    assert codec.is_typed(request) is (typed and datatype not in ("FP16", "BF16"))
    array = _decoded(request)["x"]
    assert array.dtype == DTYPES[datatype]
    assert array.shape == (2, 2)
    assert array.tolist() == _array(datatype).tolist()


def test_raw_little_endian_bytes_are_read_in_place() -> None:
    raw = struct.pack("<3f", 1.0, 2.0, 3.0)
    array = _decoded(_request("x", "FP32", [3], raw))["x"]
    assert array.tolist() == [1.0, 2.0, 3.0]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_bytes_are_length_prefixed_in_raw_form() -> None:
    response = pb.ModelInferResponse()
    codec.encode_outputs(response, [("x", np.array([b"ab", b""], np.object_))], typed=False)
    assert response.raw_output_contents[0] == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def test_one_output_that_exists_only_raw_makes_the_whole_answer_raw() -> None:
    response = pb.ModelInferResponse()
    arrays = [("a", np.ones(2, np.float32)), ("b", np.ones(2, ml_dtypes.bfloat16))]
    codec.encode_outputs(response, arrays, typed=True)
    assert [len(raw) for raw in response.raw_output_contents] == [8, 4]
    assert not any(output.HasField("contents") for output in response.outputs)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
@pytest.mark.parametrize("raw", [b"", None])
def test_empty_tensors_are_tensors(datatype: str, raw: bytes | None) -> None:
    array = _decoded(_request("x", datatype, [0, 8], raw))["x"]
    assert (array.shape, array.dtype) == ((0, 8), DTYPES[datatype])


def test_every_byte_but_zero_is_true() -> None:
    array = _decoded(_request("x", "BOOL", [3], b"\x00\x02\x01"))["x"]
    assert array.view(np.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("datatype", "count", "typed", "slow"),
    [
        ("BYTES", 10**6, False, True),
        ("BYTES", 10, False, False),
        ("FP32", 10**6, False, False),
        ("FP32", 10**6, True, True),
        ("FP32", 10, True, False),
    ],
)
def test_what_is_decoded_element_by_element_takes_long(
    datatype: str, count: int, typed: bool, slow: bool
) -> None:
    request = _request("x", datatype, [2, count // 2], None if typed else b"")
    if typed:
        request.inputs[0].contents.fp32_contents.append(1)
    assert codec.decodes_slowly(request) is slow


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (_request("x", "FP32", [2], b"1234"), r"input 'x': FP32 \[2\] takes 8 bytes, got 4"),
        (_request("x", "FLOAT", [1], b"1234"), "input 'x': unknown datatype 'FLOAT'; the protocol has BOOL"),
        (_request("x", "FP32", [-1], b"1234"), r"input 'x': shape \[-1\]"),
        (_request("x", "FP32", [2**62, 2**62], b""), "input 'x': shape"),
        (_request("x", "FP32", [2**63 - 1, 0, 2**63 - 1], b""), "input 'x': shape"),
        (_request("x", "FP32", [300_000_000, 3, 0, 0], b""), "input 'x': shape"),
        (_request("x", "BYTES", [2], b"\x01\x00\x00\x00a"), "hold 1 whole ones"),
        (_request("x", "BYTES", [1], b"\xff\xff\xff\xffa"), "expected 1 BYTES elements"),
        (_request("x", "BYTES", [1], b"\x01"), "expected 1 BYTES elements"),
        (_request("x", "FP32", [1]), "takes 1 elements, got 0 in fp32_contents"),
        (_request("x", "FP16", [1]), "input 'x': FP16 exists only as raw contents"),
    ],
)
def test_a_malformed_tensor_is_named(request_: pb.ModelInferRequest, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        _decoded(request_)


def test_raw_and_typed_do_not_mix() -> None:
    request = _request("x", "FP32", [1], b"1234")
    request.inputs[0].contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidRequest, match="input 'x' has typed contents beside others"):
        _decoded(request)


def test_there_is_one_raw_buffer_for_each_input() -> None:
    request = _request("x", "FP32", [1], b"1234")
    request.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidRequest, match="2 buffers for 1 inputs"):
        _decoded(request)


def test_an_input_comes_once() -> None:
    request = _request("x", "FP32", [1], b"1234")
    request.inputs.add(name="x", datatype="FP32", shape=[1])
    request.raw_input_contents.append(b"1234")
    with pytest.raises(InvalidRequest, match="input 'x' is given twice"):
        _decoded(request)


def test_typed_values_belong_in_the_field_of_their_datatype() -> None:
    request = _request("x", "INT64", [1])
    request.inputs[0].contents.int_contents.append(1)
    with pytest.raises(InvalidRequest, match="INT64 belongs in int64_contents, got int_contents"):
        _decoded(request)


def test_typed_values_must_fit_their_datatype() -> None:
    request = _request("x", "INT8", [1])
    request.inputs[0].contents.int_contents.append(300)
    with pytest.raises(InvalidRequest, match=r"input 'x'.*300"):
        _decoded(request)


def test_a_tensor_in_a_region_that_nobody_registered_is_refused() -> None:
    request = _request("x", "FP32", [1])
    request.inputs[0].parameters["shared_memory_region"].string_param = "nowhere"
    with pytest.raises(RegionNotFound, match="'nowhere'"):
        _decoded(request)


def test_metadata_shapes_have_minus_one_for_what_varies() -> None:
    assert codec.wire_shape(TensorSpec("x", np.dtype(np.float32), ("batch", 1, None))) == [-1, 1, -1]


def test_every_datatype_has_one_name() -> None:
    assert [datatype_name(dtype) for dtype in DTYPES.values()] == list(DTYPES)
