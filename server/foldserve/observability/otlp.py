"""OpenTelemetry: a span for each inference, with its stages as children, sent over OTLP.

A request is traced once it is answered, from the moments that were measured anyway, so none waits for it.
What calls say about themselves follows OpenTelemetry's semantic conventions for RPC; the rest is
``foldserve.*``. This module needs the extra ``otel``.
"""

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from foldserve import __version__
from foldserve.observability.inference import StageSeconds
from foldserve.observability.logging import get_logger
from foldserve.observability.spans import Ended

SERVICE = "inference.GRPCInferenceService"
SERVERS_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that make a server's span an error; others are the caller's affair."""

CONTEXT_HEADERS = ("traceparent", "tracestate")
LONGEST_CLOSE_S = 3.0
"""A collector that does not answer must not hold up the end of the server for longer, in seconds."""

LOG_EVERY_S = 60.0
"""Of what OpenTelemetry has to say, a line is written once in so many seconds."""

LONGEST_ID = 200
"""Characters of a request's id that are kept."""

log = get_logger()


class OtlpSpans:
    """Implements :class:`~foldserve.observability.spans.Spans`."""

    def __init__(self, endpoint: str, sample_rate: float) -> None:
        _write_their_log_lines_as_ours()
        self._sample_rate = sample_rate
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # who is traced is decided here, before there is a span
            resource=Resource.create({"service.name": "foldserve", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("foldserve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, ended: Ended) -> str:
        """Trace a request, if it is to be; its trace id, else an empty text."""
        carrier = _carrier(ended.metadata)
        context = self._propagator.extract(carrier) if carrier else None
        parent = trace.get_current_span(context).get_span_context() if context is not None else None
        if parent is not None and parent.is_valid:
            is_sampled = parent.trace_flags.sampled
        else:
            is_sampled = random.random() < self._sample_rate
        return self._recorded(ended, context) if is_sampled else ""

    def close(self) -> None:
        """Send what was not sent yet, as far as that goes in a few seconds, and end."""
        sending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        sending.start()
        sending.join(LONGEST_CLOSE_S)
        if sending.is_alive():
            log.warning("not all spans could be sent before the end")
            self._exporter.shutdown()

    def _recorded(self, ended: Ended, context: Context | None) -> str:
        start_ns = ended.end_ns - int(ended.seconds * 1e9)
        span = self._tracer.start_span(
            f"{SERVICE}/{ended.method}",
            context=context,
            kind=trace.SpanKind.SERVER,
            attributes=_attributes(ended),
            start_time=start_ns,
        )
        if ended.code in SERVERS_FAULT:
            span.set_status(trace.StatusCode.ERROR, ended.error)
        if ended.answered is not None:
            within = trace.set_span_in_context(span)
            for name, begin_ns, finish_ns in _stages(start_ns, ended.answered.stages):
                self._tracer.start_span(name, context=within, start_time=begin_ns).end(finish_ns)
        span.end(ended.end_ns)
        return trace.format_trace_id(span.get_span_context().trace_id)


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
    """While a collector cannot be reached there would be several lines for each attempt."""

    _last_s = -LOG_EVERY_S

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._last_s >= LOG_EVERY_S:
            self._last_s = now
            log.warning("spans are not sent as they should be", reason=record.getMessage())


def _write_their_log_lines_as_ours() -> None:
    """Have them say in the form of all lines that a collector cannot be reached."""
    theirs = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, _AsOurs) for handler in theirs.handlers):
        theirs.addHandler(_AsOurs(logging.WARNING))
        theirs.propagate = False
