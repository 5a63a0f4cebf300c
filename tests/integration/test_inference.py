"""The bundled models over real gRPC, with the generated stubs."""

import grpc
import numpy as np
import pytest
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def _raw(images: NDArray[np.float32], model: str = "digits") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id="request 7", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    return request


def _logits(response: pb.ModelInferResponse) -> NDArray[np.float32]:
    (output,) = response.outputs
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(tuple(output.shape))


def _fails(stub: GRPCInferenceServiceStub, request: pb.ModelInferRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    return failure.value


@pytest.mark.parametrize("model", ["digits", "digits_pt2"])
def test_held_out_digits_are_read(stub: GRPCInferenceServiceStub, digits: Digits, model: str) -> None:
    images, labels = digits
    response = stub.ModelInfer(_raw(images, model))
    assert (response.model_name, response.model_version, response.id) == (model, "1", "request 7")
    assert (_logits(response).argmax(axis=1) == labels).mean() >= 0.98


def test_onnx_and_pt2_of_one_model_answer_alike(stub: GRPCInferenceServiceStub, digits: Digits) -> None:
    images, _ = digits
    onnx, pt2 = (_logits(stub.ModelInfer(_raw(images, model))) for model in ("digits", "digits_pt2"))
    assert np.linalg.norm(onnx - pt2) <= 1e-6 * np.linalg.norm(onnx)


def test_typed_contents_are_answered_typed(stub: GRPCInferenceServiceStub, digits: Digits) -> None:
    images = digits[0][:3]
    request = pb.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    tensor.contents.fp32_contents.extend(images.ravel().tolist())
    response = stub.ModelInfer(request)
    assert not response.raw_output_contents
    typed = np.array(response.outputs[0].contents.fp32_contents, np.float32).reshape(3, 10)
    np.testing.assert_array_equal(typed, _logits(stub.ModelInfer(_raw(images))))


def test_an_empty_batch_has_an_empty_answer(stub: GRPCInferenceServiceStub) -> None:
    response = stub.ModelInfer(_raw(np.empty((0, 1, 8, 8), np.float32)))
    assert _logits(response).shape == (0, 10)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (
            lambda r: r.inputs[0].shape.__setitem__(1, 3),
            "INVALID_ARGUMENT",
            "got FP32 [1, 3, 8, 8] (axis 1 must be 1)",
        ),
        (lambda r: r.inputs[0].__setattr__("name", "x"), "INVALID_ARGUMENT", "unexpected input 'x'"),
        (
            lambda r: r.inputs[0].__setattr__("datatype", "INT32"),
            "INVALID_ARGUMENT",
            "expected FP32 [batch, 1, 8, 8]",
        ),
        (lambda r: r.ClearField("inputs"), "INVALID_ARGUMENT", "input 'images' is missing"),
        (
            lambda r: r.inputs[0].shape.__setitem__(0, 3),
            "INVALID_ARGUMENT",
            "input 'images': FP32 [3, 1, 8, 8] takes",
        ),
        (
            lambda r: r.outputs.add(name="y"),
            "INVALID_ARGUMENT",
            "unknown output 'y'; the model gives 'logits'",
        ),
        (lambda r: r.__setattr__("model_name", "nobody"), "NOT_FOUND", "no model is named 'nobody'"),
        (lambda r: r.__setattr__("model_version", "9"), "NOT_FOUND", "'digits' has no version 9"),
        (
            lambda r: r.__setattr__("model_version", "new"),
            "INVALID_ARGUMENT",
            "'new' is not a positive integer",
        ),
    ],
)
def test_a_bad_request_is_told_what_was_expected(
    stub: GRPCInferenceServiceStub, digits: Digits, change: object, code: str, text: str
) -> None:
    assert callable(change)
    request = _raw(digits[0][:1])
    change(request)
    error = _fails(stub, request)
    assert error.code() is grpc.StatusCode[code]
    assert text in (error.details() or "")


def test_a_deadline_that_has_passed_costs_no_answer(stub: GRPCInferenceServiceStub, digits: Digits) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(_raw(digits[0]), timeout=1e-6)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.ModelInfer(_raw(digits[0][:1])).outputs


def test_metadata_tells_tensors_and_facts(stub: GRPCInferenceServiceStub) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="digits"))
    assert metadata.versions == ["1"]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("images", "FP32", [-1, 1, 8, 8])
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("logits", "FP32", [-1, 10])]
    facts = metadata.properties
    assert facts["foldserve.variant"] == "folded"
    assert facts["foldserve.batchnorms"] == facts["foldserve.batchnorms_folded"] == "4"
    assert (facts["foldserve.provider_requested"], facts["foldserve.provider"]) == ("auto", "cpu")


def test_readiness_of_models_that_exist_and_do_not(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="digits", version="1")).ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="digits", version="2")).ready
    assert not stub.ModelReady(pb.ModelReadyRequest(name="nobody")).ready
