"""Values of requests' and tensors' parameters, by type."""

from collections.abc import Mapping

from foldserve_proto import grpc_service_pb2 as pb

from foldserve.errors import InvalidRequest

Parameters = Mapping[str, pb.InferParameter]


def integer(parameters: Parameters, name: str, default: int) -> int:
    """A parameter that is a whole number; raises :class:`InvalidRequest` where it is of another kind."""
    if name not in parameters:
        return default
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequest(f"parameter '{name}' is a whole number: send int64_param, not {kind}")
    return int(getattr(parameters[name], kind))


def string(parameters: Parameters, name: str) -> str:
    """A parameter that is text, empty if absent; raises :class:`InvalidRequest` for another kind."""
    if name not in parameters:
        return ""
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidRequest(f"parameter '{name}' is text: send string_param, not {kind}")
    return parameters[name].string_param
