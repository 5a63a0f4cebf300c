"""Exchanges and the steps that they are made of.

An exchange is a generator: it yields the steps to take, is sent what they gave (or thrown the errors) and
returns the result. The sync and the asyncio client differ only in how they take the steps.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    import grpc
    from foldserve_proto import grpc_service_pb2 as pb

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stubs:
    """The stubs of both services on one channel."""

    inference: GRPCInferenceServiceStub
    fold: FoldServiceStub


Method: TypeAlias = "Callable[[Stubs], grpc.UnaryUnaryMultiCallable[Request, Response]]"
"""Finds the method among the stubs."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Request, Response]):
    """One unary call; ``yield from`` it in an exchange for its response."""

    method: "Method[Request, Response]"
    request: Request

    def __iter__(self) -> "Generator[Call[Request, Response], Response, Response]":
        """Ask for this call to be made."""
        return (yield self)


@dataclass(frozen=True, slots=True)
class Pause:
    """Doing nothing for a while; ``yield from`` it for whether there was time for that."""

    seconds: float

    def __iter__(self) -> "Generator[Pause, bool, bool]":
        """Ask for this pause to be made."""
        return (yield self)


@dataclass(frozen=True, slots=True)
class Together(Generic[Result]):
    """Exchanges side by side; ``yield from`` it for their results in order, or the first error."""

    exchanges: "Sequence[Exchange[Result]]"

    def __iter__(self) -> "Generator[Together[Result], list[Result], list[Result]]":
        """Ask for these exchanges to be carried out."""
        return (yield self)


MODEL_INFER: "Method[pb.ModelInferRequest, pb.ModelInferResponse]" = attrgetter("inference.ModelInfer")

Step: TypeAlias = Call[Any, Any] | Pause | Together[Any]
Exchange: TypeAlias = Generator[Step, Any, Result]

AT_ONCE = 8
"""How many exchanges of a :class:`Together` run at the same time."""
