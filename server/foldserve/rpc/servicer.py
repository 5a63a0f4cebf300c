"""``inference.GRPCInferenceService``: KServe V2 with Triton's extensions, put together from its parts."""

from foldserve.observability.inference import RequestCollector
from foldserve.rpc.inference import InferenceMethods
from foldserve.rpc.metadata import MetadataMethods
from foldserve.rpc.repository import RepositoryMethods
from foldserve.serving.data_plane import DataPlane
from foldserve.serving.manager import ModelManager


class InferenceServicer(InferenceMethods, MetadataMethods, RepositoryMethods):
    """Every method of the service; one that no part offers is answered UNIMPLEMENTED."""

    def __init__(self, manager: ModelManager, requests: RequestCollector) -> None:
        InferenceMethods.__init__(self, DataPlane(manager))
        MetadataMethods.__init__(self, manager, requests)
        RepositoryMethods.__init__(self, manager)
