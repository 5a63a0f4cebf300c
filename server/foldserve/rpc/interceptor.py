"""Around every RPC: our exceptions become status codes, and every outcome is counted."""

from typing import TYPE_CHECKING, Any

import grpc

from foldserve.rpc.outcome import Behaviour, Outcomes

if TYPE_CHECKING:
    from collections.abc import Callable


class OutcomeInterceptor(grpc.ServerInterceptor):
    """Wraps each unary method of our own services; health and reflection answer for themselves."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the method's handler if it is one of ours."""
        handler = continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None or handler.unary_unary is None or service.startswith("grpc."):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, behaviour: Behaviour) -> Behaviour:
        def counted(request: Any, context: grpc.ServicerContext) -> Any:
            outcome = self._outcomes.of(method, behaviour, request, context)
            if outcome.response is None:
                context.abort(grpc.StatusCode[outcome.code], outcome.text)
            return outcome.response

        return counted
