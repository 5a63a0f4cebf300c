"""Unary methods that are answered later, by whatever thread has the answer.

gRPC gives every call a thread until it is answered, which :mod:`foldserve.rpc.reader` does without; where it
cannot, and for callers in this process, these methods wait like any other.
"""

from collections.abc import Callable
from functools import partial, wraps
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc

from foldserve.rpc.outcome import Caller, Outcome, Traced

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


class DeferredMethod:
    """A unary method that is begun with a request and its caller, and tells a callback the outcome later.

    ``refusal`` is told the metadata and says how a call ends whose request is not even read; None: it is.
    """

    def __init__(
        self,
        begin: Callable[[Any, Caller, Callable[[Outcome], None]], None],
        refusal: Callable[[Any], Outcome | None] = lambda _metadata: None,
    ) -> None:
        self.begin = begin
        self.refusal = refusal

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer as other methods do, in a thread that waits."""
        outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.begin(request, context, outcomes.put)
        return outcomes.get().answer(context)


def deferred(
    begin: Callable[[Servicer, Request, Caller, Callable[[Response | Traced | Exception], None]], None],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """Make a servicer's method of a function that tells its last argument the response, or why there is none.

    ``begin_of`` finds the function again.
    """

    @wraps(begin)
    def method(self: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        result = wait_for(lambda done: begin(self, request, context, done))
        response: Response = result.response if isinstance(result, Traced) else result
        return response

    return method


def begin_of(method: Any) -> Callable[..., None] | None:
    """The function behind a :func:`deferred` method of a servicer, bound to the servicer; None for others."""
    begin = getattr(method, "__wrapped__", None)
    return partial(begin, method.__self__) if begin is not None else None


def wait_for(start: Callable[[Callable[[Any], None]], None]) -> Any:
    """Start something that tells a callback what became of it, and wait for that; raises what it is told."""
    results: SimpleQueue[Any] = SimpleQueue()
    start(results.put)
    result = results.get()
    if isinstance(result, Exception):
        raise result
    return result
