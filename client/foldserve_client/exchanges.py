"""What the clients ask a server and what they make of the answers, whatever carries the calls.

Each exchange is a generator: it yields the calls to make, is sent their responses (or thrown the errors) and
returns the result. The sync and the asyncio client differ only in how they drive it.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from foldserve_proto.model_config_pb2 import ModelConfig

from foldserve_client.errors import InvalidArgument, NotFound
from foldserve_client.inference import InferResult, Inputs, Parameter, infer_request

if TYPE_CHECKING:
    import grpc

Request = TypeVar("Request")
Response = TypeVar("Response")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stubs:
    """The stubs of both services on one channel."""

    inference: GRPCInferenceServiceStub
    fold: FoldServiceStub


@dataclass(frozen=True)
class Call(Generic[Request, Response]):
    """One unary call; ``yield from`` it in an exchange for its response."""

    method: "Callable[[Stubs], grpc.UnaryUnaryMultiCallable[Request, Response]]"
    request: Request

    def __iter__(self) -> "Generator[Call[Request, Response], Response, Response]":
        """Ask for this call to be made."""
        return (yield self)


Exchange: TypeAlias = Generator[Call[Any, Any], Any, Result]


class Exchanges:
    """The exchanges of one client, which share what it knows of the models' metadata."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], pb.ModelMetadataResponse] = {}

    def live(self) -> Exchange[bool]:
        """Whether the server is up."""
        response = yield from Call(lambda stubs: stubs.inference.ServerLive, pb.ServerLiveRequest())
        return response.live

    def ready(self, model: str | None, version: str) -> Exchange[bool]:
        """Whether a model, or the server if None, takes requests."""
        if model is None:
            server = yield from Call(lambda stubs: stubs.inference.ServerReady, pb.ServerReadyRequest())
            return server.ready
        request = pb.ModelReadyRequest(name=model, version=version)
        response = yield from Call(lambda stubs: stubs.inference.ModelReady, request)
        return response.ready

    def server_metadata(self) -> Exchange[pb.ServerMetadataResponse]:
        """The server's name, version and extensions."""
        return (yield from Call(lambda stubs: stubs.inference.ServerMetadata, pb.ServerMetadataRequest()))

    def model_metadata(self, model: str, version: str) -> Exchange[pb.ModelMetadataResponse]:
        """A model's versions, inputs and outputs, fresh from the server."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        metadata = yield from Call(lambda stubs: stubs.inference.ModelMetadata, request)
        self._known[model, version] = metadata
        return metadata

    def model_config(self, model: str, version: str) -> Exchange[ModelConfig]:
        """What a model runs with, in Triton's form."""
        request = pb.ModelConfigRequest(name=model, version=version)
        response = yield from Call(lambda stubs: stubs.inference.ModelConfig, request)
        return response.config

    def statistics(self, model: str | None, version: str) -> Exchange[pb.ModelStatisticsResponse]:
        """Counts and durations of a model, or of all models if None."""
        request = pb.ModelStatisticsRequest(name=model or "", version=version)
        return (yield from Call(lambda stubs: stubs.inference.ModelStatistics, request))

    def repository_index(self, repository: str) -> Exchange[pb.RepositoryIndexResponse]:
        """Every model version that the server knows, its state and why it is not ready."""
        request = pb.RepositoryIndexRequest(repository_name=repository)
        return (yield from Call(lambda stubs: stubs.inference.RepositoryIndex, request))

    def load_model(
        self, model: str, config: Mapping[str, Any] | None, files: Mapping[str, bytes]
    ) -> Exchange[None]:
        """Load a model, or load it again."""
        request = pb.RepositoryModelLoadRequest(model_name=model)
        for path, content in files.items():
            request.parameters[f"file:{path}"].bytes_param = content
        if config is not None or files:  # the protocol wants a configuration with files, if an empty one
            request.parameters["config"].string_param = json.dumps(config or {})
        yield from Call(lambda stubs: stubs.inference.RepositoryModelLoad, request)

    def unload_model(self, model: str) -> Exchange[None]:
        """Take a model out of service."""
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        yield from Call(lambda stubs: stubs.inference.RepositoryModelUnload, request)

    def fold_report(self, model: str, version: str) -> Exchange[fold_pb.GetFoldReportResponse]:
        """What folding did to a model."""
        request = fold_pb.GetFoldReportRequest(name=model, version=version)
        return (yield from Call(lambda stubs: stubs.fold.GetFoldReport, request))

    def parity(self, model: str, version: str) -> Exchange[fold_pb.GetParityResponse]:
        """How near the served model is to the original."""
        request = fold_pb.GetParityRequest(name=model, version=version)
        return (yield from Call(lambda stubs: stubs.fold.GetParity, request))

    def drift(self, model: str, version: str) -> Exchange[fold_pb.GetDriftResponse]:
        """How far the inputs have drifted from those of training."""
        request = fold_pb.GetDriftRequest(name=model, version=version)
        return (yield from Call(lambda stubs: stubs.fold.GetDrift, request))

    def reset_fallback(self, model: str, version: str) -> Exchange[fold_pb.ResetFallbackResponse]:
        """Let a model answer again in the form that it was loaded in."""
        request = fold_pb.ResetFallbackRequest(name=model, version=version)
        return (yield from Call(lambda stubs: stubs.fold.ResetFallback, request))

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str,
        outputs: Sequence[str],
        request_id: str,
        parameters: Mapping[str, Parameter],
    ) -> Exchange[InferResult]:
        """Run a model once.

        The model may have been replaced since its metadata was read: a refusal, be it the server's or our
        own, stands only if fresh metadata says the same.
        """

        def ask(metadata: pb.ModelMetadataResponse) -> Exchange[InferResult]:
            request = infer_request(
                metadata,
                inputs,
                version=version,
                outputs=outputs,
                request_id=request_id,
                parameters=parameters,
            )
            return InferResult((yield from Call(lambda stubs: stubs.inference.ModelInfer, request)))

        known = self._known.get((model, version))
        if known is None:
            return (yield from ask((yield from self.model_metadata(model, version))))
        try:
            return (yield from ask(known))
        except (InvalidArgument, NotFound):
            fresh = yield from self.model_metadata(model, version)
            if fresh == known:
                raise
        return (yield from ask(fresh))
