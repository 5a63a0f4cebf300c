"""ModelStreamInfer over real gRPC: order, errors, limits, back-pressure, cancellation, shutdown."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from prometheus_client.parser import text_string_to_metric_families
from running import EXAMPLE_MODELS, serving
from small_models import add_model, chain, convolution

LONG_S = 60.0
"""Generous: nothing here should come near it."""


class Stream:
    """A stream whose requests are sent one by one."""

    def __init__(self, stub: GRPCInferenceServiceStub) -> None:
        self._requests: SimpleQueue[pb.ModelInferRequest | None] = SimpleQueue()
        self.call = stub.ModelStreamInfer(iter(self._requests.get, None), timeout=LONG_S)

    def send(self, *requests: pb.ModelInferRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def end(self) -> list[pb.ModelStreamInferResponse]:
        self._requests.put(None)
        return list(self.call)


@pytest.fixture
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A repository with ``slow``, whose runs and answers are large."""
    add_model(tmp_path, "slow", chain(["batch", 3, "height", "width"], convolution(9)))
    return tmp_path


def _digits(identity: str, rows: int = 1) -> pb.ModelInferRequest:
    images = np.random.default_rng(len(identity)).random((rows, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name="digits", id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    return request


def _slow(identity: str, size: int = 500) -> pb.ModelInferRequest:
    images = np.ones((1, 3, size, size), np.float32)
    request = pb.ModelInferRequest(model_name="slow", id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=images.shape)
    return request


def _counted(server: Server, code: str, model: str) -> float:
    """Requests of streams that ended with ``code``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    wanted = {"method": "ModelStreamInfer", "code": code, "model": model}
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "foldserve_requests_total" and wanted.items() <= sample.labels.items()
    )


def _stub(server: Server) -> tuple[grpc.Channel, GRPCInferenceServiceStub]:
    options = [("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options)
    return channel, GRPCInferenceServiceStub(channel)


def test_every_request_is_answered_as_it_is_alone(stub: GRPCInferenceServiceStub) -> None:
    requests = [_digits(f"r{'x' * index}", rows=index % 5 + 1) for index in range(40)]
    responses = {r.infer_response.id: r for r in stub.ModelStreamInfer(iter(requests), timeout=LONG_S)}
    assert set(responses) == {request.id for request in requests}
    for request in requests:
        response = responses[request.id]
        assert not response.error_message
        assert response.infer_response.parameters["triton_final_response"].bool_param
        ours, alone = (
            np.frombuffer(answer.raw_output_contents[0], np.float32)
            for answer in (response.infer_response, stub.ModelInfer(request))
        )
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5)


def test_an_error_is_answered_with_its_id_and_the_stream_goes_on(
    server: Server, stub: GRPCInferenceServiceStub
) -> None:
    before = _counted(server, "NOT_FOUND", ""), _counted(server, "OK", "digits")
    stream = Stream(stub)
    unknown = _digits("bad")
    unknown.model_name = "nobody"
    stream.send(unknown)
    failure = next(stream.call)
    assert "no model is named 'nobody'" in failure.error_message
    assert failure.infer_response.id == "bad"
    stream.send(_digits("good"))
    success = next(stream.call)
    assert (success.error_message, success.infer_response.id) == ("", "good")
    assert stream.end() == []
    assert (_counted(server, "NOT_FOUND", ""), _counted(server, "OK", "digits")) == (
        before[0] + 1,
        before[1] + 1,
    )


def test_a_stream_without_requests_ends(stub: GRPCInferenceServiceStub) -> None:
    assert list(stub.ModelStreamInfer(iter([]), timeout=LONG_S)) == []


def test_responses_come_as_they_complete(slow: Path) -> None:
    (slow / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(slow) as server:
        channel, stub = _stub(server)
        with channel:
            stub.ModelInfer(_slow("warm", size=1500), timeout=LONG_S)
            stream = Stream(stub)
            stream.send(_slow("slow", size=1500), _digits("quick"))
            assert [response.infer_response.id for response in stream.end()] == ["quick", "slow"]


def test_streams_are_bounded_and_take_no_place_of_single_requests(tmp_path: Path) -> None:
    (tmp_path / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with serving(tmp_path, grpc_workers=1, instances=1, max_streams=2) as server:
        channel, stub = _stub(server)
        with channel, Client(f"127.0.0.1:{server.grpc_port}") as client:
            streams = [Stream(stub), Stream(stub)]
            for stream in streams:
                stream.send(_digits("first"))
                assert next(stream.call).infer_response.id == "first"
            with pytest.raises(grpc.RpcError) as refusal:
                Stream(stub).end()
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "--max-streams" in (refusal.value.details() or "")
            assert _counted(server, "RESOURCE_EXHAUSTED", "") == 1
            assert client.infer("digits", np.zeros((1, 1, 8, 8), np.float32)).output.shape == (1, 10)
            for stream in streams:
                assert stream.end() == []
            again = Stream(stub)
            again.send(_digits("again"))
            assert len(again.end()) == 1


def test_a_caller_that_does_not_read_holds_up_itself_only(slow: Path) -> None:
    with serving(slow, max_stream_requests=3) as server:
        channel, stub = _stub(server)
        with channel:
            stream = Stream(stub)
            stream.send(*(_slow(str(index)) for index in range(30)))
            worked_on = -1.0
            while worked_on != (worked_on := _counted(server, "OK", "slow")) or not worked_on:
                time.sleep(0.5)
            assert worked_on < 12  # its places, and what the connection holds
            assert stub.ModelInfer(_slow("other"), timeout=LONG_S).id == "other"
            assert len(stream.end()) == 30


def test_a_cancelled_stream_takes_its_waiting_requests_along(slow: Path) -> None:
    with serving(slow, max_batch_size=1, instances=1) as server:
        channel, stub = _stub(server)
        with channel:
            stream = Stream(stub)
            stream.send(*(_slow(str(index), size=900) for index in range(16)))
            next(stream.call)
            stream.call.cancel()
            cancelled = -1.0
            while cancelled != (cancelled := _counted(server, "CANCELLED", "slow")) or not cancelled:
                time.sleep(0.5)
            (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="slow")).model_stats
            assert statistics.execution_count < 16


def test_a_stopping_server_answers_what_it_has_read_and_ends_its_streams(slow: Path) -> None:
    idle: list[grpc.StatusCode] = []
    busy: list[str] = []

    def wait_for_the_end(stream: Stream, ids: list[str]) -> None:
        try:
            ids.extend(response.infer_response.id for response in stream.call)
        except grpc.RpcError as error:
            idle.append(error.code())

    with serving(slow, drain_timeout_s=LONG_S) as server:
        channel, stub = _stub(server)
        streams = [Stream(stub), Stream(stub)]
        streams[0].send(_slow("0"))
        assert next(streams[0].call).infer_response.id == "0"
        streams[1].send(_slow("1"), _slow("2", size=900))
        assert next(streams[1].call).infer_response.id == "1"
        readers = [threading.Thread(target=wait_for_the_end, args=(stream, busy)) for stream in streams]
        for reader in readers:
            reader.start()
        started = time.monotonic()
    assert time.monotonic() - started < LONG_S / 2  # an idle stream does not use the drain time up
    for reader in readers:
        reader.join()
    channel.close()
    assert busy == ["2"]
    assert idle == [grpc.StatusCode.UNAVAILABLE] * 2


def test_the_deadline_of_a_stream_ends_it(slow: Path) -> None:
    def forever() -> Iterator[pb.ModelInferRequest]:
        yield _slow("0")
        threading.Event().wait(LONG_S)

    with serving(slow) as server:
        channel, stub = _stub(server)
        with channel, pytest.raises(grpc.RpcError) as failure:
            list(stub.ModelStreamInfer(forever(), timeout=1.0))
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
