"""foldserve.v1.FoldService: what was folded, and how near the folded model is."""

import json
from typing import Any

import grpc
from foldserve_proto import fold_service_pb2 as pb
from foldserve_proto import fold_service_pb2_grpc as service
from google.protobuf import json_format
from pydantic import BaseModel

from foldserve.observability.logging import get_logger
from foldserve.serving.facts import drift_unavailable
from foldserve.serving.manager import ModelManager

log = get_logger()


class FoldServicer(service.FoldServiceServicer):
    """The reports that a load leaves behind, as messages whose fields have the reports' names."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def GetFoldReport(
        self, request: pb.GetFoldReportRequest, context: grpc.ServicerContext
    ) -> pb.GetFoldReportResponse:
        """Which BatchNorms went where, which biases were stripped, and why the rest stayed."""
        servable = self._manager.servable(request.name, request.version)
        provenance = servable.provenance
        response = pb.GetFoldReportResponse(
            model_name=servable.name,
            model_version=str(servable.version),
            variant=servable.variant,
            requested_provider=provenance.requested_provider,
            provider=servable.provider,
            engine=servable.engine,
        )
        json_format.ParseDict(_as_json(provenance.fold_report), response.report)
        json_format.ParseDict(_as_json(provenance.engines), response.engines)
        return response

    def GetParity(self, request: pb.GetParityRequest, context: grpc.ServicerContext) -> pb.GetParityResponse:
        """How near the served model was to the unfolded reference at load, and is since then."""
        servable = self._manager.servable(request.name, request.version)
        response = pb.GetParityResponse(
            model_name=servable.name, model_version=str(servable.version), variant=servable.variant
        )
        report = _as_json(servable.provenance.parity_report)
        report["probes"]["shapes"] = [_wrapped(shapes) for shapes in report["probes"]["shapes"]]
        json_format.ParseDict(report, response.report)
        if servable.shadow is not None:
            json_format.ParseDict(_as_json(servable.shadow.report()), response.live)
        if servable.fallback is not None:
            json_format.ParseDict(_as_json(servable.fallback), response.fallback)
        return response

    def GetDrift(self, request: pb.GetDriftRequest, context: grpc.ServicerContext) -> pb.GetDriftResponse:
        """How far the inputs have drifted from those of training."""
        servable = self._manager.servable(request.name, request.version)
        response = pb.GetDriftResponse(model_name=servable.name, model_version=str(servable.version))
        drift = servable.shadow.drift() if servable.shadow is not None else None
        if drift is not None:
            json_format.ParseDict(_as_json(drift), response.drift)
        else:
            response.unavailable = drift_unavailable(servable)
        return response

    def ResetFallback(
        self, request: pb.ResetFallbackRequest, context: grpc.ServicerContext
    ) -> pb.ResetFallbackResponse:
        """Let a model that fell back answer again in the form that it was loaded in."""
        servable = self._manager.servable(request.name, request.version)
        was_active = self._manager.reset_fallback(servable)
        if was_active:
            log.warning("fallback reset by a caller", model=servable.name, version=servable.version)
        return pb.ResetFallbackResponse(
            model_name=servable.name,
            model_version=str(servable.version),
            variant=servable.variant,
            was_active=was_active,
        )


def _as_json(report: BaseModel) -> dict[str, Any]:
    """A report as JSON has it, which writes infinities as text."""
    fields: dict[str, Any] = json.loads(report.model_dump_json())
    return fields


def _wrapped(shapes: dict[str, list[int]]) -> dict[str, dict[str, dict[str, list[int]]]]:
    """Shapes by input name as messages: protobuf has no maps of lists."""
    return {"inputs": {name: {"dims": dims} for name, dims in shapes.items()}}
