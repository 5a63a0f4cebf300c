"""What becomes of each field of Triton's ModelConfig: one decision for every field that there is.

A path names a field, or everything below it: a message without a decision of its own has one for each of its
fields. ``*`` stands for the keys of ``parameters`` that have no decision of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from foldserve_proto import model_config_pb2 as pb
from google.protobuf.message import Message

from foldserve.errors import ConfigurationError

PARAMETERS = "parameters"


class Fate(StrEnum):
    """What a field leads to when it is given."""

    HONOURED = "honoured"
    NO_EFFECT = "no effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Decision:
    """The fate of a field: what it becomes here, or why it does nothing, or what to do instead."""

    fate: Fate
    note: str


def _honoured(note: str) -> Decision:
    return Decision(Fate.HONOURED, note)


def _no_effect(note: str) -> Decision:
    return Decision(Fate.NO_EFFECT, note)


def _refused(note: str) -> Decision:
    return Decision(Fate.REFUSED, note)


_ENGINE = "the engine and its optimisation are chosen by measurement and proven at load"
_SHAPE_TENSOR = _refused("belongs to TensorRT engines; remove it")

FIELDS: dict[str, Decision] = {
    "name": _honoured("must be the folder's name"),
    "platform": _honoured("must be `onnxruntime_onnx`"),
    "backend": _honoured("must be `onnxruntime`"),
    "runtime": _no_effect("there is one runtime"),
    "version_policy": _honoured("`versions`"),
    "max_batch_size": _honoured(
        "`max_batch_size`; where it is left out, declared `dims` hold the batch axis"
    ),
    "input.name": _honoured("`inputs`: checked against the model"),
    "input.data_type": _honoured("checked against the model"),
    "input.dims": _honoured("checked against the model"),
    "input.format": _no_effect("the model itself says what its axes are"),
    "input.reshape": _honoured("callers see `dims`, the model this"),
    "input.is_shape_tensor": _SHAPE_TENSOR,
    "input.allow_ragged_batch": _refused("requests share a batch only in the same shape; remove it"),
    "input.optional": _refused("every input must be sent; remove it"),
    "input.is_non_linear_format_io": _SHAPE_TENSOR,
    "output.name": _honoured("`outputs`: checked against the model"),
    "output.data_type": _honoured("checked against the model"),
    "output.dims": _honoured("checked against the model"),
    "output.reshape": _honoured("callers see `dims`, the model this"),
    "output.label_filename": _honoured("`labels`"),
    "output.is_shape_tensor": _SHAPE_TENSOR,
    "output.is_non_linear_format_io": _SHAPE_TENSOR,
    "batch_input": _refused("no inputs are made from a batch; give the model an input of its own"),
    "batch_output": _refused("outputs are cut by rows; give the model outputs with a batch axis"),
    "optimization.graph": _no_effect(_ENGINE),
    "optimization.priority": _no_effect("models do not compete by priority"),
    "optimization.cuda": _no_effect("CUDA graphs are not used"),
    "optimization.execution_accelerators": _no_effect(_ENGINE),
    "optimization.input_pinned_memory": _no_effect("the runtime manages its own buffers"),
    "optimization.output_pinned_memory": _no_effect("the runtime manages its own buffers"),
    "optimization.gather_kernel_buffer_threshold": _no_effect("inputs are written into the batch once"),
    "optimization.eager_batching": _no_effect("batches form while the engine is busy anyway"),
    "dynamic_batching.preferred_batch_size": _honoured("`batching.preferred_batch_sizes`"),
    "dynamic_batching.max_queue_delay_microseconds": _honoured("`batching.max_queue_delay_us`"),
    "dynamic_batching.preserve_ordering": _no_effect("answers on one stream may overtake each other"),
    "dynamic_batching.priority_levels": _honoured("`batching.priority_levels`"),
    "dynamic_batching.default_priority_level": _honoured("`batching.default_priority_level`"),
    "dynamic_batching.default_queue_policy": _honoured("`batching.queue_policy`"),
    "dynamic_batching.priority_queue_policy": _honoured("`batching.priority_queue_policies`"),
    "sequence_batching": _refused("no state is kept between requests; send each sequence whole"),
    "ensemble_scheduling": _refused("models are not chained; export the chain as one ONNX model"),
    "instance_group.name": _no_effect("instances have no names"),
    "instance_group.kind": _honoured("`provider`; one kind for all groups, not `KIND_MODEL`"),
    "instance_group.count": _honoured("`instances`, added up over the groups"),
    "instance_group.rate_limiter": _no_effect("instances hold no shared resources"),
    "instance_group.gpus": _no_effect("the first visible GPU is used; choose it with CUDA_VISIBLE_DEVICES"),
    "instance_group.secondary_devices": _refused("only CPU and CUDA devices are used; remove it"),
    "instance_group.profile": _no_effect("belongs to TensorRT engines"),
    "instance_group.passive": _refused("every instance answers requests; remove the group"),
    "instance_group.host_policy": _no_effect("instances are not bound to a part of the host"),
    "default_model_filename": _honoured("`file`; must end in `.onnx` or `.pt2`"),
    "cc_model_filenames": _no_effect("one file serves on every device"),
    "metric_tags": _no_effect("metrics carry model and version only"),
    "parameters.intra_op_thread_count": _honoured("`intra_op_threads`"),
    "parameters.*": _no_effect("the runtime's other options are chosen at load"),
    "model_warmup": _no_effect("every model is warmed with the inputs of its proof"),
    "model_operations": _refused("no code is loaded from a repository; export with standard operators"),
    "model_transaction_policy.decoupled": _refused("each request has one answer; remove it"),
    "model_repository_agents": _refused("no agents run on a repository; do their work beforehand"),
    "response_cache": _no_effect("every request is computed"),
    "model_metrics": _no_effect("the histograms' buckets are fixed"),
}
"""The decision on each field of ``inference.ModelConfig``, by its path."""


def check_fields(config: pb.ModelConfig) -> dict[str, Decision]:
    """The given fields that have no effect, by path; raises :class:`ConfigurationError` for refused ones.

    Given is what differs from its default, and a message even when it is empty.
    """
    given = dict(_decisions(config))
    refused = [
        f"{path} is not supported: {one.note}" for path, one in given.items() if one.fate is Fate.REFUSED
    ]
    if refused:
        raise ConfigurationError("; ".join(refused))
    return {path: decision for path, decision in given.items() if decision.fate is Fate.NO_EFFECT}


def _decisions(message: Message, prefix: str = "") -> Iterator[tuple[str, Decision]]:
    for field, value in message.ListFields():
        path = prefix + field.name
        if path in FIELDS:
            yield path, FIELDS[path]
        elif path == PARAMETERS:
            for key in value:
                yield f"{path}.{key}", FIELDS.get(f"{path}.{key}", FIELDS[f"{path}.*"])
        else:
            for part in [value] if isinstance(value, Message) else value:
                yield from _decisions(part, f"{path}.")
