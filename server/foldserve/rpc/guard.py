"""Turns calls away before their message is read: all but those that the reader begins itself.

Methods that strangers may call take small messages only.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import grpc

from foldserve.rpc.access import Access
from foldserve.rpc.message_first import small
from foldserve.rpc.outcome import Outcome, Outcomes
from foldserve.rpc.rights import needed

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guard(grpc.ServerInterceptor):
    """Asks ``access`` about each call, and about each message of a stream: tokens may lose their rights."""

    def __init__(self, access: Access, outcomes: Outcomes) -> None:
        self._access = access
        self._outcomes = outcomes

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Handler | None"],
        details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The handler of a call, or one that refuses it; None, UNIMPLEMENTED, for no method of ours."""
        handler = continuation(details)
        method = details.method.rpartition("/")[2]
        if handler is None:
            return None
        if not needed(method):
            return _small(handler)
        if self._access.is_open(method):
            return handler
        refusal = partial(refused, self._outcomes, self._access, method)
        outcome = refusal(details.invocation_metadata)
        if outcome is not None:
            return _refusing(outcome)
        return _watched(handler, refusal) if handler.request_streaming else handler


def refused(outcomes: Outcomes, access: Access, method: str, metadata: Any) -> Outcome | None:
    """The end of a call that may not be made; None for others."""
    return outcomes.refusal(method, partial(access.refusal, method, metadata))


def _small(handler: Any) -> Handler:
    limited: Handler = handler._replace(request_deserializer=small(handler.request_deserializer))
    return limited


def _refusing(outcome: Outcome) -> Handler:
    """Ends any kind of call: as a stream it is not waited for a message."""

    def refuse(_requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield outcome.answer(context)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _watched(handler: Any, refusal: Callable[[Any], Outcome | None]) -> Handler:
    """A stream whose messages end where its caller may send no more; what was read before is answered."""

    def allowed(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        metadata = context.invocation_metadata()
        for request in requests:
            if (outcome := refusal(metadata)) is not None:
                outcome.tell(context)
                return
            yield request

    def behaviour(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        yield from handler.stream_stream(allowed(requests, context), context)

    return grpc.stream_stream_rpc_method_handler(
        behaviour, handler.request_deserializer, handler.response_serializer
    )
