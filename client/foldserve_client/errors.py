"""The exceptions of the client, one for each gRPC status code that a foldserve server answers with.

ClientError              base, and any code not below
├── InvalidArgument      a tensor, parameter or shape that the model does not take
├── NotFound             no such model, version or shared memory region
├── AlreadyExists        a name that is taken
├── Unavailable          the server cannot be reached or is stopping, or the model is not ready
├── ResourceExhausted    the model has as many requests waiting as it may have
├── DeadlineExceeded     the timeout passed before the answer was there
├── Cancelled            the request was given up before the answer was there
├── FailedPrecondition   the model cannot be served
├── Unauthenticated      the server wants a token, or does not know this one
├── PermissionDenied     the token has not the right, or the address is not the one for it
├── Unimplemented        a part of the protocol that the server, or this client, does not offer
└── Internal             the runtime failed, or the answer does not make sense
"""

from typing import ClassVar

import grpc

CLOSED = "the client is closed"
"""The text of the errors of a client that is."""


class ClientError(Exception):
    """Base of all errors of the client: a gRPC status code and a text that says what was wrong.

    >>> try:
    ...     client.infer("digits", images.astype("float64"))
    ... except ClientError as error:
    ...     print(error.code.name, error.details)
    INVALID_ARGUMENT input 'images' (FP32 [-1, 1, 8, 8]): got an array of float64; convert it with ...
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        details: str,
        code: grpc.StatusCode | None = None,
        *,
        model: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(details)
        self.code = code or self.default_code
        self.details = details
        self.model = model
        """The model that was asked for; empty where the request was about none."""

        self.request_id = request_id
        """The request's id, as the server's log has it; empty where it had none."""

        self.retry_after_s = retry_after_s
        """In how many seconds the server thinks another try worth while; None where it does not say."""

    def __str__(self) -> str:
        """The code's name, the details, and the request's id if it had one."""
        request = f" (request '{self.request_id}')" if self.request_id else ""
        return f"{self.code.name}: {self.details}{request}"


class InvalidArgument(ClientError):
    """A tensor, parameter or shape that the model does not take; found here before sending where possible."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ClientError):
    """The server has no such model or shared memory region, or the model has no such version."""

    default_code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ClientError):
    """The name of a shared memory region is taken."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class Unavailable(ClientError):
    """The server cannot be reached, is stopping, or the model is not ready."""

    default_code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(ClientError):
    """The model has as many requests waiting as it may have, or a message is larger than the server takes."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(ClientError):
    """The timeout passed before the answer was there."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(ClientError):
    """The request was given up before the answer was there; so are those of a client that is closed."""

    default_code = grpc.StatusCode.CANCELLED


class FailedPrecondition(ClientError):
    """The model cannot be served."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class Unauthenticated(ClientError):
    """The server wants a token and got none, or one that it does not know."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ClientError):
    """The token has not the right to this, or the server answers it at its management address only."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class Unimplemented(ClientError):
    """A part of the protocol that the server, or this client as it is installed, does not offer."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class Internal(ClientError):
    """The runtime failed on a well-formed request, or the server's answer does not make sense."""

    default_code = grpc.StatusCode.INTERNAL


_BY_CODE = {error.default_code: error for error in ClientError.__subclasses__()}


def from_status(
    code: grpc.StatusCode,
    details: str | None,
    *,
    model: str = "",
    request_id: str = "",
    retry_after_s: float | None = None,
) -> ClientError:
    """The exception for a status that gRPC reported."""
    return _BY_CODE.get(code, ClientError)(
        details or "the server gave no details",
        code,
        model=model,
        request_id=request_id,
        retry_after_s=retry_after_s,
    )
