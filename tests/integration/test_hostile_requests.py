"""Requests that mean harm, or look like it: refused at once, and nobody else notices."""

import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.rpc import codec
from foldserve.server import Server
from foldserve.serving.validation import Array
from foldserve_client import Client, ResourceExhausted
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import serving
from small_models import add_model, chain, convolution

QUICKLY_S = 10.0
"""Generous: what it guards against took minutes."""


@pytest.fixture
def stub(channel: grpc.Channel) -> Iterator[GRPCInferenceServiceStub]:
    stub = GRPCInferenceServiceStub(channel)
    yield stub
    images = np.zeros((1, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    assert stub.ModelInfer(request, timeout=QUICKLY_S).outputs


def _request(
    name: str = "images", datatype: str = "FP32", shape: list[int] | None = None
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="digits", raw_input_contents=[b"1234"])
    request.inputs.add(name=name, datatype=datatype, shape=shape or [1])
    return request


def _elements(model: str) -> pb.ModelInferRequest:
    """Millions of elements that are not what a model takes, and one byte too many."""
    count = 5_000_000
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(4 * count + 1)])
    request.inputs.add(name="images", datatype="BYTES", shape=[count])
    return request


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: _request(shape=[2**62] * 200_000), "INVALID_ARGUMENT"),
        (lambda: _request(shape=[2**62, 2**62]), "INVALID_ARGUMENT"),
        (lambda: _request(name="x" * 20_000), "INVALID_ARGUMENT"),
        (lambda: _request(datatype="x" * 20_000), "INVALID_ARGUMENT"),
        (lambda: pb.ModelInferRequest(model_name="x" * 20_000), "NOT_FOUND"),
        (lambda: _elements("nobody"), "NOT_FOUND"),
        (lambda: _elements("digits"), "INVALID_ARGUMENT"),
        (lambda: _request(shape=[2**24, 1, 0, 8]), "INVALID_ARGUMENT"),
        (lambda: pb.ModelInferRequest(model_name="digits", model_version="1" * 5_000), "INVALID_ARGUMENT"),
        (lambda: pb.ModelInferRequest(model_name="digits", model_version="01"), "INVALID_ARGUMENT"),
        (lambda: pb.ModelInferRequest(model_name="digits", model_version="١"), "INVALID_ARGUMENT"),
        (
            lambda: pb.ModelInferRequest(
                model_name="digits",
                inputs=[pb.ModelInferRequest.InferInputTensor(name="images", datatype="BYTES", shape=[1])],
                raw_input_contents=[bytes(20_000_000)],
            ),
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_it_is_refused_at_once(
    stub: GRPCInferenceServiceStub, make: Callable[[], pb.ModelInferRequest], code: str
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(make(), timeout=QUICKLY_S)
    assert failure.value.code() is grpc.StatusCode[code]
    assert failure.value.details()


def test_elements_are_not_looked_at_before_the_model_is(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(_elements("digits"), timeout=QUICKLY_S)
    assert "expected FP32 [batch, 1, 8, 8], got BYTES [5000000]" in (failure.value.details() or "")


def test_what_takes_long_to_decode_does_not_keep_the_network_waiting(
    stub: GRPCInferenceServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    decode = codec.decode_inputs

    def seen(*arguments: Any) -> dict[str, Array]:
        threads.append(threading.current_thread().name)
        return decode(*arguments)

    monkeypatch.setattr(codec, "decode_inputs", seen)
    request = pb.ModelInferRequest(model_name="digits")
    images = request.inputs.add(name="images", datatype="FP32", shape=[100, 1, 8, 8])
    images.contents.fp32_contents.extend([0.5] * 6400)
    assert stub.ModelInfer(request).outputs[0].shape == [100, 10]
    assert threads[0].startswith("decoder")
    images.contents.fp32_contents.append(0.5)
    with pytest.raises(grpc.RpcError, match="takes 6400 elements, got 6401"):
        stub.ModelInfer(request, timeout=QUICKLY_S)


def test_versions_do_not_become_labels(server: Server, stub: GRPCInferenceServiceStub) -> None:
    for version in ("77", "007", "1" * 100, "v1"):
        with pytest.raises(grpc.RpcError):
            stub.ModelMetadata(pb.ModelMetadataRequest(name="digits", version=version))
        assert not stub.ModelReady(pb.ModelReadyRequest(name="digits", version=version)).ready
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'version="1"' in text
    assert not any(f'version="{version}"' in text for version in ("77", "007", "1" * 100, "v1"))


def test_more_requests_than_may_wait_are_refused_and_the_rest_answered(tmp_path: Path) -> None:
    add_model(tmp_path, "slow", chain(["batch", 3, "height", "width"], convolution(9)))
    images = np.ones((1, 3, 600, 600), np.float32)
    outcomes: list[object] = []
    one_at_a_time = {"max_batch_size": 1, "instances": 1, "intra_op_threads": 1}
    with serving(tmp_path, max_queue_size=2, **one_at_a_time) as server:

        def call() -> None:
            with Client(f"127.0.0.1:{server.grpc_port}", retries=0) as client:
                try:
                    outcomes.append(client.infer("slow", images).output.shape)
                except ResourceExhausted as error:
                    outcomes.append(error.details)

        callers = [threading.Thread(target=call) for _ in range(24)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert (1, 4, 592, 592) in outcomes
    refused = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert refused
    assert all("retry later" in text for text in refused)
    assert len(outcomes) == 24
