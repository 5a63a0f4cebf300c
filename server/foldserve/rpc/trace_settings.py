"""Trace settings, read and changed while the server runs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import InvalidRequest, ModelNotFound, NotSupported
from foldserve.observability.tracing import Tracer, TraceSettings

LEVELS = {"OFF": False, "TIMESTAMPS": True}
LOWEST = {"trace_rate": 1, "trace_count": -1}
HIGHEST = 2**31 - 1

FIXED = {
    "trace_file": "callers cannot name files of the server; --trace-file does, at its start",
    "log_frequency": "a trace is written when its request is answered",
    "trace_mode": "traces are lines of JSON in the file",
}
"""What cannot be set, and why."""


class TraceMethods(service.GRPCInferenceServiceServicer):
    """The method around tracing; ``knows`` says whether there is a model of a name."""

    def __init__(self, tracer: Tracer, knows: Callable[[str], bool]) -> None:
        self._tracer = tracer
        self._knows = knows

    def TraceSetting(
        self, request: pb.TraceSettingRequest, context: grpc.ServicerContext
    ) -> pb.TraceSettingResponse:
        """Change what is given, all of it or nothing, and tell what holds now."""
        model = request.model_name
        if model and not self._knows(model):
            raise ModelNotFound(f"no model is named '{model[:100]}'; leave the name out for all models")
        if request.settings:
            self._tracer.configure(model, _changed(self._tracer.given(model), request))
        return self._told(model)

    def _told(self, model: str) -> pb.TraceSettingResponse:
        settings = self._tracer.settings(model)
        values = {
            "trace_file": str(self._tracer.file or ""),
            "trace_level": "TIMESTAMPS" if settings.timestamps else "OFF",
            "trace_rate": str(settings.rate),
            "trace_count": str(settings.count),
            "log_frequency": "1",
            "trace_mode": "json lines",
        }
        response = pb.TraceSettingResponse()
        for name, value in values.items():
            response.settings[name].value.append(value)
        return response


def _changed(settings: TraceSettings, request: pb.TraceSettingRequest) -> TraceSettings:
    for name, value in request.settings.items():
        if name in FIXED:
            raise NotSupported(f"trace setting '{name}' is fixed: {FIXED[name]}")
        match name:
            case "trace_level":
                settings = replace(settings, timestamps=_level(value.value))
            case "trace_rate":
                settings = replace(settings, rate=_number(name, value.value))
            case "trace_count":
                settings = replace(settings, count=_number(name, value.value))
            case _:
                known = ", ".join(("trace_level", *LOWEST))
                raise InvalidRequest(f"unknown trace setting '{name[:100]}'; there are {known}")
    return settings


def _level(texts: Sequence[str]) -> bool | None:
    """Whether timestamps are wanted; None for an empty list, which takes the setting back."""
    if not texts:
        return None
    if len(texts) != 1 or texts[0] not in LEVELS:
        raise InvalidRequest(f"trace_level takes one of {', '.join(LEVELS)} here")
    return LEVELS[texts[0]]


def _number(name: str, texts: Sequence[str]) -> int | None:
    """A whole number; None for an empty list, which takes the setting back."""
    if not texts:
        return None
    number = int(texts[0]) if texts[0].removeprefix("-").isdecimal() and len(texts[0]) < 12 else None
    if len(texts) != 1 or number is None or not LOWEST[name] <= number <= HIGHEST:
        raise InvalidRequest(f"{name} takes one whole number from {LOWEST[name]} to {HIGHEST}, as text")
    return number
