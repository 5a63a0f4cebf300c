"""The end of a server in its order: not ready, delay, no new requests, drain, cancel, exit."""

import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running import EXAMPLE_MODELS, serving
from server_process import FREE_PORTS, ServerProcess
from small_models import add_model, chain, convolution

CALLERS = 64
LONG_S = 60.0
ONE_CONNECTION = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
"""A channel that repeats nothing, with a connection of its own."""

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Callers:
    """Threads that ask without a pause until they are told to stop, or refused; each request has an id."""

    def __init__(self, address: str, number: int) -> None:
        self.answered: set[str] = set()
        self.refused: list[tuple[str, grpc.StatusCode]] = []
        self.connections: list[grpc.ChannelConnectivity] = []
        self._address = address
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(str(one),)) for one in range(number)]
        for thread in self._threads:
            thread.start()

    def wait_for_answers(self, number: int) -> None:
        while len(self.answered) < number:
            time.sleep(0.001)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(LONG_S)

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _ask(self, name: str) -> None:
        with grpc.insecure_channel(self._address, ONE_CONNECTION) as channel:
            channel.subscribe(self.connections.append)
            stub = GRPCInferenceServiceStub(channel)
            number = 0
            while not self._stopping.is_set():
                request = _digits(f"{name}-{number}")
                number += 1
                try:
                    self.answered.add(stub.ModelInfer(request, timeout=LONG_S).id)
                except grpc.RpcError as error:
                    self.refused.append((request.id, error.code()))
                    return


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX model alone, which loads in no time, and one whose runs take long."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    add_model(folder, "slow", chain(["batch", 3, "height", "width"], convolution(41)))
    return folder


@pytest.fixture
def options(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    where = ["--repository", str(repository), "--cache-dir", str(tmp_path_factory.getbasetemp() / "cache")]
    return [*FREE_PORTS, *where, "--instances", "1", "--intra-op-threads", "1"]


def test_of_64_callers_none_loses_what_the_server_took(tmp_path: Path, options: list[str]) -> None:
    """The server's own account of what it took is its log; whoever is refused is told so, in time."""
    with ServerProcess(tmp_path / "log", *options, "--log-level", "debug") as server:
        callers = Callers(server.address, CALLERS)
        callers.wait_for_answers(10 * CALLERS)
        assert server.finish() == 0
        callers.join()
        taken = [record for record in server.records() if record["event"] == "request"]
    assert {record["code"] for record in taken} == {"OK"}
    assert {record["request_id"] for record in taken} == callers.answered
    assert len(callers.refused) == CALLERS
    assert {code for _, code in callers.refused} == {UNAVAILABLE}


def test_the_log_tells_the_order(tmp_path: Path, options: list[str]) -> None:
    with ServerProcess(tmp_path / "log", *options, "--not-ready-delay-s", "0.5") as server:
        assert server.finish() == 0
        events = [record["event"] for record in server.records()]
        assert server.record("stopping: not ready")["not_ready_delay_s"] == 0.5
    order = ["stopping: not ready", "draining: no new requests", *2 * ["model unloaded"], "stopped"]
    assert events[-5:] == order


def test_between_not_ready_and_the_end_requests_are_answered(tmp_path: Path, options: list[str]) -> None:
    """As long as balancers need to notice; then watchers, streams and calls end."""
    with ServerProcess(tmp_path / "log", *options, "--not-ready-delay-s", "1") as server:
        http = f"http://127.0.0.1:{server.record('listening')['http_port']}"
        with grpc.insecure_channel(server.address, ONE_CONNECTION) as channel:
            health, stub = _health(channel), GRPCInferenceServiceStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            assert stub.ModelInfer(_digits("late"), timeout=LONG_S).id == "late"
            assert next(stub.ModelStreamInfer(iter([_digits("stream")]))).infer_response.id == "stream"
            for name in ("", "digits"):
                assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == NOT_SERVING
            assert not stub.ServerReady(pb.ServerReadyRequest()).ready
            assert not stub.ModelReady(pb.ModelReadyRequest(name="digits")).ready
            assert stub.ServerLive(pb.ServerLiveRequest()).live
            with pytest.raises(urllib.error.HTTPError, match="503"):
                _read(f"{http}/readyz")
            assert _read(f"{http}/livez") == "live\n"
            assert list(watch) == []
        assert server.process.wait(LONG_S) == 0


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, options: list[str]) -> None:
    with ServerProcess(tmp_path / "log", *options, "--not-ready-delay-s", "600") as server:
        server.process.send_signal(signal.SIGINT)
        server.wait_for("stopping: not ready")
        assert server.finish(signal.SIGINT) == -signal.SIGINT


def test_what_the_drain_has_no_time_for_ends_with_the_reason(tmp_path: Path, options: list[str]) -> None:
    """Requests in work and in line, and a stream; the process ends in order although an engine still runs."""
    with ServerProcess(
        tmp_path / "log", *options, "--max-batch-size", "1", "--drain-timeout-s", "0"
    ) as server:
        http = f"http://127.0.0.1:{server.record('listening')['http_port']}"
        with grpc.insecure_channel(server.address, ONE_CONNECTION) as channel:
            stub, request = GRPCInferenceServiceStub(channel), _slow("long")
            calls: list[Any] = [stub.ModelInfer.future(request, timeout=LONG_S) for _ in range(3)]
            calls.append(stub.ModelStreamInfer(_endless(request), timeout=LONG_S))
            while 'foldserve_queue_requests{model="slow",version="1"} 3.0' not in _read(f"{http}/metrics"):
                time.sleep(0.01)
            assert server.finish() == 0
            told = [(call.code(), call.details()) for call in calls]
        warning = server.record("requests still run after the drain time-out")
    out_of_time = "the server stops, and its drain time-out has passed; send this to another one"
    assert told[:3] == 3 * [(UNAVAILABLE, out_of_time)]
    assert told[3] == (UNAVAILABLE, "the server is stopping; open a stream to another one")
    assert warning["model"] == "slow"


def test_old_connections_are_left_without_a_loss(repository: Path) -> None:
    """So that callers behind a balancer of connections spread anew, and leave one that is to stop."""
    with serving(repository, max_connection_age_s=1, instances=1, intra_op_threads=1) as server:
        callers = Callers(f"127.0.0.1:{server.grpc_port}", 8)
        while callers.connections.count(grpc.ChannelConnectivity.READY) < 2 * 8:
            assert not callers.refused
            time.sleep(0.01)
        callers.stop()
    assert callers.refused == []


def _health(channel: grpc.Channel) -> Any:  # its type has no methods
    return health_pb2_grpc.HealthStub(channel)


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def _digits(identity: str) -> pb.ModelInferRequest:
    images = np.zeros((1, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name="digits", id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    return request


def _slow(identity: str) -> pb.ModelInferRequest:
    images = np.ones((1, 3, 700, 700), np.float32)
    request = pb.ModelInferRequest(model_name="slow", id=identity, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=images.shape)
    return request


def _endless(request: pb.ModelInferRequest) -> Iterator[pb.ModelInferRequest]:
    yield request
    threading.Event().wait(LONG_S)
