"""Triton's ModelConfig: read from ``config.pbtxt`` or JSON, and turned into what a model's settings hold."""

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from foldserve_proto import model_config_pb2 as pb
from google.protobuf import json_format, text_format

from foldserve.errors import ConfigurationError, InvalidRequest, UnsupportedModel
from foldserve.settings import ProviderChoice, TimeoutAction

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
THREADS = "intra_op_thread_count"

PROVIDER = {
    pb.ModelInstanceGroup.KIND_GPU: ProviderChoice.CUDA,
    pb.ModelInstanceGroup.KIND_CPU: ProviderChoice.CPU,
}
TIMEOUT_ACTION = {
    pb.ModelQueuePolicy.REJECT: TimeoutAction.REJECT,
    pb.ModelQueuePolicy.DELAY: TimeoutAction.DELAY,
}

NAMES = {
    "versions": "version_policy",
    "file": "default_model_filename",
    "instances": "instance_group.count",
    "provider": "instance_group.kind",
    "intra_op_threads": f"parameters.{THREADS}",
    "inputs": "input",
    "outputs": "output",
    "labels": "output.label_filename",
    "batching.preferred_batch_sizes": "dynamic_batching.preferred_batch_size",
    "batching.max_queue_delay_us": "dynamic_batching.max_queue_delay_microseconds",
    "batching.queue_policy": "dynamic_batching.default_queue_policy",
    "batching.priority_queue_policies": "dynamic_batching.priority_queue_policy",
    "batching": "dynamic_batching",
}
"""What Triton calls the settings whose names differ from ours."""

NO_SUCH_FIELD = re.compile(r'(\d+:\d+) : Message type "([\w.]+)" has no field named "(\w+)"')


