"""Traces of single requests: when each stage began, one line of JSON per traced request.

Where the file is, only the server's owner says; what is traced, callers may change. Times are in nanoseconds
of a clock that only goes forward: good for differences.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from foldserve.errors import ConfigurationError
from foldserve.observability.inference import StageSeconds
from foldserve.observability.logging import get_logger

log = get_logger()


@dataclass(frozen=True)
class TraceSettings:
    """What is traced; None for what comes from above: all models for one model, the defaults for all."""

    timestamps: bool | None = None
    """Whether requests are traced."""

    rate: int | None = None
    """Of how many requests one is traced."""

    count: int | None = None
    """How many traces are still to be written; -1 for no limit."""

    def over(self, above: "TraceSettings") -> "TraceSettings":
        """These settings, with what they leave open taken from ``above``."""
        return TraceSettings(
            above.timestamps if self.timestamps is None else self.timestamps,
            above.rate if self.rate is None else self.rate,
            above.count if self.count is None else self.count,
        )


ALL_MODELS = ""
"""The name that stands for all models without settings of their own."""

DEFAULTS = TraceSettings(timestamps=False, rate=1000, count=-1)


class Tracer:
    """Writes traces to the end of ``file``; without one there are none.

    Raises :class:`ConfigurationError` for a file that cannot be written.
    """

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            try:
                file.open("a").close()
            except OSError as error:
                raise ConfigurationError(
                    f"traces cannot be written to {file}: {error.strerror}; mend --trace-file"
                ) from None
        self.file = file
        self.active = False
        """Whether some request might be traced: all that most requests look at."""

        self._given = {ALL_MODELS: TraceSettings()}
        self._seen: Counter[str] = Counter()
        self._written = 0
        self._lock = threading.Lock()

    def given(self, model: str) -> TraceSettings:
        """What was set for a model itself, or for all models."""
        return self._given.get(model, TraceSettings())

    def settings(self, model: str) -> TraceSettings:
        """What holds for a model, or for all models."""
        return self.given(model).over(self._given[ALL_MODELS]).over(DEFAULTS)

    def configure(self, model: str, settings: TraceSettings) -> None:
        """Set what is traced of a model, or of all models.

        Raises :class:`ConfigurationError` where traces are asked for and there is no file for them.
        """
        if settings.timestamps and self.file is None:
            raise ConfigurationError(
                "there is no file for traces, and callers cannot name one; start the server with --trace-file"
            )
        with self._lock:
            self._given[model] = settings
            self.active = any(given.timestamps for given in self._given.values())

    def record(
        self, model: str, version: int, request_id: str, *, arrived: float, stages: StageSeconds
    ) -> None:
        """Trace an answered request if it is its turn; ``arrived`` is in seconds of ``time.perf_counter``."""
        with self._lock:
            settings = self.settings(model)
            scope = model if model in self._given else ALL_MODELS
            if not settings.timestamps or not settings.count or not settings.rate:
                return
            self._seen[scope] += 1
            if (self._seen[scope] - 1) % settings.rate:
                return
            self._count_down(model)
            self._written += 1
            trace = {
                "id": self._written,
                "model_name": model,
                "model_version": version,
                "request_id": request_id,
                "timestamps": _timestamps(arrived, stages),
            }
            self._append(json.dumps(trace))

    def _count_down(self, model: str) -> None:
        """One trace less is to be written, by whoever limited them."""
        scope = model if self.given(model).count is not None else ALL_MODELS
        given = self._given[scope]
        if given.count is not None and given.count > 0:
            self._given[scope] = replace(given, count=given.count - 1)

    def _append(self, line: str) -> None:
        assert self.file is not None
        try:
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            log.error("traces cannot be written: tracing is off", file=str(self.file), reason=str(error))
            self._given = {ALL_MODELS: TraceSettings()}
            self.active = False


def _timestamps(arrived: float, stages: StageSeconds) -> list[dict[str, str | int]]:
    """Triton's moments: decoding, waiting, the run and encoding follow one another.

    Inputs are decoded before the wait, so COMPUTE_INPUT_END is where COMPUTE_START is.
    """
    queued = arrived + stages.compute_input
    started = queued + stages.queue
    ran = started + stages.compute_infer
    moments = {
        "REQUEST_START": arrived,
        "QUEUE_START": queued,
        "COMPUTE_START": started,
        "COMPUTE_INPUT_END": started,
        "COMPUTE_OUTPUT_START": ran,
        "COMPUTE_END": ran + stages.compute_output,
        "REQUEST_END": time.perf_counter(),
    }
    return [{"name": name, "ns": int(seconds * 1e9)} for name, seconds in moments.items()]
