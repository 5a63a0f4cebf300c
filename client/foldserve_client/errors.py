"""The exceptions of the client, one for each gRPC status code that a foldserve server answers with.

ClientError              base, and any code not below (such as PERMISSION_DENIED)
├── InvalidArgument      a tensor, parameter or shape that the model does not take
├── NotFound             no such model or version
├── Unavailable          the server cannot be reached, or the model is not ready
├── ResourceExhausted    the model has as many requests waiting as it may have
├── DeadlineExceeded     the timeout passed before the answer was there
├── FailedPrecondition   the model cannot be served
├── Unimplemented        a part of the protocol that the server, or this client, does not offer
└── Internal             the runtime failed, or the answer does not make sense
"""

from typing import ClassVar

import grpc


class ClientError(Exception):
    """Base of all errors of the client: a gRPC status code and a text that says what was wrong."""

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, details: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(details)
        self.code = code or self.default_code
        self.details = details

    def __str__(self) -> str:
        """The code's name and the details."""
        return f"{self.code.name}: {self.details}"


class InvalidArgument(ClientError):
    """A tensor, parameter or shape that the model does not take; found here before sending where possible."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ClientError):
    """The server has no such model, or the model has no such version."""

    default_code = grpc.StatusCode.NOT_FOUND


class Unavailable(ClientError):
    """The server cannot be reached, is stopping, or the model is not ready."""

    default_code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(ClientError):
    """The model has as many requests waiting as it may have, or a message is larger than the server takes."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(ClientError):
    """The timeout passed before the answer was there."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class FailedPrecondition(ClientError):
    """The model cannot be served."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class Unimplemented(ClientError):
    """A part of the protocol that the server, or this client as it is installed, does not offer."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class Internal(ClientError):
    """The runtime failed on a well-formed request, or the server's answer does not make sense."""

    default_code = grpc.StatusCode.INTERNAL


_BY_CODE = {error.default_code: error for error in ClientError.__subclasses__()}


def from_status(code: grpc.StatusCode, details: str | None) -> ClientError:
    """The exception for a status that gRPC reported."""
    return _BY_CODE.get(code, ClientError)(details or "the server gave no details", code)
