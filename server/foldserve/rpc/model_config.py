"""A servable as Triton's ModelConfig: what its clients and load generators look at before they send."""

from collections.abc import Iterable

from foldserve_proto import model_config_pb2 as pb

from foldserve.rpc import codec
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.servable import Servable
from foldserve.serving.triton_config import BACKEND, PLATFORM, THREADS
from foldserve.settings import (
    Batching,
    DeclaredTensor,
    LatestVersions,
    ModelSettings,
    QueuePolicy,
    TimeoutAction,
)

TIMEOUT_ACTION = {
    TimeoutAction.REJECT: pb.ModelQueuePolicy.REJECT,
    TimeoutAction.DELAY: pb.ModelQueuePolicy.DELAY,
}


def model_config(servable: Servable) -> pb.ModelConfig:
    """What a servable runs with; where requests are batched, the dims leave the batch axis out."""
    settings, layout = servable.provenance.settings, servable.provenance.tuning.layout
    batches = servable.rows_of_a_run is not None
    config = pb.ModelConfig(
        name=servable.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=_version_policy(settings),
        max_batch_size=settings.max_batch_size if batches else 0,
        default_model_filename=settings.file or "model.onnx",
        dynamic_batching=_dynamic_batching(settings.batching) if batches else None,
    )
    kind = pb.ModelInstanceGroup.KIND_GPU if servable.provider == "cuda" else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(name=f"{servable.name}_0", kind=kind, count=layout.instances)
    config.parameters[THREADS].string_value = str(layout.threads)
    for spec in servable.inputs:
        config.input.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=_dims(spec, batches),
            reshape=_reshape(spec.name, settings.inputs, batches),
        )
    for spec in servable.outputs:
        label_filename = settings.labels.get(spec.name)
        config.output.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=_dims(spec, batches),
            label_filename=label_filename,
            reshape=_reshape(spec.name, settings.outputs, batches),
        )
    return config


def _version_policy(settings: ModelSettings) -> pb.ModelVersionPolicy:
    policy = pb.ModelVersionPolicy()
    if settings.versions == "all":
        policy.all.SetInParent()
    elif isinstance(settings.versions, LatestVersions):
        policy.latest.num_versions = settings.versions.latest
    else:
        policy.specific.versions.extend(settings.versions)
    return policy


def _dynamic_batching(batching: Batching) -> pb.ModelDynamicBatching:
    return pb.ModelDynamicBatching(
        preferred_batch_size=batching.preferred_batch_sizes,
        max_queue_delay_microseconds=batching.max_queue_delay_us,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_queue_policy=_queue_policy(batching.queue_policy),
        priority_queue_policy={
            level: _queue_policy(policy) for level, policy in batching.priority_queue_policies.items()
        },
    )


def _queue_policy(policy: QueuePolicy) -> pb.ModelQueuePolicy:
    return pb.ModelQueuePolicy(
        timeout_action=TIMEOUT_ACTION[policy.timeout_action],
        default_timeout_microseconds=policy.default_timeout_us,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _dims(spec: TensorSpec, batches: bool) -> list[int]:
    shape = codec.wire_shape(spec)
    return shape[1:] if batches else shape


def _reshape(name: str, declared: Iterable[DeclaredTensor], batches: bool) -> pb.ModelTensorReshape | None:
    """The sizes in the model itself, where the configuration offers callers others."""
    for tensor in declared:
        if tensor.name == name and tensor.reshape is not None:
            return pb.ModelTensorReshape(shape=tensor.reshape[1:] if batches else tensor.reshape)
    return None


def _data_type(spec: TensorSpec) -> "pb.DataType.ValueType":
    name = datatype_name(spec.dtype)
    return pb.DataType.Value(f"TYPE_{'STRING' if name == 'BYTES' else name}")
