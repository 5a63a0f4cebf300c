"""OpenTelemetry: a span for each inference, with its stages as children, sent over OTLP.

A request is traced once it is answered, from the moments that were measured anyway, so none waits for it.
What calls say about themselves follows OpenTelemetry's semantic conventions for RPC; the rest is
``foldserve.*``.
The packages (the extra ``otel``) are imported only where an endpoint is set.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foldserve import __version__
from foldserve.errors import ConfigurationError
from foldserve.observability.inference import StageSeconds
from foldserve.observability.logging import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "inference.GRPCInferenceService"
SERVERS_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; others are the caller's affair."""

CONTEXT_HEADERS = ("traceparent", "tracestate")
LONGEST_ID = 200
"""Characters of a request's id that are kept."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known of a request that was answered."""

    variant: str
    """Which form of the model answered."""

    rows: int
    stages: StageSeconds


@dataclass(frozen=True, slots=True)
class Ended:
    """One RPC that has ended, answered or refused."""

    method: str
    model: str
    version: str
    """Model and version as metrics have them: empty for what the server does not know."""

    request_id: str
    code: str
    error: str
    """The text that the caller got; empty for an answer."""

    seconds: float
    metadata: Iterable[tuple[str, str | bytes]]
    """What came with the call."""

    answered: Answered | None


class Spans:
    """Traces a share of all requests, and those whose callers trace them; :meth:`close` sends what is left.

    Raises :class:`ConfigurationError` where OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, sample_rate: float) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415  # nobody pays for it who has not asked for it
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
                TraceContextTextMapPropagator,
            )
        except ImportError as error:
            raise ConfigurationError(
                f"otlp_endpoint is set, but OpenTelemetry is not installed ({error.name} is missing); "
                f"install foldserve[otel], or unset it"
            ) from None
        _write_their_log_lines_as_ours()
        exporter: SpanExporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_rate)),
            resource=Resource.create({"service.name": "foldserve", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("foldserve", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def record(self, ended: Ended) -> str:
        """Trace a request that has ended just now, if it is drawn; its trace id, else an empty text."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(ended.seconds * 1e9)
        span = self._tracer.start_span(
            f"{SERVICE}/{ended.method}",
            context=self._propagator.extract(_carrier(ended.metadata)),
            kind=self._trace.SpanKind.SERVER,
            attributes=_attributes(ended),
            start_time=start_ns,
        )
        if not span.is_recording():
            return ""
        if ended.code in SERVERS_FAULT:
            span.set_status(self._trace.StatusCode.ERROR, ended.error)
        if ended.answered is not None:
            context = self._trace.set_span_in_context(span)
            for name, begin_ns, finish_ns in _stages(start_ns, ended.answered.stages):
                self._tracer.start_span(name, context=context, start_time=begin_ns).end(finish_ns)
        span.end(end_ns)
        return self._trace.format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send what was not sent yet, and end."""
        self._provider.shutdown()


def _attributes(ended: Ended) -> Mapping[str, str | int]:
    attributes: dict[str, str | int] = {
        "rpc.system.name": "grpc",
        "rpc.method": f"{SERVICE}/{ended.method}",
        "rpc.response.status_code": ended.code,
        "foldserve.model.name": ended.model,
        "foldserve.model.version": ended.version,
    }
    if ended.request_id:
        attributes["foldserve.request.id"] = ended.request_id[:LONGEST_ID]
    if ended.code != "OK":
        attributes["error.type"] = ended.code
        attributes["foldserve.error"] = ended.error
    if ended.answered is not None:
        attributes["foldserve.model.variant"] = ended.answered.variant
        attributes["foldserve.rows"] = ended.answered.rows
    return attributes


def _stages(start_ns: int, stages: StageSeconds) -> Iterable[tuple[str, int, int]]:
    """Name, begin and end of each stage; they follow one another."""
    begin_ns = start_ns
    for name, seconds in (
        ("decode", stages.compute_input),
        ("queue", stages.queue),
        ("compute", stages.compute_infer),
        ("encode", stages.compute_output),
    ):
        end_ns = begin_ns + int(seconds * 1e9)
        yield name, begin_ns, end_ns
        begin_ns = end_ns


def _carrier(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """The W3C trace context among what came with a call."""
    return {key: value for key, value in metadata if key in CONTEXT_HEADERS and isinstance(value, str)}


class _AsOurs(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.warning("OpenTelemetry", message=record.getMessage())


def _write_their_log_lines_as_ours() -> None:
    """Have them say in the form of all lines that a collector cannot be reached."""
    theirs: Any = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _AsOurs) for handler in theirs.handlers):
        theirs.addHandler(_AsOurs(logging.WARNING))
        theirs.propagate = False
