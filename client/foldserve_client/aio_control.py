"""What the asyncio client does beside inference, as ``control`` has it."""

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


class AsyncControl:
    """The part of a client that runs no model."""

    async def _run(self, exchange: Exchange[Result], timeout_s: float | None) -> Result:
        raise NotImplementedError

    async def live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the server is up; raises Unavailable where it cannot be reached.

        >>> await client.live()
        True
        """
        return await self._run(exchanges.live(), timeout_s)

    async def ready(
        self, model: str | None = None, *, version: str = "", timeout_s: float | None = None
    ) -> bool:
        """Whether a model, or the server as a whole, takes requests; False for an unknown model.

        >>> await client.ready(), await client.ready("digits"), await client.ready("another")
        (True, True, False)
        """
        return await self._run(exchanges.ready(model, version), timeout_s)

    async def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadataResponse:
        """The server's name, version and extensions.

        >>> (await client.server_metadata()).name
        'foldserve'
        """
        return await self._run(exchanges.server_metadata(), timeout_s)

    async def model_config(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> ModelConfig:
        """What a model runs with, as Triton's ModelConfig.

        >>> (await client.model_config("digits")).max_batch_size
        32
        """
        return await self._run(exchanges.model_config(model, version), timeout_s)

    async def statistics(
        self, model: str | None = None, *, version: str = "", timeout_s: float | None = None
    ) -> ModelStatisticsResponse:
        """Counts and durations of a model's requests, or of all models'.

        >>> (digits,) = (await client.statistics("digits")).model_stats
        >>> digits.version, digits.inference_stats.fail.count
        ('1', 0)
        """
        return await self._run(exchanges.statistics(model, version), timeout_s)

    async def repository_index(
        self, repository: str = "", *, timeout_s: float | None = None
    ) -> RepositoryIndexResponse:
        """Every model version that the server knows, its state and why it is not ready.

        >>> [model.state for model in (await client.repository_index()).models if model.name == "digits"]
        ['READY']
        """
        return await self._run(exchanges.repository_index(repository), timeout_s)

    async def load_model(
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
        >>> await manager.load_model("mine", config={"max_batch_size": 8}, files={"1/model.onnx": onnx})
        >>> await client.ready("mine")
        True
        """
        await self._run(exchanges.load_model(model, config, files or {}), timeout_s)

    async def unload_model(self, model: str, *, timeout_s: float | None = None) -> None:
        """Take a model out of service, without waiting for its requests in flight, which finish.

        >>> await manager.unload_model("digits_pt2")
        >>> await client.ready("digits_pt2")
        False
        """
        await self._run(exchanges.unload_model(model), timeout_s)

    async def fold_report(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> GetFoldReportResponse:
        """What folding did to a model, site by site.

        >>> [site.outcome for site in (await client.fold_report("digits")).report.sites]
        ['folded', 'folded', 'folded', 'folded']
        """
        return await self._run(exchanges.fold_report(model, version), timeout_s)

    async def parity(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> GetParityResponse:
        """How near the served model is to the original, as measured at load and since then.

        >>> (await client.parity("digits")).report.verdict
        'within_budget'
        """
        return await self._run(exchanges.parity(model, version), timeout_s)

    async def drift(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> GetDriftResponse:
        """How far sampled inputs have drifted from what the model's BatchNorms saw in training.

        >>> (await client.drift("digits")).drift.window_rows
        256
        """
        return await self._run(exchanges.drift(model, version), timeout_s)

    async def reset_fallback(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> ResetFallbackResponse:
        """Let a model that fell back to its unfolded form answer again as it was loaded.

        >>> (await manager.reset_fallback("digits")).was_active
        False
        """
        return await self._run(exchanges.reset_fallback(model, version), timeout_s)
