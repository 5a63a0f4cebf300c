"""Around every method of a servicer: who may call it, what becomes of our exceptions, counting outcomes."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import grpc

from foldserve.rpc.access import Access
from foldserve.rpc.calls import DeferredMethod, begin_of
from foldserve.rpc.guard import refused
from foldserve.rpc.outcome import Outcome, Outcomes

Servicer = TypeVar("Servicer")


def counted(servicer: Servicer, outcomes: Outcomes, access: Access) -> Servicer:
    """The same servicer to gRPC, with every unary method wrapped; streams settle each message themselves.

    An interceptor of gRPC's could do it, but is asked for every call anew.
    """
    return cast("Servicer", _Counted(servicer, outcomes, access))


class _Counted:
    def __init__(self, servicer: Any, outcomes: Outcomes, access: Access) -> None:
        self._servicer = servicer
        self._outcomes = outcomes
        self._access = access

    def __getattr__(self, method: str) -> Any:
        behaviour = getattr(self._servicer, method)
        if inspect.isgeneratorfunction(behaviour):
            return behaviour
        begin = begin_of(behaviour)
        if begin is not None:
            return DeferredMethod(partial(self._outcomes.begin, method, begin), self._refusal(method))
        behaviour = self._access.managing(method, behaviour)

        def settled(request: Any, context: grpc.ServicerContext) -> Any:
            return self._outcomes.of(method, behaviour, request, context).answer(context)

        return settled

    def _refusal(self, method: str) -> Callable[[Any], Outcome | None]:
        """Why a call of a deferred method is not even read: its caller may not, or there is no room."""
        outcomes, access, why = self._outcomes, self._access, self._servicer.refusal
        if access.is_open(method):
            return lambda _metadata: outcomes.refusal(method, why)
        return lambda metadata: refused(outcomes, access, method, metadata) or outcomes.refusal(method, why)
