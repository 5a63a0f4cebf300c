"""Around every RPC: our exceptions become status codes, and every outcome is counted."""

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from foldserve.rpc.calls import DeferredMethod, begin_of
from foldserve.rpc.outcome import Behaviour, Outcomes

if TYPE_CHECKING:
    from collections.abc import Callable


class OutcomeInterceptor(grpc.ServerInterceptor):
    """Wraps each unary method of our own services; health and reflection answer for themselves."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        """By path: gRPC asks for each call anew."""

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the method's handler if it is one of ours."""
        path = handler_call_details.method
        known = self._handlers.get(path)
        if known is not None:
            return known
        handler = continuation(handler_call_details)
        service, _, method = path.lstrip("/").partition("/")
        if handler is None or handler.unary_unary is None or service.startswith("grpc."):
            return handler
        self._handlers[path] = grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return self._handlers[path]

    def _wrap(self, method: str, behaviour: Behaviour) -> Behaviour:
        begin = begin_of(behaviour)
        if begin is not None:
            return DeferredMethod(partial(self._outcomes.begin, method, begin))

        def counted(request: Any, context: grpc.ServicerContext) -> Any:
            return self._outcomes.of(method, behaviour, request, context).answer(context)

        return counted
