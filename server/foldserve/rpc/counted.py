"""Around every method of a servicer: our exceptions become status codes, and every outcome is counted."""

import inspect
from functools import partial
from typing import Any, TypeVar, cast

import grpc

from foldserve.rpc.calls import DeferredMethod, begin_of
from foldserve.rpc.outcome import Outcomes

Servicer = TypeVar("Servicer")


def counted(servicer: Servicer, outcomes: Outcomes) -> Servicer:
    """The same servicer to gRPC, with every unary method wrapped; streams settle each message themselves.

    An interceptor of gRPC's could do it, but is asked for every call anew.
    """
    return cast("Servicer", _Counted(servicer, outcomes))


class _Counted:
    def __init__(self, servicer: Any, outcomes: Outcomes) -> None:
        self._servicer = servicer
        self._outcomes = outcomes

    def __getattr__(self, method: str) -> Any:
        behaviour = getattr(self._servicer, method)
        if inspect.isgeneratorfunction(behaviour):
            return behaviour
        begin = begin_of(behaviour)
        if begin is not None:
            refusal = partial(self._outcomes.refusal, method, self._servicer.refusal)
            return DeferredMethod(partial(self._outcomes.begin, method, begin), refusal)

        def settled(request: Any, context: grpc.ServicerContext) -> Any:
            return self._outcomes.of(method, behaviour, request, context).answer(context)

        return settled
