"""What becomes of a request: our exceptions become status codes, and every outcome is counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from foldserve.errors import FoldserveError, status_code
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
        return Outcome(response, code, text[:MOST_TEXT])


def _model(request: Any) -> str:
    return getattr(request, "model_name", "") or getattr(request, "name", "")


def _version(request: Any) -> str:
    return getattr(request, "model_version", "") or getattr(request, "version", "")
