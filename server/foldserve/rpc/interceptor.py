"""Around every RPC: our exceptions become status codes, and every outcome is counted."""

import time
from collections.abc import Callable
from typing import Any

import grpc

from foldserve.errors import FoldserveError, status_code
from foldserve.observability.inference import RequestCollector
from foldserve.observability.logging import get_logger

Behaviour = Callable[[Any, grpc.ServicerContext], Any]

MOST_TEXT = 1000
"""Characters of an error text: gRPC drops the whole answer when its metadata grows beyond 8 kB."""

log = get_logger()


class OutcomeInterceptor(grpc.ServerInterceptor):
    """Wraps each unary method of our own services; health and reflection answer for themselves.

    ``labels`` returns the model and version labels of a request: only names that the server knows become
    labels, so that callers cannot make up new ones.
    """

    def __init__(self, requests: RequestCollector, labels: Callable[[str, str], tuple[str, str]]) -> None:
        self._requests = requests
        self._labels = labels

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
            started = time.perf_counter()
            code, text = "OK", ""
            response = None
            try:
                response = behaviour(request, context)
            except FoldserveError as error:
                code, text = status_code(error), str(error)
            except NotImplementedError:
                code, text = "UNIMPLEMENTED", f"{method} is not offered by this server"
            except Exception:
                log.exception("internal error", method=method)
                code, text = "INTERNAL", f"{method} failed inside the server; its log has the details"
            if response is not None and not context.is_active():
                code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
            model, version = self._labels(_model(request), _version(request))
            self._requests.record_request(model, version, method, code, time.perf_counter() - started)
            if response is None:
                context.abort(grpc.StatusCode[code], text[:MOST_TEXT])
            return response

        return counted


def _model(request: Any) -> str:
    return getattr(request, "model_name", "") or getattr(request, "name", "")


def _version(request: Any) -> str:
    return getattr(request, "model_version", "") or getattr(request, "version", "")
