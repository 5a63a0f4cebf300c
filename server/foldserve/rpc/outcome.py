"""What becomes of a request: our exceptions become status codes, and every outcome is counted."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Protocol

import grpc

from foldserve.errors import FoldserveError, QueueFull, status_code
from foldserve.observability.inference import RequestCollector
from foldserve.observability.logging import debugs, get_logger
from foldserve.observability.spans import Answered, Ended, Spans

Behaviour = Callable[[Any, grpc.ServicerContext], Any]

Counted = tuple[str, str, str, str, float]
"""How a request counts: model, version, method, code, and seconds."""

MOST_TEXT = 1000
"""Characters of an error text: gRPC drops the whole answer when its metadata grows beyond 8 kB."""

LONGEST_ID = 200
"""Characters of a request's id that are written to the log."""

log = get_logger()


class Caller(Protocol):
    """Who waits for the answer to a call; gRPC's own contexts are such."""

    def is_active(self) -> bool:
        """Whether somebody waits still."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None, or centuries, where there is none."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What came with the call, by lower-case names."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A response, and what is told of it where requests are traced."""

    response: Any
    answered: Answered


class Outcome(NamedTuple):
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
    labels, so that callers cannot make up new ones. ``spans`` traces inferences; None: nobody does.
    """

    def __init__(
        self,
        requests: RequestCollector,
        labels: Callable[[str, str], tuple[str, str]],
        spans: Spans | None = None,
    ) -> None:
        self._requests = requests
        self._labels = labels
        self._spans = spans

    def of(self, method: str, behaviour: Behaviour, request: Any, context: grpc.ServicerContext) -> Outcome:
        """Call ``behaviour``, whatever it raises."""
        started = time.perf_counter()
        try:
            result = behaviour(request, context)
        except Exception as error:
            result = error
        outcome = _outcome(method, request, result)
        self._count(method, started, request, context, outcome)
        return outcome

    def refusal(self, method: str, why: Callable[[], Exception | None]) -> Outcome | None:
        """The end of a request of which nothing is known, if there is a reason ``why`` none is taken."""
        error = why()
        if error is None:
            return None
        outcome = _refusal(method, None, error)
        self._requests.record_request("", "", method, outcome.code, 0.0)
        if debugs():
            log.debug("request refused unread", method=method, code=outcome.code, reason=outcome.text)
        return outcome

    def begin(
        self,
        method: str,
        start: Callable[[Any, Any, Callable[[Any], None]], None],
        request: Any,
        caller: Caller,
        done: Callable[[Outcome], None],
    ) -> None:
        """Call ``start``, which tells its last argument a response or an exception later, or raises one.

        The response may be :class:`Traced`.
        """
        started = time.perf_counter()

        def settle(result: Any) -> None:
            answered = None
            if self._spans is not None and isinstance(result, Traced):
                result, answered = result.response, result.answered
            outcome = _outcome(method, request, result)
            counted = self._count(method, started, request, caller, outcome)
            if self._spans is None:
                done(outcome)
                return
            model, version, _, code, seconds = counted
            ended = Ended(
                method=method,
                model=model,
                version=version,
                request_id=_request_id(request),
                code=code,
                error=outcome.text,
                end_ns=time.time_ns(),
                seconds=seconds,
                metadata=caller.invocation_metadata(),
                answered=answered,
            )
            done(outcome)
            self._trace(self._spans, ended)

        try:
            start(request, caller, settle)
        except Exception as error:
            settle(error)

    def _count(self, method: str, started: float, request: Any, caller: Caller, outcome: Outcome) -> Counted:
        code = outcome.code
        if code in ("OK", "CANCELLED") and not caller.is_active():
            code = "DEADLINE_EXCEEDED" if caller.time_remaining() == 0 else "CANCELLED"
        model, version = self._labels(model_of(request), _version(request))
        counted = model, version, method, code, time.perf_counter() - started
        self._requests.record_request(*counted)
        if debugs():
            log.debug(
                "request",
                model=model,
                version=version,
                method=method,
                request_id=_request_id(request),
                code=code,
                milliseconds=round(counted[-1] * 1e3, 3),
                **({"reason": outcome.text} if outcome.text else {}),
            )
        return counted

    def _trace(self, spans: Spans, ended: Ended) -> None:
        """Trace a request that has its answer, whatever comes of that."""
        try:
            trace_id = spans.record(ended)
        except Exception:
            log.exception("a request could not be traced", request_id=ended.request_id)
            return
        if trace_id:
            self._requests.exemplify(ended.model, ended.version, ended.method, ended.seconds, trace_id)


def _outcome(method: str, request: Any, result: Any) -> Outcome:
    return _refusal(method, request, result) if isinstance(result, Exception) else Outcome(result, "OK", "")


def _refusal(method: str, request: Any, error: Exception) -> Outcome:
    if isinstance(error, FoldserveError):
        metadata = _retry_hints(error.retry_after_s) if isinstance(error, QueueFull) else ()
        return Outcome(None, status_code(error), str(error)[:MOST_TEXT], metadata)
    if isinstance(error, NotImplementedError):
        return Outcome(None, "UNIMPLEMENTED", f"{method} is not offered by this server")
    log.error(
        "internal error",
        method=method,
        model=model_of(request),
        request_id=_request_id(request),
        exc_info=error,
    )
    return Outcome(None, "INTERNAL", f"{method} failed inside the server; its log has the details")


def _retry_hints(seconds: float) -> tuple[tuple[str, str], ...]:
    """When to try again: in seconds for people and proxies, in milliseconds for gRPC's own retries."""
    return ("retry-after", f"{seconds:.3f}"), ("grpc-retry-pushback-ms", str(ceil(seconds * 1000)))


def _request_id(request: Any) -> str:
    return str(getattr(request, "id", ""))[:LONGEST_ID]


def model_of(request: Any) -> str:
    """The model that a request names; empty if it names none."""
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
