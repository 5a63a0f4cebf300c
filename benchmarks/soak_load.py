"""A bit of everything that callers do to a server, each thing with the status codes that it may end with.

Callers are threads that go through a list of :class:`Act` again and again. What ends otherwise is kept.
"""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

STEADY, PASSING, SENT = "digits", "passing", "sent"
"""Models: one serves all the time, one is loaded and unloaded, one comes in a request and goes again."""

OK = ("OK",)
LONG_S = 30.0
SHORT_S = 0.002
MOST_KEPT = 100
"""Unexpected outcomes of which the text is kept."""

METHOD = "/inference.GRPCInferenceService/"
RANDOM = random.Random(7)


@dataclass(frozen=True)
class Act:
    """Something that a caller does, and the codes that it may end with."""

    name: str
    do: Callable[[], object]
    codes: Sequence[str] = OK


@dataclass
class Tally:
    """How many acts ended how, and those that ended unexpectedly."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, act: Act, code: str, text: str) -> None:
        """Count one act."""
        with self.lock:
            self.counts[act.name, code] += 1
            if code not in act.codes and len(self.unexpected) < MOST_KEPT:
                self.unexpected.append(f"{act.name}: {code}, {text[:300]}")


def repeat(acts: Sequence[Act], pause_s: float, tally: Tally, ended: threading.Event) -> None:
    """Do one act after the other, with a pause between them, until it has ended."""
    while True:
        for act in acts:
            if ended.wait(pause_s):
                return
            try:
                act.do()
            except grpc.RpcError as error:
                tally.add(act, error.code().name, error.details() or "")
            except Exception as error:
                tally.add(act, type(error).__name__, str(error))
            else:
                tally.add(act, "OK", "")


def infer(model: str = STEADY, rows: int = 1, **fields: Any) -> pb.ModelInferRequest:
    """A request to one of the models; ``fields`` replace its own."""
    images = np.zeros((rows, 1, 8, 8), np.float32)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[images.tobytes()])
    request.inputs.add(name="images", datatype="FP32", shape=images.shape)
    request.MergeFrom(pb.ModelInferRequest(**fields))
    return request


class Caller:
    """The acts, by what they are about.

    ``address`` is the server's, ``management`` where it is managed, ``model`` the file of its models.
    """

    def __init__(self, address: str, management: str, model: Path) -> None:
        self._model = model.read_bytes()
        self._address = address
        self._channel = grpc.insecure_channel(address)
        self._managing = grpc.insecure_channel(management)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._folds = FoldServiceStub(self._channel)
        self._manager = GRPCInferenceServiceStub(self._managing)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)  # its type has no methods

    def close(self) -> None:
        """Leave the server."""
        self._channel.close()
        self._managing.close()

    def inferences(self) -> list[Act]:
        """Requests of all sizes, some of them split, and to a model that may not serve."""
        sizes = (1, 3, 8, 32, 100)
        acts = [Act(f"infer {rows} rows", partial(self._infer, infer(rows=rows))) for rows in sizes]
        may_be_away = ("OK", "UNAVAILABLE")
        return [*acts, Act("infer passing model", lambda: self._infer(infer(PASSING)), may_be_away)]

    def impatience(self) -> list[Act]:
        """Callers that leave, run out of time, connect for one request only, or leave a stream."""
        return [
            Act("cancel", self._cancel, ("OK", grpc.FutureCancelledError.__name__)),
            Act("deadline", lambda: self._infer(infer(rows=100), SHORT_S), ("OK", "DEADLINE_EXCEEDED")),
            Act("connect", self._connect),
            Act("stream left", self._leave_stream, ("CANCELLED",)),
            Act("watch left", self._leave_watch, ("CANCELLED",)),
        ]

    def streams(self) -> list[Act]:
        """Streams of requests of which some fail, each with its answer."""
        return [Act("stream", self._stream)]

    def nonsense(self) -> list[Act]:
        """Requests that cannot be answered."""
        wrong = ("INVALID_ARGUMENT",)
        too_few = infer()
        too_few.inputs[0].shape[0] = 2
        wide = infer()
        wide.inputs[0].shape[:] = [1, 1, 8, 1 << 40]
        integers = infer()
        integers.inputs[0].datatype = "INT32"
        return [
            Act("unknown model", lambda: self._infer(infer("nobody")), ("NOT_FOUND",)),
            Act("unknown version", lambda: self._infer(infer(model_version="9")), ("NOT_FOUND",)),
            Act("no version", lambda: self._infer(infer(model_version="../1")), wrong),
            Act("no inputs", lambda: self._infer(pb.ModelInferRequest(model_name=STEADY)), wrong),
            Act("too few bytes", lambda: self._infer(too_few), wrong),
            Act("absurd shape", lambda: self._infer(wide), wrong),
            Act("wrong datatype", lambda: self._infer(integers), wrong),
            Act("garbage", lambda: self._raw("ModelInfer", b"\xff" * 100), ("INTERNAL",)),
            Act("unknown method", lambda: self._raw("ModelGuess", b""), ("UNIMPLEMENTED",)),
            Act("too large", lambda: self._raw("ModelInfer", bytes(2 << 20)), ("RESOURCE_EXHAUSTED",)),
        ]

    def questions(self) -> list[Act]:
        """Every RPC that only asks."""
        stub, folds, name = self._stub, self._folds, STEADY
        no_gpu = ("UNIMPLEMENTED",)
        asks: list[tuple[Any, Any, Sequence[str]]] = [
            (stub.ServerLive, pb.ServerLiveRequest(), OK),
            (stub.ServerReady, pb.ServerReadyRequest(), OK),
            (stub.ModelReady, pb.ModelReadyRequest(name=PASSING), OK),
            (stub.ServerMetadata, pb.ServerMetadataRequest(), OK),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name=name), OK),
            (stub.ModelConfig, pb.ModelConfigRequest(name=name), OK),
            (stub.ModelStatistics, pb.ModelStatisticsRequest(), OK),
            (stub.RepositoryIndex, pb.RepositoryIndexRequest(), OK),
            (stub.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest(), OK),
            (stub.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest(), OK),
            (stub.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="gpu"), no_gpu),
            (stub.CudaSharedMemoryUnregister, pb.CudaSharedMemoryUnregisterRequest(), OK),
            (stub.LogSettings, pb.LogSettingsRequest(), OK),
            (stub.TraceSetting, pb.TraceSettingRequest(), OK),
            (folds.GetFoldReport, fold_pb.GetFoldReportRequest(name=name), OK),
            (folds.GetParity, fold_pb.GetParityRequest(name=name), OK),
            (folds.GetDrift, fold_pb.GetDriftRequest(name=name), OK),
            (self._health.Check, health_pb2.HealthCheckRequest(service=name), OK),
        ]
        return [
            Act(type(request).__name__.removesuffix("Request"), partial(ask, request, timeout=LONG_S), codes)
            for ask, request, codes in asks
        ]

    def management(self) -> list[Act]:
        """What changes the server: loads, uploads, unloads and settings; elsewhere that is refused."""
        load = pb.RepositoryModelLoadRequest(model_name=PASSING)
        unload = pb.RepositoryModelUnloadRequest(model_name=PASSING)
        send = pb.RepositoryModelLoadRequest(model_name=SENT)
        unsend = pb.RepositoryModelUnloadRequest(model_name=SENT)
        send.parameters["config"].string_param = "{}"
        send.parameters["file:1/model.onnx"].bytes_param = self._model
        manager, refused = self._manager, ("PERMISSION_DENIED",)
        trace = pb.TraceSettingRequest()
        trace.settings["trace_level"].value.append("TIMESTAMPS")
        no_trace = pb.TraceSettingRequest()
        no_trace.settings["trace_level"].value.append("OFF")
        folds, reset = FoldServiceStub(self._managing), fold_pb.ResetFallbackRequest(name=STEADY)
        return [
            Act("load", lambda: manager.RepositoryModelLoad(load, timeout=LONG_S)),
            Act("trace", lambda: manager.TraceSetting(trace, timeout=LONG_S)),
            Act("load again", lambda: manager.RepositoryModelLoad(load, timeout=LONG_S)),
            Act("reset fallback", lambda: folds.ResetFallback(reset, timeout=LONG_S)),
            Act("send model", lambda: manager.RepositoryModelLoad(send, timeout=LONG_S)),
            Act("unload sent model", lambda: manager.RepositoryModelUnload(unsend, timeout=LONG_S)),
            Act("unload", lambda: manager.RepositoryModelUnload(unload, timeout=LONG_S)),
            Act("trace off", lambda: manager.TraceSetting(no_trace, timeout=LONG_S)),
            Act("load elsewhere", lambda: self._stub.RepositoryModelLoad(load, timeout=LONG_S), refused),
        ]

    def shared_memory(self) -> list[Act]:
        """A region that is registered, used for an input and an output, and given back."""
        return [Act("shared memory", self._share)]

    def _infer(self, request: pb.ModelInferRequest, timeout_s: float = LONG_S) -> None:
        self._stub.ModelInfer(request, timeout=timeout_s)

    def _raw(self, method: str, content: bytes) -> None:
        ask: Any = self._channel.unary_unary(METHOD + method)  # bytes as they are have no type of message
        ask(content, timeout=LONG_S)

    def _cancel(self) -> None:
        call = self._stub.ModelInfer.future(infer(rows=32), timeout=LONG_S)
        time.sleep(RANDOM.uniform(0, SHORT_S))
        call.cancel()
        call.result()

    def _connect(self) -> None:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._address, alone) as channel:
            GRPCInferenceServiceStub(channel).ModelInfer(infer(), timeout=LONG_S)

    def _stream(self) -> None:
        requests = [infer(rows=1 + index % 5, id=str(index)) for index in range(40)]
        requests += [infer("nobody", id="40")]
        answers = list(self._stub.ModelStreamInfer(iter(requests), timeout=LONG_S))
        if {answer.infer_response.id for answer in answers} != {request.id for request in requests}:
            raise ValueError("a stream lost answers")
        if sum(bool(answer.error_message) for answer in answers) != 1:
            raise ValueError("a stream answered with other errors than those it was made for")

    def _leave_stream(self) -> None:
        left = threading.Event()

        def endless() -> Iterator[pb.ModelInferRequest]:
            while not left.is_set():
                yield infer()

        stream = self._stub.ModelStreamInfer(endless(), timeout=LONG_S)
        try:
            for _ in range(5):
                next(stream)
            stream.cancel()
            for _ in stream:
                pass
        finally:
            left.set()

    def _leave_watch(self) -> None:
        watch = self._health.Watch(health_pb2.HealthCheckRequest(service=PASSING), timeout=LONG_S)
        next(watch)
        watch.cancel()
        for _ in watch:
            pass

    def _share(self) -> None:
        images = np.zeros((4, 1, 8, 8), np.float32)
        name = f"foldserve-soak-{uuid.uuid4()}"
        memory = Path("/dev/shm") / name
        memory.write_bytes(images.tobytes().ljust(4096, b"\0"))
        region = pb.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=4096)
        try:
            self._stub.SystemSharedMemoryRegister(region, timeout=LONG_S)
            request = infer(rows=4)
            request.ClearField("raw_input_contents")
            output = request.outputs.add(name="logits")
            for tensor, offset, size in ((request.inputs[0], 0, images.nbytes), (output, 2048, 160)):
                tensor.parameters["shared_memory_region"].string_param = name
                tensor.parameters["shared_memory_offset"].int64_param = offset
                tensor.parameters["shared_memory_byte_size"].int64_param = size
            self._infer(request)
            given_back = pb.SystemSharedMemoryUnregisterRequest(name=name)
            self._stub.SystemSharedMemoryUnregister(given_back, timeout=LONG_S)
        finally:
            memory.unlink()