def parse_text(file: Path) -> pb.ModelConfig:
    """The configuration in a ``config.pbtxt``; raises :class:`ConfigurationError` with line and column."""
    try:
        return text_format.Parse(file.read_text(), pb.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigurationError(f"{file}, line and column {_unparsed(str(error))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from None


def _unparsed(text: str) -> str:
    """What is wrong with protobuf text, with the nearest name for a field that there is not."""
    unknown = NO_SUCH_FIELD.match(text)
    if not unknown:
        return f"{text.removesuffix('.')}; it must be Triton's ModelConfig as protobuf text"
    place, message, name = unknown.groups()
    known = pb.DESCRIPTOR.pool.FindMessageTypeByName(message).fields_by_name
    nearest = get_close_matches(name, known, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(known)}"
    return f"{place}: '{name}' is not a field of Triton's {message.rpartition('.')[2]}; {hint}"


def parse_json(text: str) -> pb.ModelConfig:
    """The configuration in a load request; raises :class:`InvalidRequest` for anything else."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
        return json_format.ParseDict(values, pb.ModelConfig())
    except (ValueError, RecursionError, json_format.ParseError) as error:
        raise InvalidRequest(
            f"the configuration to load with is not Triton's ModelConfig in JSON: {error}"
        ) from None


def values_of(config: pb.ModelConfig, model: str) -> dict[str, Any]:
    """What a configuration sets, by the names of :class:`~foldserve.settings.ModelSettings`.

    The fields without effect and the refused ones are :func:`~foldserve.serving.triton_fields.check_fields`'.
    Raises :class:`ConfigurationError` for a value that cannot be honoured, and :class:`UnsupportedModel` for
    a model of another backend.
    """
    _check_identity(config, model)
    values: dict[str, Any] = {}
    declares_shapes = any(one.dims for one in config.input) or any(one.dims for one in config.output)
    if config.max_batch_size or declares_shapes:
        values["max_batch_size"] = config.max_batch_size
    if config.HasField("version_policy"):
        values["versions"] = _versions(config.version_policy)
    if config.default_model_filename:
        values["file"] = config.default_model_filename
    if config.HasField("dynamic_batching"):
        values["batching"] = _batching(config.dynamic_batching)
    if config.input:
        values["inputs"] = [_declared(tensor, config.max_batch_size) for tensor in config.input]
    if config.output:
        values["outputs"] = [_declared(tensor, config.max_batch_size) for tensor in config.output]
        labels = {tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename}
        values |= {"labels": labels} if labels else {}
    return values | _instances(config.instance_group) | _threads(config)


def _check_identity(config: pb.ModelConfig, model: str) -> None:
    if config.name not in ("", model):
        raise ConfigurationError(
            f"name is '{config.name}', but the model's folder is '{model}'; give both one name"
        )
    for field, given, ours in (("platform", config.platform, PLATFORM), ("backend", config.backend, BACKEND)):
        if given not in ("", ours):
            raise UnsupportedModel(
                f"{field} is '{given}', but only '{ours}' is served; export the model to ONNX or .pt2"
            )


def _versions(policy: pb.ModelVersionPolicy) -> Any:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return "all"
        case "specific":
            if not policy.specific.versions:
                raise ConfigurationError("version_policy.specific names no version; name at least one")
            return list(policy.specific.versions)
        case _:
            return {"latest": policy.latest.num_versions or 1}


def _batching(given: pb.ModelDynamicBatching) -> dict[str, Any]:
    values: dict[str, Any] = {
        "max_queue_delay_us": given.max_queue_delay_microseconds,
        "preferred_batch_sizes": list(given.preferred_batch_size),
        "priority_levels": given.priority_levels,
        "default_priority_level": given.default_priority_level,
        "priority_queue_policies": {
            level: _queue_policy(policy) for level, policy in given.priority_queue_policy.items()
        },
    }
    if given.HasField("default_queue_policy"):
        values["queue_policy"] = _queue_policy(given.default_queue_policy)
    return values


def _queue_policy(given: pb.ModelQueuePolicy) -> dict[str, Any]:
    return {
        "timeout_action": TIMEOUT_ACTION[given.timeout_action],
        "default_timeout_us": given.default_timeout_microseconds,
        "allow_timeout_override": given.allow_timeout_override,
        "max_queue_size": given.max_queue_size,
    }


def _declared(tensor: pb.ModelInput | pb.ModelOutput, max_batch_size: int) -> dict[str, Any]:
    values: dict[str, Any] = {"name": tensor.name}
    if tensor.data_type != pb.TYPE_INVALID:
        name = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        values["datatype"] = "BYTES" if name == "STRING" else name
    if tensor.dims:
        values["shape"] = _with_batch(tensor.dims, max_batch_size)
    if tensor.HasField("reshape") and list(tensor.reshape.shape) != list(tensor.dims):
        values["reshape"] = _with_batch(tensor.reshape.shape, max_batch_size)
    return values


def _with_batch(dims: Iterable[int], max_batch_size: int) -> list[int]:
    return [-1, *dims] if max_batch_size else list(dims)


def _instances(groups: Iterable[pb.ModelInstanceGroup]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    kinds = {group.kind for group in groups} - {pb.ModelInstanceGroup.KIND_AUTO}
    if pb.ModelInstanceGroup.KIND_MODEL in kinds:
        raise ConfigurationError(
            "instance_group.kind KIND_MODEL leaves the device to the model; ask for GPU or CPU"
        )
    if len(kinds) > 1:
        raise ConfigurationError("instance_group has groups on GPU and on CPU; a model runs on one of them")
    if kinds:
        values["provider"] = PROVIDER[kinds.pop()]
    count = sum(group.count for group in groups)
    return values | ({"instances": count} if count else {})


def _threads(config: pb.ModelConfig) -> dict[str, Any]:
    """ONNX Runtime's own parameter; 0 leaves the number to whoever runs the model."""
    given = config.parameters.get(THREADS)
    text = given.string_value if given is not None else ""
    if not text.strip().isdecimal():
        if text:
            raise ConfigurationError(f"parameters.{THREADS} is '{text}'; give a number")
        return {}
    return {"intra_op_threads": int(text)} if int(text) else {}
