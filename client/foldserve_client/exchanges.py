"""What the clients ask a server about itself and its models, and what they tell it to do."""

import json
from collections.abc import Mapping
from typing import Any

from foldserve_proto import fold_service_pb2 as fold_pb
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.model_config_pb2 import ModelConfig

from foldserve_client.steps import Call, Exchange


def live() -> Exchange[bool]:
    """Whether the server is up."""
    response = yield from Call(lambda stubs: stubs.inference.ServerLive, pb.ServerLiveRequest())
    return response.live


def ready(model: str | None, version: str) -> Exchange[bool]:
    """Whether a model, or the server if None, takes requests."""
    if model is None:
        server = yield from Call(lambda stubs: stubs.inference.ServerReady, pb.ServerReadyRequest())
        return server.ready
    request = pb.ModelReadyRequest(name=model, version=version)
    response = yield from Call(lambda stubs: stubs.inference.ModelReady, request)
    return response.ready


def server_metadata() -> Exchange[pb.ServerMetadataResponse]:
    """The server's name, version and extensions."""
    return (yield from Call(lambda stubs: stubs.inference.ServerMetadata, pb.ServerMetadataRequest()))


def model_config(model: str, version: str) -> Exchange[ModelConfig]:
    """What a model runs with, in Triton's form."""
    request = pb.ModelConfigRequest(name=model, version=version)
    response = yield from Call(lambda stubs: stubs.inference.ModelConfig, request)
    return response.config


def statistics(model: str | None, version: str) -> Exchange[pb.ModelStatisticsResponse]:
    """Counts and durations of a model, or of all models if None."""
    request = pb.ModelStatisticsRequest(name=model or "", version=version)
    return (yield from Call(lambda stubs: stubs.inference.ModelStatistics, request))


def repository_index(repository: str) -> Exchange[pb.RepositoryIndexResponse]:
    """Every model version that the server knows, its state and why it is not ready."""
    request = pb.RepositoryIndexRequest(repository_name=repository)
    return (yield from Call(lambda stubs: stubs.inference.RepositoryIndex, request))


def load_model(model: str, config: Mapping[str, Any] | None, files: Mapping[str, bytes]) -> Exchange[None]:
    """Load a model, or load it again."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    for path, content in files.items():
        request.parameters[f"file:{path}"].bytes_param = content
    if config is not None or files:  # the protocol wants a configuration with files, if an empty one
        request.parameters["config"].string_param = json.dumps(config or {})
    yield from Call(lambda stubs: stubs.inference.RepositoryModelLoad, request)


def unload_model(model: str) -> Exchange[None]:
    """Take a model out of service."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    yield from Call(lambda stubs: stubs.inference.RepositoryModelUnload, request)


def fold_report(model: str, version: str) -> Exchange[fold_pb.GetFoldReportResponse]:
    """What folding did to a model."""
    request = fold_pb.GetFoldReportRequest(name=model, version=version)
    return (yield from Call(lambda stubs: stubs.fold.GetFoldReport, request))


def parity(model: str, version: str) -> Exchange[fold_pb.GetParityResponse]:
    """How near the served model is to the original."""
    request = fold_pb.GetParityRequest(name=model, version=version)
    return (yield from Call(lambda stubs: stubs.fold.GetParity, request))


def drift(model: str, version: str) -> Exchange[fold_pb.GetDriftResponse]:
    """How far the inputs have drifted from those of training."""
    request = fold_pb.GetDriftRequest(name=model, version=version)
    return (yield from Call(lambda stubs: stubs.fold.GetDrift, request))


def reset_fallback(model: str, version: str) -> Exchange[fold_pb.ResetFallbackResponse]:
    """Let a model answer again in the form that it was loaded in."""
    request = fold_pb.ResetFallbackRequest(name=model, version=version)
    return (yield from Call(lambda stubs: stubs.fold.ResetFallback, request))
