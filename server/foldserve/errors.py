"""The exceptions of foldserve and the gRPC status each of them becomes.

    FoldserveError
    ├── ConfigurationError      settings or environment that cannot work
    ├── Unauthenticated         a call without a token that this server knows
    ├── PermissionDenied        a call for which the caller, or the port it came in by, has no right
    ├── InvalidRequest          a tensor, parameter or shape that the model does not take
    ├── ModelNotFound           no such model or version
    ├── ModelNotReady           known, but not serving (loading, failed, draining) or the server stops
    ├── RegionNotFound          no shared memory region is registered under that name
    ├── AlreadyRegistered       a name that is taken
    ├── LimitReached            more streams or shared memory regions than the server may have
    ├── QueueFull               more work than the model may have waiting
    ├── DeadlineExpired         the caller's time ran out before the answer was there
    ├── RequestCancelled        the caller went away before the answer was there
    ├── ExecutionFailed         the runtime failed on a well-formed request
    │   └── InputRefused        the model does not take a tensor of this size
    ├── NotSupported            part of the protocol that this server does not offer
    └── LoadFailed              the model cannot be served
        ├── UnsupportedModel    a file kind or graph that foldserve does not take
        ├── InvalidModel        a damaged or numerically broken model
        ├── ImportFailed        a .pt2 program that could not be turned into ONNX
        └── ProviderUnavailable the requested execution provider does not run here

Every message says what was wrong, where, and what to do. This module is a leaf: it imports nothing, and
names the status codes by their canonical names so that only ``rpc`` needs gRPC.
"""


class FoldserveError(Exception):
    """Base of everything that foldserve raises on purpose."""


class ConfigurationError(FoldserveError):
    """Settings or an environment with which the server cannot start."""


class Unauthenticated(FoldserveError):
    """A call without a token, or with one that nobody here was given."""


class PermissionDenied(FoldserveError):
    """A call that this caller may not make, or not by this port; the text names what would allow it."""


class InvalidRequest(FoldserveError):
    """A request that does not fit the model; the text names the tensor and what was expected."""


class ModelNotFound(FoldserveError):
    """The repository has no such model, or the model has no such version."""


class ModelNotReady(FoldserveError):
    """The model is known but does not serve: it loads, failed to load or is being unloaded."""


class RegionNotFound(FoldserveError):
    """No shared memory region is registered under that name."""


class AlreadyRegistered(FoldserveError):
    """A shared memory region of that name is registered already."""


class LimitReached(FoldserveError):
    """The server has as many streams or shared memory regions as it may have."""


class QueueFull(FoldserveError):
    """The model has as many requests waiting as it may have."""

    def __init__(self, text: str, retry_after_s: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """When it is worth trying again, in seconds."""


class DeadlineExpired(FoldserveError):
    """The caller's deadline passed before the answer was there."""


class RequestCancelled(FoldserveError):
    """The caller went away before the answer was there."""


class ExecutionFailed(FoldserveError):
    """The runtime failed while executing a well-formed request."""


class InputRefused(ExecutionFailed):
    """The runtime does not take the inputs: a size, say, that leaves a convolution nothing to slide over."""


class NotSupported(FoldserveError):
    """A part of the protocol that this server does not offer."""


class LoadFailed(FoldserveError):
    """A model that cannot be served; the base of the reasons below."""


class UnsupportedModel(LoadFailed):
    """A file kind or graph that foldserve does not take; the text says how to export it."""


class InvalidModel(LoadFailed):
    """A damaged model, or one whose parameters make no sense (NaN, infinite, variance + epsilon <= 0)."""


class ImportFailed(LoadFailed):
    """A ``.pt2`` program that could not be turned into ONNX."""


class ProviderUnavailable(LoadFailed):
    """The execution provider that was asked for does not run on this machine."""


STATUS_CODE: dict[type[FoldserveError], str] = {
    FoldserveError: "INTERNAL",
    ConfigurationError: "FAILED_PRECONDITION",
    Unauthenticated: "UNAUTHENTICATED",
    PermissionDenied: "PERMISSION_DENIED",
    InvalidRequest: "INVALID_ARGUMENT",
    ModelNotFound: "NOT_FOUND",
    ModelNotReady: "UNAVAILABLE",
    RegionNotFound: "NOT_FOUND",
    AlreadyRegistered: "ALREADY_EXISTS",
    LimitReached: "RESOURCE_EXHAUSTED",
    QueueFull: "RESOURCE_EXHAUSTED",
    DeadlineExpired: "DEADLINE_EXCEEDED",
    RequestCancelled: "CANCELLED",
    ExecutionFailed: "INTERNAL",
    InputRefused: "INVALID_ARGUMENT",
    NotSupported: "UNIMPLEMENTED",
    LoadFailed: "FAILED_PRECONDITION",
    UnsupportedModel: "FAILED_PRECONDITION",
    InvalidModel: "FAILED_PRECONDITION",
    ImportFailed: "FAILED_PRECONDITION",
    ProviderUnavailable: "FAILED_PRECONDITION",
}
"""Canonical gRPC status code name of each exception type; complete, checked by a test."""


def status_code(error: BaseException) -> str:
    """Canonical gRPC status code name for an exception; ``INTERNAL`` for anything not ours."""
    return STATUS_CODE[type(error)] if isinstance(error, FoldserveError) else "INTERNAL"
