"""What the sync client does beside inference: asking a server about itself and its models, managing it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from foldserve_proto.fold_service_pb2 import (
    GetDriftResponse,
    GetFoldReportResponse,
    GetParityResponse,
    ResetFallbackResponse,
)
from foldserve_proto.grpc_service_pb2 import (
    ModelStatisticsResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
)
from foldserve_proto.model_config_pb2 import ModelConfig

from foldserve_client import exchanges
from foldserve_client.steps import Exchange

Result = TypeVar("Result")


class Control:
    """The part of a client that runs no model."""

    def _run(self, exchange: Exchange[Result], timeout_s: float | None) -> Result:
        raise NotImplementedError

    def live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server is up; raises Unavailable where it cannot be reached.

        >>> client.live()
        True
        """
        return self._run(exchanges.live(), timeout_s)

    def ready(self, model: str | None = None, *, version: str = "", timeout_s: float | None = None) -> bool:
        """Whether a model, or the server as a whole, takes requests; False for an unknown model.

        >>> client.ready(), client.ready("digits"), client.ready("another")
        (True, True, False)
        """
        return self._run(exchanges.ready(model, version), timeout_s)

    def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadataResponse:
        """The server's name, version and extensions.

        >>> client.server_metadata().name
        'foldserve'
        """
        return self._run(exchanges.server_metadata(), timeout_s)

    def model_config(self, model: str, *, version: str = "", timeout_s: float | None = None) -> ModelConfig:
        """What a model runs with, as Triton's ModelConfig.

        >>> client.model_config("digits").max_batch_size
        32
        """
        return self._run(exchanges.model_config(model, version), timeout_s)

    def statistics(
        self, model: str | None = None, *, version: str = "", timeout_s: float | None = None
    ) -> ModelStatisticsResponse:
        """Counts and durations of a model's requests, or of all models'.

        >>> (digits,) = client.statistics("digits").model_stats
        >>> digits.version, digits.inference_stats.fail.count
        ('1', 0)
        """
        return self._run(exchanges.statistics(model, version), timeout_s)

    def repository_index(
        self, repository: str = "", *, timeout_s: float | None = None
    ) -> RepositoryIndexResponse:
        """Every model version that the server knows, its state and why it is not ready.

        >>> [model.state for model in client.repository_index().models if model.name == "digits"]
        ['READY']
        """
        return self._run(exchanges.repository_index(repository), timeout_s)

    def load_model(
        self,
        model: str,
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Load a model, or load it again, and return when it serves; that may take minutes.

        ``config`` (ModelConfig, as JSON has it) stands in for the model's ``config.pbtxt``, and ``files``, by
        their paths in the model's folder (``1/model.onnx``), for the whole folder. Raises FailedPrecondition
        where the model does not load, or the server is not in model control mode ``explicit``.

        This, :meth:`unload_model` and :meth:`reset_fallback` are for clients of the server's management
        address.

        >>> onnx = Path("examples/models/digits/1/model.onnx").read_bytes()
        >>> manager.load_model("mine", config={"max_batch_size": 8}, files={"1/model.onnx": onnx})
        >>> client.ready("mine")
        True
        """
        self._run(exchanges.load_model(model, config, files or {}), timeout_s)

    def unload_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Take a model out of service, without waiting for its requests in flight, which finish.

        >>> manager.unload_model("digits_pt2")
        >>> client.ready("digits_pt2")
        False
        """
        self._run(exchanges.unload_model(model), timeout_s)

    def fold_report(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> GetFoldReportResponse:
        """What folding did to a model, site by site.

        >>> [site.outcome for site in client.fold_report("digits").report.sites]
        ['folded', 'folded', 'folded', 'folded']
        """
        return self._run(exchanges.fold_report(model, version), timeout_s)

    def parity(self, model: str, *, version: str = "", timeout_s: float | None = None) -> GetParityResponse:
        """How near the served model is to the original, as measured at load and since then.

        >>> client.parity("digits").report.verdict
        'within_budget'
        """
        return self._run(exchanges.parity(model, version), timeout_s)

    def drift(self, model: str, *, version: str = "", timeout_s: float | None = None) -> GetDriftResponse:
        """How far sampled inputs have drifted from what the model's BatchNorms saw in training.

        >>> client.drift("digits").drift.window_rows
        256
        """
        return self._run(exchanges.drift(model, version), timeout_s)

    def reset_fallback(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> ResetFallbackResponse:
        """Let a model that fell back to its unfolded form answer again as it was loaded.

        >>> manager.reset_fallback("digits").was_active
        False
        """
        return self._run(exchanges.reset_fallback(model, version), timeout_s)
