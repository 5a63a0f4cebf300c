"""``inference.GRPCInferenceService``: KServe V2 with Triton's extensions, put together from its parts."""

from foldserve.observability.inference import RequestCollector
from foldserve.observability.tracing import Tracer
from foldserve.rpc.inference import InferenceMethods
from foldserve.rpc.log_settings import LogMethods
from foldserve.rpc.metadata import MetadataMethods
from foldserve.rpc.outcome import Outcomes
from foldserve.rpc.repository import RepositoryMethods
from foldserve.rpc.shared_memory import SharedMemoryMethods
from foldserve.rpc.stream import StreamMethods
from foldserve.rpc.trace_settings import TraceMethods
from foldserve.serving.data_plane import DataPlane
from foldserve.serving.manager import ModelManager
from foldserve.serving.model_control import ModelController
from foldserve.serving.shared_memory import SharedMemory
from foldserve.settings import ServerSettings


class InferenceServicer(
    InferenceMethods,
    StreamMethods,
    MetadataMethods,
    RepositoryMethods,
    SharedMemoryMethods,
    LogMethods,
    TraceMethods,
):
    """Every method of the service; one that no part offers is answered UNIMPLEMENTED."""

    def __init__(
        self,
        settings: ServerSettings,
        manager: ModelManager,
        controller: ModelController,
        requests: RequestCollector,
        outcomes: Outcomes,
    ) -> None:
        shared_memory = SharedMemory(enabled=settings.shared_memory, most_bytes=settings.max_message_bytes)
        tracer = Tracer(settings.trace_file)
        InferenceMethods.__init__(
            self, DataPlane(manager), shared_memory, tracer, has_spans=settings.otlp_endpoint is not None
        )
        StreamMethods.__init__(
            self,
            self.start,
            outcomes,
            max_streams=settings.max_streams,
            max_requests=settings.max_stream_requests,
        )
        MetadataMethods.__init__(self, settings, manager, requests)
        SharedMemoryMethods.__init__(self, shared_memory)
        TraceMethods.__init__(self, tracer, lambda model: manager.labels(model, "")[0] != "")
        RepositoryMethods.__init__(self, controller)
