"""Who may call what, by token and by port.

A token gives its holder rights; where there is no token file, everybody has all of them. What changes the
server is answered on the management port alone, if there is one.
"""

from enum import StrEnum
from typing import Any, NoReturn

import grpc
from prometheus_client import Counter

from foldserve.errors import FoldserveError, PermissionDenied, Unauthenticated
from foldserve.observability.logging import get_logger
from foldserve.rpc.outcome import Behaviour, model_of
from foldserve.rpc.renewal import Renewed
from foldserve.rpc.rights import CHANGES, MANAGEMENT, needed
from foldserve.rpc.tokens import Holder, Metadata, Tokens, token_in
from foldserve.settings import Right

LONGEST_NAME = 200
"""Characters of a model's name that are written to the log."""

log = get_logger()


class Rejection(StrEnum):
    """Why a call was turned away; a metric's label."""

    MISSING_TOKEN = "missing_token"
    UNKNOWN_TOKEN = "unknown_token"
    MISSING_RIGHT = "missing_right"
    MANAGEMENT_PORT = "management_port"


class Access:
    """What callers may do by one port; ``elsewhere`` is where the server is managed, if not here."""

    def __init__(self, tokens: Renewed[Tokens] | None, elsewhere: str | None, rejected: Counter) -> None:
        self._tokens = tokens
        self._elsewhere = elsewhere
        self._rejected = {reason: rejected.labels(reason) for reason in Rejection}

    def is_open(self, method: str) -> bool:
        """Whether nobody is ever turned away from a method here."""
        rights = needed(method)
        return not rights or (self._tokens is None and not self._is_elsewhere(rights))

    def refusal(self, method: str, metadata: Metadata | None) -> FoldserveError | None:
        """Why a call that came with this metadata may not be made; None if it may."""
        try:
            self._admit(method, needed(method), metadata)
        except FoldserveError as error:
            return error
        return None

    def managing(self, method: str, behaviour: Behaviour) -> Behaviour:
        """The same method, but who changes something by it must have the right to, and is written down."""
        changes = CHANGES.get(method)
        if changes is None:
            return behaviour

        def managed(request: Any, context: grpc.ServicerContext) -> Any:
            if changes(request):
                holder = self._admit(method, (MANAGEMENT,), context.invocation_metadata())
                log.info(
                    "management",
                    method=method,
                    model=model_of(request)[:LONGEST_NAME],
                    caller=context.peer(),
                    **_identity(holder, context),
                )
            return behaviour(request, context)

        return managed

    def _admit(self, method: str, rights: tuple[Right, ...], metadata: Metadata | None) -> Holder | None:
        """Whose token a call came with, if that matters; raises the reason why it may not be made."""
        holder = None
        if rights and self._tokens is not None:
            token = token_in(metadata)
            if token is None:
                text = f"{method} needs a token, in the metadata: 'authorization: Bearer <token>'"
                self._reject(Rejection.MISSING_TOKEN, Unauthenticated(text))
            holder = self._tokens.value.holder(token)
            if holder is None:
                self._reject(Rejection.UNKNOWN_TOKEN, Unauthenticated("this server does not know the token"))
            if not holder.rights.intersection(rights):
                text = f"{method} needs the right '{' or '.join(rights)}', which the token does not give"
                self._reject(Rejection.MISSING_RIGHT, PermissionDenied(text))
        if self._is_elsewhere(rights):
            text = (
                f"{method} is answered at {self._elsewhere}, where this server is managed; the setting "
                f"management_address names another place, or 'public' for this port"
            )
            self._reject(Rejection.MANAGEMENT_PORT, PermissionDenied(text))
        return holder

    def _is_elsewhere(self, rights: tuple[Right, ...]) -> bool:
        return self._elsewhere is not None and rights == (MANAGEMENT,)

    def _reject(self, reason: Rejection, error: FoldserveError) -> NoReturn:
        self._rejected[reason].inc()
        raise error


def _identity(holder: Holder | None, context: grpc.ServicerContext) -> dict[str, str]:
    """Who a caller is, by token and by certificate, where there are such."""
    certificate = b", ".join(context.peer_identities() or ()).decode(errors="replace")
    token = holder.name if holder is not None else ""
    return {key: value for key, value in (("token", token), ("certificate", certificate)) if value}
