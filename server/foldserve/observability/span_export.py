"""Spans for a collector, where the packages for that are installed."""

from foldserve.errors import ConfigurationError
from foldserve.observability.spans import Spans


def spans_to(endpoint: str, sample_rate: float) -> Spans:
    """Spans that a collector gets by OTLP; raises :class:`ConfigurationError` without the packages for it."""
    try:
        # An extra, which nobody pays for who has not asked for it.
        from foldserve.observability.otlp import OtlpSpans  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"otlp_endpoint is set, but OpenTelemetry is not installed ({error.name} is missing); "
            f"install foldserve[otel], or unset it"
        ) from None
    return OtlpSpans(endpoint, sample_rate)
