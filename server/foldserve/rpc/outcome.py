"""What becomes of a request: our exceptions become status codes, and every outcome is counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import grpc

from foldserve.errors import FoldserveError, QueueFull, status_code
from foldserve.observability.inference import RequestCollector
from foldserve.observability.logging import get_logger

Behaviour = Callable[[Any, grpc.ServicerContext], Any]

MOST_TEXT = 1000
"""Characters of an error text: gRPC drops the whole answer when its metadata grows beyond 8 kB."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A response, or None and why there is none."""

    response: Any
    code: str
    text: str
    metadata: tuple[tuple[str, str], ...] = ()
    """Trailing metadata of a refusal."""

    def tell(self, context: grpc.ServicerContext) -> None:
        """Make a refusal the status of its call."""
        context.set_code(grpc.StatusCode[self.code])
        context.set_details(self.text)
        context.set_trailing_metadata(self.metadata)

    def answer(self, context: grpc.ServicerContext) -> Any:
        """Return the response from a method, or end the method with the refusal."""
        if self.response is None:
            context.set_trailing_metadata(self.metadata)
            context.abort(grpc.StatusCode[self.code], self.text)
        return self.response


class Outcomes:
    """Calls what answers a request and counts how it ended.

    ``labels`` returns the model and version labels of a request: only names that the server knows become
    labels, so that callers cannot make up new ones.
    """

    def __init__(self, requests: RequestCollector, labels: Callable[[str, str], tuple[str, str]]) -> None:
        self._requests = requests
        self._labels = labels

    def of(self, method: str, behaviour: Behaviour, request: Any, context: grpc.ServicerContext) -> Outcome:
        """Call ``behaviour``, whatever it raises."""
        started = time.perf_counter()
        try:
            result = behaviour(request, context)
        except Exception as error:
            result = error
        return self._settled(method, started, request, context, result)

    def refusal(self, method: str, why: Callable[[], Exception | None]) -> Outcome | None:
        """The end of a request of which nothing is known, if there is a reason ``why`` none is taken."""
        error = why()
        if error is None:
            return None
        outcome = _refusal(method, error)
        self._requests.record_request("", "", method, outcome.code, 0.0)
        return outcome

    def begin(
        self,
        method: str,
        start: Callable[[Any, grpc.ServicerContext, Callable[[Any], None]], None],
        request: Any,
        context: grpc.ServicerContext,
        done: Callable[[Outcome], None],
    ) -> None:
        """Call ``start``, which tells its last argument a response or an exception later, or raises one."""
        started = time.perf_counter()

        def settle(result: Any) -> None:
            done(self._settled(method, started, request, context, result))

        try:
            start(request, context, settle)
        except Exception as error:
            settle(error)

    def _settled(
        self, method: str, started: float, request: Any, context: grpc.ServicerContext, result: Any
    ) -> Outcome:
        outcome = _refusal(method, result) if isinstance(result, Exception) else Outcome(result, "OK", "")
        code = outcome.code
        if code in ("OK", "CANCELLED") and not context.is_active():
            code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
        model, version = self._labels(_model(request), _version(request))
        self._requests.record_request(model, version, method, code, time.perf_counter() - started)
        return outcome


def _refusal(method: str, error: Exception) -> Outcome:
    if isinstance(error, FoldserveError):
        metadata = _retry_hints(error.retry_after_s) if isinstance(error, QueueFull) else ()
        return Outcome(None, status_code(error), str(error)[:MOST_TEXT], metadata)
    if isinstance(error, NotImplementedError):
        return Outcome(None, "UNIMPLEMENTED", f"{method} is not offered by this server")
    log.error("internal error", method=method, exc_info=error)
    return Outcome(None, "INTERNAL", f"{method} failed inside the server; its log has the details")


def _retry_hints(seconds: float) -> tuple[tuple[str, str], ...]:
    """When to try again: in seconds for people and proxies, in milliseconds for gRPC's own retries."""
    return ("retry-after", f"{seconds:.3f}"), ("grpc-retry-pushback-ms", str(ceil(seconds * 1000)))


def _model(request: Any) -> str:
    return _first_of(request, "model_name", "name")


def _version(request: Any) -> str:
    return _first_of(request, "model_version", "version")


def _first_of(request: Any, *fields: str) -> str:
    """The first of the fields that this kind of message has: to ask in vain takes a microsecond."""
    for field in fields:
        value = getattr(request, field, None)
        if value is not None:
            return str(value)
    return ""
