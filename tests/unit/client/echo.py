"""A small real server: models that echo their inputs, and fixed reports."""

# ruff: noqa: N802, ARG002 - gRPC names the methods and their arguments
import threading
from collections.abc import Iterator

import grpc
import numpy as np
from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import fold_service_pb2_grpc as fold_service
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as inference_service
from foldserve_proto.model_config_pb2 import ModelConfig

Tensor = tuple[str, str, list[int]]


class EchoServicer(inference_service.GRPCInferenceServiceServicer):
    """Models whose outputs are their inputs, in order; tests add and replace models and read the requests."""

    def __init__(self) -> None:
        self.models: dict[str, pb.ModelMetadataResponse] = {}
        self.requests: list[pb.ModelInferRequest] = []
        self.metadata_requests: list[pb.ModelMetadataRequest] = []
        self.failures: dict[str, tuple[grpc.StatusCode, str]] = {}
        self.loads: list[pb.RepositoryModelLoadRequest] = []
        self.unloaded: set[str] = set()
        self.stuck = threading.Event()
        self.is_ready = True
        self.max_batch_sizes: dict[str, int] = {}
        self.trailers: tuple[tuple[str, str], ...] = ()
        self.failing: int | None = None
        """How many further requests fail as ``failures`` says; None: all."""

        self.failing_loads = False
        self.refused_version = ""
        self.tells_metadata = True
        self.refused_value: float | None = None
        self.tells_config = True
        self.config_requests = 0
        self.ends_streams_after: int | None = None
        self.shape_in_stream: list[int] | None = None
        """What the answers of streams say their shape is; None: what it is."""

        self.most_in_stream = 0
        self.answered_in_stream = 0
        self.metadata_sent: dict[str, str | bytes] = {}

    def serve(self, name: str, inputs: list[Tensor], outputs: list[str], *, max_batch_size: int = 0) -> None:
        """Add or replace a model; it refuses more rows than ``max_batch_size``, unless that is 0."""
        self.max_batch_sizes[name] = max_batch_size
        metadata = pb.ModelMetadataResponse(name=name, versions=["1"], platform="echo")
        for tensor, datatype, shape in inputs:
            metadata.inputs.add(name=tensor, datatype=datatype, shape=shape)
        for tensor, source in zip(outputs, inputs, strict=True):
            metadata.outputs.add(name=tensor, datatype=source[1], shape=source[2])
        self.models[name] = metadata

    def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.is_ready)

    def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name in self.models and request.version in {"", "1"})

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="echo", version="1.2", extensions=["binary_tensor_data"])

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        self.metadata_requests.append(request)
        if not self.tells_metadata:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "nothing is told")
        if request.version and request.version == self.refused_version:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"model '{request.name}' has no version {request.version}"
            )
        return self._model(request.name, context)

    def ModelConfig(
        self, request: pb.ModelConfigRequest, context: grpc.ServicerContext
    ) -> pb.ModelConfigResponse:
        name = self._model(request.name, context).name
        self.config_requests += 1
        if not self.tells_config:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no ModelConfig here")
        return pb.ModelConfigResponse(
            config=ModelConfig(name=name, max_batch_size=self.max_batch_sizes[name])
        )

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        response = pb.ModelStatisticsResponse()
        for name in [self._model(request.name, context).name] if request.name else self.models:
            statistics = response.model_stats.add(
                name=name, version=request.version or "1", inference_count=48, execution_count=3
            )
            statistics.inference_stats.success.count = 2
            statistics.inference_stats.compute_infer.count = 2
            statistics.inference_stats.compute_infer.ns = 2_500_000
        return response

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        for name in self.models if request.repository_name in {"", "here"} else ():
            if name in self.unloaded:
                response.models.add(name=name, version="1", state="UNAVAILABLE", reason="unloaded")
            else:
                response.models.add(name=name, version="1", state="READY")
        return response

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        self.loads.append(request)
        if self.failing_loads:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self.unloaded.discard(self._model(request.model_name, context).name)
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        self.unloaded.add(self._model(request.model_name, context).name)
        return pb.RepositoryModelUnloadResponse()

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        self.requests.append(request)
        self.metadata_sent = dict(context.invocation_metadata())
        if request.model_name == "stuck":
            self.stuck.wait()
        if request.model_name in self.failures and self.failing != 0:
            self.failing = None if self.failing is None else self.failing - 1
            context.set_trailing_metadata(self.trailers)
            context.abort(*self.failures[request.model_name])
        model = self._model(request.model_name, context)
        if [(t.name, t.datatype) for t in request.inputs] != [(t.name, t.datatype) for t in model.inputs]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the inputs are others now")
        most = self.max_batch_sizes[request.model_name]
        if most and request.inputs[0].shape[0] > most:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a batch has {most} rows at most")
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        values = np.frombuffer(request.raw_input_contents[0], np.float32)
        if self.refused_value is not None and self.refused_value in values:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this value")
        if any(output.parameters for output in request.outputs):
            return self._classes(request, response)
        wanted = {output.name for output in request.outputs} or {output.name for output in model.outputs}
        echoes = zip(model.outputs, request.inputs, request.raw_input_contents, strict=True)
        for output, source, raw in echoes:
            if output.name in wanted:
                response.outputs.add(name=output.name, datatype=source.datatype, shape=source.shape)
                response.raw_output_contents.append(raw)
        return response

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Answers two at a time, the later one first; a request whose parameter says so fails."""
        pair: list[pb.ModelInferRequest] = []
        for request in request_iterator:
            self.requests.append(request)
            self.most_in_stream = max(self.most_in_stream, len(self.requests) - self.answered_in_stream)
            pair.append(request)
            if self.ends_streams_after == len(self.requests):
                return
            if len(pair) == 2:
                yield from self._answers(pair, context)
                pair = []
        yield from self._answers(pair, context)

    def _answers(
        self, pair: list[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        for request in reversed(pair):
            self.answered_in_stream += 1
            response = pb.ModelStreamInferResponse()
            if np.isnan(np.frombuffer(request.raw_input_contents[0], np.float32)).any():
                response.error_message = "not a number"
                response.infer_response.id = request.id
            else:
                response.infer_response.CopyFrom(self.ModelInfer(request, context))
                self.requests.pop()
                if self.shape_in_stream is not None:
                    response.infer_response.outputs[0].shape[:] = self.shape_in_stream
            yield response

    def _classes(
        self, request: pb.ModelInferRequest, response: pb.ModelInferResponse
    ) -> pb.ModelInferResponse:
        """The classes of each row; number 1 is called "one"."""
        most = request.outputs[0].parameters["classification"].int64_param
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        best = np.argsort(-rows, axis=1)[:, :most]
        texts = [
            f"{row[index]}:{index}{':one' if index == 1 else ''}".encode()
            for row, order in zip(rows, best, strict=True)
            for index in order
        ]
        response.outputs.add(name=request.outputs[0].name, datatype="BYTES", shape=best.shape)
        response.raw_output_contents.append(
            b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        )
        return response

    def _model(self, name: str, context: grpc.ServicerContext) -> pb.ModelMetadataResponse:
        if name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model '{name}'")
        return self.models[name]


class ReportServicer(fold_service.FoldServiceServicer):
    """The same reports for any model; tests change them."""

    def __init__(self) -> None:
        self.variant = "folded"
        self.fold = _fold_report()
        self.has_fallen_back = False
        self.drift_unavailable = ""

    def GetFoldReport(
        self, request: fold_pb.GetFoldReportRequest, context: grpc.ServicerContext
    ) -> fold_pb.GetFoldReportResponse:
        return fold_pb.GetFoldReportResponse(
            model_name=request.name,
            model_version=request.version or "1",
            variant=self.variant,
            requested_provider="auto",
            provider="CPUExecutionProvider",
            report=self.fold,
        )

    def GetParity(
        self, request: fold_pb.GetParityRequest, context: grpc.ServicerContext
    ) -> fold_pb.GetParityResponse:
        response = fold_pb.GetParityResponse(model_name=request.name, model_version="1", variant="folded")
        report = response.report
        report.verdict = "within_budget"
        report.explanation = "every output keeps the budget"
        report.budget.relative_l2, report.budget.top1_agreement = 1e-5, 0.99
        report.outputs.add(output="logits", relative_l2=1.5e-7, top1_agreement=1.0, within_budget=True)
        for value, distance in (("conv1", 1e-7), ("conv2", 2e-7)):
            report.sites.add(original_value=value, relative_l2=distance, within_budget=True)
        if self.has_fallen_back:
            response.live.checks.update({"ok": 40, "breach": 3, "dropped": 2, "error": 0})
            response.live.window_checks, response.live.window_breaches, response.live.most_breaches = 20, 3, 3
            response.live.outputs.add(output="logits", relative_l2=0.02)
            response.live.last_breach.evidence = "'logits': relative L2 0.02"
            response.fallback.reason = "parity_breach"
        return response

    def GetDrift(
        self, request: fold_pb.GetDriftRequest, context: grpc.ServicerContext
    ) -> fold_pb.GetDriftResponse:
        response = fold_pb.GetDriftResponse(model_name=request.name, model_version="1")
        if self.drift_unavailable:
            response.unavailable = self.drift_unavailable
            return response
        response.drift.window_rows, response.drift.windows, response.drift.rows = 64, 2, 130
        response.drift.layers.add(layer="bn[1]", mean=0.25, variance=0.125)
        response.drift.overall.mean, response.drift.overall.variance = 0.375, 0.5
        return response

    def ResetFallback(
        self, request: fold_pb.ResetFallbackRequest, context: grpc.ServicerContext
    ) -> fold_pb.ResetFallbackResponse:
        was_active, self.has_fallen_back = self.has_fallen_back, False
        return fold_pb.ResetFallbackResponse(
            model_name=request.name, model_version="1", variant="folded", was_active=was_active
        )


def _fold_report() -> fold_pb.FoldReport:
    report = fold_pb.FoldReport()
    report.sites.add(
        name="bn1",
        operator="BatchNormalization",
        outcome="folded",
        tier=0,
        direction="up",
        absorbed_by=["conv1"],
        scale_min=0.5,
        scale_max=2.0,
        warnings=["huge_scale"],
    )
    report.sites.add(
        name="bn2",
        operator="BatchNormalization",
        outcome="stayed",
        reason="padding",
        detail="Conv 'conv2' pads with zeros [0]",
    )
    report.sites.add(name="shift", operator="Add", outcome="folded", tier=1, direction="down")
    report.stripped_biases.add(node="conv1", parameters=8, bytes=32, fate="absorbed")
    report.operators_before.update({"Conv": 2, "BatchNormalization": 2})
    report.operators_after.update({"Conv": 2, "BatchNormalization": 1})
    return report
