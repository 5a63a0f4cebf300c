"""``inference.GRPCInferenceService``: KServe V2 with Triton's extensions, put together from its parts."""

from foldserve.observability.inference import RequestCollector
from foldserve.rpc.inference import InferenceMethods
from foldserve.rpc.metadata import MetadataMethods
from foldserve.rpc.outcome import Outcomes
from foldserve.rpc.repository import RepositoryMethods
from foldserve.rpc.settings_control import SettingsMethods
from foldserve.rpc.shared_memory import SharedMemoryMethods
from foldserve.rpc.stream import StreamMethods
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
    SettingsMethods,
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
        shared_memory = SharedMemory(enabled=settings.shared_memory)
        InferenceMethods.__init__(self, DataPlane(manager), shared_memory)
        StreamMethods.__init__(
            self,
            self.start,
            outcomes,
            max_streams=settings.max_streams,
            max_requests=settings.max_stream_requests,
        )
        MetadataMethods.__init__(self, manager, requests, shared_memory=shared_memory.enabled)
        SharedMemoryMethods.__init__(self, shared_memory)
        RepositoryMethods.__init__(self, controller)
