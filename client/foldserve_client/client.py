"""The sync client."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from foldserve_proto.fold_service_pb2 import (
    GetDriftResponse,
    GetFoldReportResponse,
    GetParityResponse,
    ResetFallbackResponse,
)
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2 import (
    ModelMetadataResponse,
    ModelStatisticsResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
)
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from foldserve_proto.model_config_pb2 import ModelConfig

from foldserve_client.errors import from_status
from foldserve_client.exchanges import Exchange, Exchanges, Stubs
from foldserve_client.inference import InferResult, Inputs, Parameter
from foldserve_client.transport import CHANNEL_OPTIONS, DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Deadline

Result = TypeVar("Result")


class Client:
    """A connection to a foldserve server, which threads may share; a context manager.

    Every method raises a :class:`~foldserve_client.errors.ClientError` where the server refuses or cannot be
    reached. ``timeout`` is in seconds and covers the whole method; None in a method means the client's own,
    None in the client means none. An empty ``version`` leaves the choice to the server.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout: float | None = DEFAULT_TIMEOUT_S) -> None:
        """Connect to "host:port" with the first call; ``timeout`` is the default for every method."""
        self._channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self._stubs = Stubs(GRPCInferenceServiceStub(self._channel), FoldServiceStub(self._channel))
        self._exchanges = Exchanges()
        self._timeout = timeout

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
    ) -> InferResult:
        """Run a model once.

        ``inputs`` is one array for a model with one input, else arrays by name. Arrays must have the dtype
        that the model declares; lists and numbers are converted to it. ``outputs`` names the outputs to
        return, empty for all.
        """
        exchange = self._exchanges.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            request_id=request_id,
            parameters=parameters or {},
        )
        return self._run(exchange, timeout)

    def live(self, *, timeout: float | None = None) -> bool:
        """Whether the server is up; raises Unavailable where it cannot be reached."""
        return self._run(self._exchanges.live(), timeout)

    def ready(self, model: str | None = None, *, version: str = "", timeout: float | None = None) -> bool:
        """Whether a model, or the server as a whole, takes requests; False for an unknown model."""
        return self._run(self._exchanges.ready(model, version), timeout)

    def server_metadata(self, *, timeout: float | None = None) -> ServerMetadataResponse:
        """The server's name, version and extensions."""
        return self._run(self._exchanges.server_metadata(), timeout)

    def model_metadata(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ModelMetadataResponse:
        """A model's versions, inputs, outputs and properties."""
        return self._run(self._exchanges.model_metadata(model, version), timeout)

    def model_config(self, model: str, *, version: str = "", timeout: float | None = None) -> ModelConfig:
        """What a model runs with, as Triton's ModelConfig."""
        return self._run(self._exchanges.model_config(model, version), timeout)

    def statistics(
        self, model: str | None = None, *, version: str = "", timeout: float | None = None
    ) -> ModelStatisticsResponse:
        """Counts and durations of a model's requests, or of all models'."""
        return self._run(self._exchanges.statistics(model, version), timeout)

    def repository_index(
        self, repository: str = "", *, timeout: float | None = None
    ) -> RepositoryIndexResponse:
        """Every model version that the server knows, its state and why it is not ready."""
        return self._run(self._exchanges.repository_index(repository), timeout)

    def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Load a model, or load it again, and return when it serves; that may take minutes.

        ``config`` (ModelConfig, as JSON has it) stands in for the model's ``config.pbtxt``, and ``files``, by
        their paths in the model's folder (``1/model.onnx``), for the whole folder. Raises FailedPrecondition
        where the model does not load, or the server is not in model control mode ``explicit``.
        """
        self._run(self._exchanges.load_model(model, config, files or {}), timeout)

    def unload_model(self, model: str, *, timeout: float | None = None) -> None:
        """Take a model out of service, without waiting for its requests in flight, which finish."""
        self._run(self._exchanges.unload_model(model), timeout)

    def fold_report(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> GetFoldReportResponse:
        """What folding did to a model, site by site."""
        return self._run(self._exchanges.fold_report(model, version), timeout)

    def parity(self, model: str, *, version: str = "", timeout: float | None = None) -> GetParityResponse:
        """How near the served model is to the original, as measured at load and since then."""
        return self._run(self._exchanges.parity(model, version), timeout)

    def drift(self, model: str, *, version: str = "", timeout: float | None = None) -> GetDriftResponse:
        """How far sampled inputs have drifted from what the model's BatchNorms saw in training."""
        return self._run(self._exchanges.drift(model, version), timeout)

    def reset_fallback(
        self, model: str, *, version: str = "", timeout: float | None = None
    ) -> ResetFallbackResponse:
        """Let a model that fell back to its unfolded form answer again as it was loaded."""
        return self._run(self._exchanges.reset_fallback(model, version), timeout)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[Result], timeout: float | None) -> Result:
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        try:
            call = next(exchange)
            while True:
                try:
                    response = call.method(self._stubs)(call.request, timeout=deadline.remaining())
                except grpc.RpcError as error:
                    call = exchange.throw(from_status(error.code(), error.details()))
                else:
                    call = exchange.send(response)
        except StopIteration as finished:
            result: Result = finished.value
            return result
