"""Priorities, time-outs and refusals over real gRPC, with an engine that the test holds."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.rpc import codec
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.serving.shared_memory import SharedMemory
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from running import serving
from small_models import add_model, chain, convolution

SHAPE = (1, 3, 8, 8)


class Engine:
    """Every session of this process: what it was given, and a gate in front of it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.inputs: list[Any] = []

    def hold(self) -> None:
        self.open.clear()
        self.inputs.clear()
        while self.entered.acquire(blocking=False):
            pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine, run = Engine(), OnnxRuntimeSession.run

    def gated(self: OnnxRuntimeSession, inputs: Any, outputs: Any = None) -> Any:
        engine.inputs.append(inputs.get("x"))
        engine.entered.release()
        engine.open.wait()
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", gated)
    yield engine
    engine.open.set()


@contextmanager
def _stub(repository: Path, yaml: str = "", **settings: object) -> Iterator[GRPCInferenceServiceStub]:
    add_model(repository, "m", chain(["batch", *SHAPE[1:]], convolution(3)))
    (repository / "m" / "foldserve.yaml").write_text(yaml or "{}")
    with (
        serving(repository, instances=1, intra_op_threads=1, **settings) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield GRPCInferenceServiceStub(channel)


def _request(value: float = 0.0, **parameters: int) -> pb.ModelInferRequest:
    content = np.full(SHAPE, value, np.float32).tobytes()
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[content])
    request.inputs.add(name="x", datatype="FP32", shape=SHAPE)
    for name, number in parameters.items():
        request.parameters[name].int64_param = number
    return request


def _occupy(engine: Engine, stub: GRPCInferenceServiceStub, pool: ThreadPoolExecutor) -> "Future[Any]":
    engine.hold()
    occupying = pool.submit(stub.ModelInfer, _request(-1.0))
    engine.entered.acquire()
    return occupying


def _refusal(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value


def test_priorities_and_time_outs_of_requests_are_honoured(tmp_path: Path, engine: Engine) -> None:
    yaml = "batching: {priority_levels: 3, default_priority_level: 3}\nmax_batch_size: 1\n"
    with _stub(tmp_path, yaml) as stub, ThreadPoolExecutor(8) as pool:
        occupying = _occupy(engine, stub, pool)
        overdue = pool.submit(_refusal, lambda: stub.ModelInfer(_request(9.0, timeout=1000)))
        waiting = []
        for priority in (4, 2, 1):  # there is no 4, so it is the default one
            waiting.append(pool.submit(stub.ModelInfer, _request(float(priority), priority=priority)))
            time.sleep(0.05)
        engine.open.set()
        for call in (occupying, *waiting):
            assert call.result().outputs
        assert overdue.result().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [array.flat[0] for array in engine.inputs] == [-1.0, 1.0, 2.0, 4.0]


def test_a_call_that_is_cancelled_while_it_runs_has_failed_and_not_succeeded(
    tmp_path: Path, engine: Engine
) -> None:
    with _stub(tmp_path) as stub:
        engine.hold()
        call = stub.ModelInfer.future(_request())
        engine.entered.acquire()
        call.cancel()
        time.sleep(0.1)  # until the server knows
        engine.open.set()
        statistics = pb.ModelStatisticsRequest(name="m")
        while not (fail := stub.ModelStatistics(statistics).model_stats[0].inference_stats.fail.count):
            time.sleep(0.01)
        (one,) = stub.ModelStatistics(statistics).model_stats
        assert (fail, one.inference_stats.success.count, one.inference_count) == (1, 0, 0)
        assert (one.execution_count, one.batch_stats[0].batch_size) == (1, 1)  # it ran all the same


def test_a_refusal_tells_when_to_come_again(tmp_path: Path, engine: Engine) -> None:
    with _stub(tmp_path, "max_queue_size: 1\n") as stub, ThreadPoolExecutor(4) as pool:
        calls = [_occupy(engine, stub, pool)]
        calls += [pool.submit(_result_or_error, stub) for _ in range(2)]
        refused = [call for call in calls[1:] if _is_refused(call)]
        error = refused[0].result()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        hints = {entry.key: str(entry.value) for entry in error.trailing_metadata()}
        assert float(hints["retry-after"]) > 0
        assert int(hints["grpc-retry-pushback-ms"]) == pytest.approx(float(hints["retry-after"]) * 1e3, abs=1)
        engine.open.set()
        assert len(refused) == 1
        assert calls[0].result().outputs


def test_where_no_model_has_room_requests_are_refused_before_they_are_read(
    tmp_path: Path, engine: Engine
) -> None:
    unknown = pb.ModelInferRequest(model_name="unknown")
    with _stub(tmp_path, "max_queue_size: 1\n") as stub, ThreadPoolExecutor(4) as pool:
        calls = [_occupy(engine, stub, pool), pool.submit(stub.ModelInfer, _request())]
        while (error := _refusal(lambda: stub.ModelInfer(unknown))).code() is grpc.StatusCode.NOT_FOUND:
            time.sleep(0.001)  # until the second one is in line
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "retry-after" in {entry.key for entry in error.trailing_metadata()}
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        engine.open.set()
        assert all(call.result().outputs for call in calls)
        assert _refusal(lambda: stub.ModelInfer(unknown)).code() is grpc.StatusCode.NOT_FOUND


def _result_or_error(stub: GRPCInferenceServiceStub) -> Any:
    try:
        return stub.ModelInfer(_request())
    except grpc.RpcError as error:
        return error


def _is_refused(call: "Future[Any]") -> bool:
    """Of two requests for one place one is answered at once; the other one waits for the engine."""
    try:
        return isinstance(call.result(timeout=2), grpc.RpcError)
    except TimeoutError:
        return False


def test_sequences_and_reserved_parameters_are_refused(tmp_path: Path) -> None:
    with _stub(tmp_path) as stub:
        error = _refusal(lambda: stub.ModelInfer(_request(sequence_id=7)))
        assert (error.code().name, "keep no state" in (error.details() or "")) == ("UNIMPLEMENTED", True)
        error = _refusal(lambda: stub.ModelInfer(_request(triton_new=7)))
        assert error.code().name == "INVALID_ARGUMENT"
        assert stub.ModelInfer(_request(sequence_id=0, mine=7)).outputs


def test_the_message_is_what_the_engine_reads(tmp_path: Path, engine: Engine) -> None:
    """No copy from the decoded request to the session; of several requests, one into their batch."""
    request = _request(3.0)
    array = codec.decode_inputs(request, SharedMemory(enabled=False))["x"]
    assert isinstance(array.base.base if array.base is not None else None, bytes)
    with _stub(tmp_path) as stub, ThreadPoolExecutor(4) as pool:
        engine.hold()
        engine.open.set()
        while max(map(len, engine.inputs), default=0) < 3:  # a slow caller misses its batch
            occupying = _occupy(engine, stub, pool)
            waiting = [pool.submit(stub.ModelInfer, _request(float(index))) for index in range(3)]
            time.sleep(0.1)
            engine.open.set()
            for call in (occupying, *waiting):
                assert call.result().outputs
        alone, together = engine.inputs
        assert not alone.flags.owndata
        assert not alone.flags.writeable
        assert together.flags.owndata
        assert sorted(together[:, 0, 0, 0]) == [0.0, 1.0, 2.0]
